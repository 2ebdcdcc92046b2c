"""The stochastic Runge-Kutta method: its order, and one law for every amount of noise."""

from __future__ import annotations

import math

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.interpolate import CubicSpline

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.random import Around
from structdiff.samplers import Carry, PredictorCorrector
from structdiff.samplers.runge_kutta import Repeating, StochasticRungeKutta
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import (
    Addressed,
    ExactDenoiser,
    Impulses,
    NormalDenoiser,
    Silent,
    flow_map,
    walk,
)
from tests.samplers.test_order import moment_errors, slope


@pytest.fixture(autouse=True, scope="module")
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def method(eta: float, make=StochasticRungeKutta):
    return lambda d, g: make(d, g, eta=eta)


@pytest.mark.parametrize("schedule", [Linear(), Geometric(0.05, 1000.0)], ids=["vp", "ve"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_second_weak_order_on_normal_data(eta, schedule):
    """Mean and deviation, by exact recursion."""
    end = 0.05 if isinstance(schedule, Linear) else 0.2
    errors = moment_errors(method(eta), schedule, end, [128, 256])
    assert abs(slope(errors) - 2) < 0.2, errors
    assert errors[-1] < 2e-3


class Fresh(StochasticRungeKutta):
    """With new noise for the second half."""

    def prepare(self):
        super().prepare()
        self.random = self.random.source


def test_noise_that_is_not_the_same_costs_an_order():
    errors = moment_errors(method(1.0, Fresh), Linear(), 0.05, [128, 256])
    assert slope(errors) < 1.2


class Given(Around):
    """Normal numbers of one's choice."""

    def __init__(self, z):
        super().__init__(Silent())
        self.z = z

    def normal(self, shape, dtype, device):
        return self.z

    def scoped(self, **_):
        return self


NODES, MASSES = (torch.from_numpy(a) for a in hermegauss(24))


def expectation(sampler, grid, function, periodic=False):
    """E function(x at the last time but clean) by start, by recursion from the end."""
    bound = sampler.bind(Batch.of(grid.repeat_interleave(len(NODES), 0)), Silent())
    z = NODES.repeat(len(grid)).reshape(-1, *grid.shape[1:])
    if isinstance(sampler, StochasticRungeKutta):
        bound.random = Given(z)
    mass, value = MASSES / MASSES.sum(), function(grid.flatten())
    for i in reversed(range(bound.steps - 1)):
        end = bound.step(Carry({"x": bound.batch["x"]}), i).x["x"].flatten()
        if periodic:
            end = torch.remainder(end + math.pi, 2 * math.pi) - math.pi
        kind = "periodic" if periodic else "not-a-knot"
        spline = CubicSpline(grid.flatten().numpy(), value.numpy(), bc_type=kind)
        value = torch.from_numpy(spline(end.numpy())).reshape(len(grid), -1) @ mass
        if periodic:
            value[-1] = value[0]
    return value


@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_second_weak_order_on_a_mixture(eta):
    """Not linear in the noise: E cos(2 x) by quadrature of each step's noise, to rounding."""
    schedule = Linear()
    mean, std, share = (
        torch.tensor([-1.0, 0.8]),
        torch.tensor([0.5, 0.7]),
        torch.tensor([0.4, 0.6]),
    )
    denoiser = NormalDenoiser(Gaussian(schedule), mean, std, share)
    grid = torch.linspace(-8, 8, 801)

    def law(t):
        level = schedule(torch.tensor(t))
        spread = ((level.alpha * std) ** 2 + level.sigma**2).sqrt()
        each = torch.exp(-(((grid[:, None] - level.alpha * mean) / spread) ** 2) / 2) / spread
        p = each @ share
        return p / p.sum()

    errors = []
    for steps in (8, 16, 32):
        ladder = UniformLogSNR(schedule, steps + 1, start=0.6, end=0.1)
        sampler = StochasticRungeKutta(denoiser, ladder, eta=eta)
        value = expectation(sampler, grid, lambda x: torch.cos(2 * x))
        errors.append(abs(float(law(0.6) @ value - law(0.1) @ torch.cos(2 * grid))))
    assert abs(slope(errors) - 2) < 0.25, errors


def test_second_weak_order_on_a_circle():
    """Flat, so better than what is declared of manifolds."""
    schedule, points = Geometric(0.4, 4.0), torch.tensor([[-2.0], [0.3], [1.0]])
    weights = torch.tensor([0.2, 0.5, 0.3])
    process = Product({"x": Brownian(schedule, Torus(1))})
    denoiser = ExactDenoiser(process, Batch.of(points), weights)
    grid = torch.linspace(-math.pi, math.pi, 121)[:, None]

    def law(t):
        leaf = process.bind(Batch.of(grid))["x"]
        each = [leaf.log_prob(grid, p.expand_as(grid), torch.tensor(t)).exp() for p in points]
        p = weights @ torch.stack(each)
        p[-1] = 0
        return p / p.sum()

    errors = []
    for steps in (12, 24):
        ladder = UniformLogSNR(schedule, steps + 1, end=0.2)
        sampler = StochasticRungeKutta(denoiser, ladder)
        value = expectation(sampler, grid, torch.cos, periodic=True)
        errors.append(abs(float(law(1.0) @ value - law(0.2) @ torch.cos(grid.flatten()))))
    assert abs(slope(errors) - 2) < 0.3, errors
    assert sampler.order("manifold") == 1


@pytest.mark.parametrize("space", [Torus(2), SO3()], ids=["Torus2", "SO3"])
def test_second_order_of_the_flow_on_a_manifold(space):
    schedule = Geometric(0.5, 3.0)
    points, start = (space.uniform(3, Generator(i), torch.float64, "cpu") for i in (3, 4))
    denoiser = ExactDenoiser(Product({"x": Brownian(schedule, space)}), Batch.of(points))
    truth = flow_map(denoiser, schedule, start, 1.0, 0.0, space, steps=24)
    errors = []
    for steps in (16, 32):
        ladder = UniformLogSNR(schedule, steps + 1, end=0.0)
        end = walk(StochasticRungeKutta(denoiser, ladder, eta=0.0), {"x": start}, Silent())["x"]
        errors.append(float(space.norm2(space.log(truth, end)).sqrt().mean()))
    assert abs(slope(errors) - 2) < 0.3, errors
    assert StochasticRungeKutta(denoiser, ladder, eta=0.0).order("manifold") == 2


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_amount_of_noise_keeps_the_marginals_of_an_oracle(eta):
    """With one data point a step is exact, however long: the law is N(alpha x_0, sigma^2)."""
    schedule, point = Linear(), torch.tensor([0.8])
    denoiser = NormalDenoiser(Gaussian(schedule), point, torch.zeros(1))
    sampler = StochasticRungeKutta(denoiser, UniformTime(4, end=0.1), eta=eta)
    start, last = (schedule(t) for t in sampler.times[[0, -2]])
    x = (start.alpha * point).repeat(10)
    x[-1] += start.sigma
    y = walk(sampler, {"x": x}, Impulses())["x"]
    assert float(y[0]) == pytest.approx(float(last.alpha * point), abs=1e-12)
    assert float((y[1:] - y[0]).square().sum()) == pytest.approx(float(last.sigma**2), rel=1e-12)


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_steps_back_and_forth_are_the_equations_of_more_noise(share):
    """eta^2 = 1 + 2 d / h: e^{-eta^2 h} sigma_s / sigma_t of x_t is left, and the law is kept."""
    schedule, point = Linear(), torch.tensor([0.8])
    denoiser = NormalDenoiser(Gaussian(schedule), point, torch.zeros(1))
    grid = UniformLogSNR(schedule, 3, start=0.5, end=0.4)
    sampler = PredictorCorrector(StochasticRungeKutta(denoiser, grid), share=share)
    t, s = (schedule(time) for time in grid.times()[:2])
    x = (t.alpha * point).repeat(6)
    x[4] += 1.0
    x[5] += t.sigma
    bound = sampler.bind(Batch.of(x), Impulses())
    y = bound.step(Carry({"x": x}), 0).x["x"] - s.alpha * point
    h, d = s.clock - t.clock, schedule(bound.earlier[0]["x"]).clock - s.clock
    more = 1 + 2 * d / h
    assert float(more) > 1.5
    left = s.sigma / t.sigma * torch.exp(-more * h)
    assert float(y[4]) == pytest.approx(float(left), rel=1e-10)
    assert float(y[0]) == pytest.approx(0, abs=1e-12)
    assert float(y[[1, 2, 3, 5]].square().sum()) == pytest.approx(float(s.sigma**2), rel=1e-10)


def test_one_estimate_that_does_not_change_gives_ddpm():
    """The same kernel at eta = 1, and DDIM's at 0."""
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.tensor([0.4]), torch.zeros(1))
    x = {"x": torch.linspace(-2, 2, 9)}
    for eta, one in ((0.0, DDIM), (1.0, DDPM)):
        ends = [
            walk(make, x, Counter(3))["x"]
            for make in (
                StochasticRungeKutta(denoiser, UniformTime(7), eta=eta),
                one(denoiser, UniformTime(7)),
            )
        ]
        torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_without_noise_nothing_is_drawn():
    denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
    walk(StochasticRungeKutta(denoiser, UniformTime(5), eta=0.0), {"x": torch.ones(3)}, Silent())


def test_from_pure_noise_the_variance_of_the_first_step_is_right():
    """Where alpha is 0 the weights of one half are exact to order alpha^2."""
    schedule = Flow()
    denoiser = NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.ones(1))
    errors = []
    for gap in (0.1, 0.05):
        sampler = StochasticRungeKutta(denoiser, UniformTime(2, end=1 - gap))
        x = torch.zeros(4)
        x[-1] = 1.0
        y = walk(sampler, {"x": x}, Impulses())["x"]
        level = schedule(sampler.times[1])
        truth = level.alpha**2 + level.sigma**2
        errors.append(abs(float((y[1:] - y[0]).square().sum() - truth)))
    assert math.log2(errors[0] / errors[1]) > 2.9


def test_the_laws_of_a_sampler():
    process = Product(
        {"x": Gaussian(Linear(), event=(2,)), "a": Brownian(Geometric(0.02, 6.0), Torus(1))}
    )
    data = Batch.of(
        {"x": torch.tensor([[1.0, 0], [-1, 1], [0, -1.5]]), "a": torch.tensor([[0.0], [1.5], [3]])}
    )
    weights, samples = torch.tensor([0.2, 0.5, 0.3]), 1000
    denoiser = ExactDenoiser(process, data, weights)
    for eta in (0.7, 1.0):
        sampler = StochasticRungeKutta(denoiser, UniformTime(20), eta=eta)
        drawn = sampler.sample(Batch.of(process.empty(samples)), Generator(0))
        near = (drawn["x"][:, None] - data["x"]).norm(dim=2)
        found = near.argmin(1)
        turn = Torus(1).log(data["a"][found], drawn["a"]).abs().flatten()
        torn = float(((near.amin(1) > 0.2) | (turn > 0.2)).double().mean())
        assert torn < 2 / 20
        for k, weight in enumerate(weights.tolist()):
            share = float((found == k).double().mean())
            assert share == pytest.approx(weight, abs=4 * math.sqrt(0.25 / samples))


def mixed(device="cpu"):
    """A vector, a centred ragged cloud and a rotation."""
    process = Product(
        {
            "place": Gaussian(Linear(), event=(2,)),
            "atoms": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )
    layouts = {
        n: Layout.ragged([2, 3, 2] if n == "atoms" else [1, 1, 1])
        for n in ("place", "atoms", "turn")
    }
    atoms = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    leaves = {
        "place": torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
        "atoms": atoms - layouts["atoms"].spread(layouts["atoms"].mean(atoms)),
        "turn": SO3().uniform(3, Generator(2), torch.float64, device),
    }
    return process, Batch(leaves, layouts)


@pytest.mark.parametrize("source", [Addressed, Counter])
def test_given_rows_stay_and_a_sample_does_not_depend_on_its_mates(source):
    process, data = mixed()
    given = data.with_given({"turn": torch.tensor([True, False, True])})
    sampler = StochasticRungeKutta(ExactDenoiser(process, data), UniformTime(4), eta=0.8)
    whole = sampler.sample(given, source(0))
    assert torch.equal(whole["turn"][[0, 2]], data["turn"][[0, 2]])
    centre = data.layouts["atoms"].mean(whole["atoms"])
    torch.testing.assert_close(centre, torch.zeros_like(centre), rtol=0, atol=1e-12)
    for i in range(3):
        alone = sampler.sample(given.select([i]), source(0))
        for name, x in alone.leaves.items():
            rows = data.layouts[name].rows_of(torch.tensor([i]))
            torch.testing.assert_close(whole[name][rows], x, rtol=1e-12, atol=1e-12)


def test_noise_alone_and_in_a_batch_is_the_same_bit_for_bit():
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    sampler = StochasticRungeKutta(denoiser, UniformTime(5))
    batch = Batch.of(torch.zeros(4))
    whole = sampler.sample(batch, Counter(1))["x"]
    for i in range(4):
        assert torch.equal(sampler.sample(batch.select([i]), Counter(1))["x"], whole[[i]])


def test_a_walk_goes_on_from_saved_tensors():
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    batch = Batch.of(torch.zeros(5))
    bound = StochasticRungeKutta(denoiser, UniformTime(6)).bind(batch, Counter(1))
    carry = bound.start()
    for i in range(3):
        carry = bound.step(carry, i)
    other = StochasticRungeKutta(denoiser, UniformTime(6)).bind(batch, Counter(1))
    saved = Carry.from_tensors(carry.tensors())
    for i in range(3, 6):
        carry, saved = bound.step(carry, i), other.step(saved, i)
    assert torch.equal(carry.x["x"], saved.x["x"])
    assert carry.calls == 11


def test_steps_have_noise_of_their_own():
    random = Repeating(Generator(0))
    drawn = [
        random.scoped(step=i).scoped(leaf=leaf).normal((3,), torch.float64, "cpu")
        for i in range(3)
        for leaf in "ab"
        for _ in range(2)
    ]
    same = [torch.equal(a, b) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    assert all(same)
    assert float(torch.pdist(torch.stack(drawn[::2])).min()) > 1e-3


def test_refusals():
    denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    for eta in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"eta must be in \[0, 1\]"):
            StochasticRungeKutta(denoiser, UniformTime(3), eta=eta)
    words = ExactDenoiser(
        Product({"x": Categorical(Flow(), uniform(3))}), Batch.of(torch.tensor([1]))
    )
    with pytest.raises(ValueError, match="needs the score of every leaf"):
        StochasticRungeKutta(words, UniformTime(3))
