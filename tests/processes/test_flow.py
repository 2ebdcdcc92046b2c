"""Riemannian flow matching: velocities, densities, and the way back, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.objectives import Uniform, UniformTimes
from structdiff.parameterisations import CleanPoint, ScaledScore
from structdiff.processes import Conditional, Flowing, GeodesicFlow, Markov, optimal_transport
from structdiff.schedules import CLEAN
from structdiff.spaces import SE3, SO3, Euclidean, HeatLaw, Manifold, Torus, WrappedNormal
from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
from structdiff.spaces.simplex import Simplex
from structdiff.spaces.spd import SPD
from structdiff.spaces.sphere import Sphere
from structdiff.testing import ExactDenoiser

SPACES: dict[str, Manifold] = {
    "R2": Euclidean(2),
    "T2": Torus(2),
    "S2": Sphere(2),
    "SO3": SO3(),
    "H2": Hyperbolic(2),
    "ball": PoincareBall(2),
    "SPD2": SPD(2),
    "simplex": Simplex(3),
    "SE3": SE3(),
}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def some(space: Manifold, rows: int, scale: float = 0.6, seed: int = 0) -> Tensor:
    """Points around the origin."""
    origin = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(origin, scale * space.noise(origin, Generator(seed)))


def time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


@spaces
@pytest.mark.parametrize("t", [1e-3, 0.3, 0.9])
def test_the_velocity_is_the_derivative_of_the_geodesic(space: Manifold, t: float) -> None:
    x_0, x_1 = some(space, 20), some(space, 20, seed=1)
    process = GeodesicFlow(space).bind(Batch.of(x_0))

    def at(s: Tensor) -> Tensor:
        return space.exp(x_0, s * space.log(x_0, x_1))

    x_t, truth = torch.autograd.functional.jvp(at, time(t))
    v = process.velocity(process.oracle(x_0, x_t, time(t)), x_t, time(t))
    _, moved = torch.autograd.functional.jvp(lambda s: space.exp(x_t, s * v), time(0.0))
    torch.testing.assert_close(moved, truth, rtol=1e-7, atol=1e-8)


@spaces
def test_the_way_back_from_a_known_point_is_exact(space: Manifold) -> None:
    x_0 = some(space, 50)
    process = GeodesicFlow(space).bind(Batch.of(x_0))
    x_t = process.diffuse(x_0, time(0.8), Generator(2))
    (step,) = process.plan(torch.tensor([0.8, 0.3]).double(), 0.0)
    x_s = process.step(x_t, process.oracle(x_0, x_t, time(0.8)), step, Generator(0))
    truth = space.exp(x_0, 0.3 / 0.8 * space.log(x_0, x_t))
    torch.testing.assert_close(x_s, truth, rtol=1e-7, atol=1e-7)
    same = process.diffuse(x_0, time(0.3), Generator(2))
    torch.testing.assert_close(x_s, same, rtol=1e-7, atol=1e-7)


@spaces
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_density_is_that_of_the_draws(space: Manifold, t: float) -> None:
    """Two laws overlap alike from either side: E_p min(1, q / p) = E_q min(1, p / q)."""
    x_0 = some(space, 1).expand(4000, *space.point)
    near = space.exp(x_0[:1], 0.15 * space.noise(x_0[:1], Generator(5)))
    y_0 = near.expand(4000, *space.point)
    process = GeodesicFlow(space).bind(Batch.of(x_0))
    x, y = process.diffuse(x_0, time(t), Generator(2)), process.diffuse(y_0, time(t), Generator(3))
    ahead = process.log_prob(x, y_0, time(t)) - process.log_prob(x, x_0, time(t))
    back = process.log_prob(y, x_0, time(t)) - process.log_prob(y, y_0, time(t))
    a, b = ahead.clamp(max=0).exp(), back.clamp(max=0).exp()
    error = math.sqrt(float(a.var() + b.var()) / 4000)
    assert 0.05 < float(a.mean()) < 0.99
    assert abs(float(a.mean() - b.mean())) < 4 * error
    # And against one feature, since an overlap cannot tell a density from its square.
    feature = [torch.cos(2 * space.features(z)[:, 0]) for z in (x, y)]
    gap = a * feature[0], b * feature[1]
    error = math.sqrt(float(gap[0].var() + gap[1].var()) / 4000)
    assert abs(float(gap[0].mean() - gap[1].mean())) < 4 * error


@pytest.mark.parametrize("t", [0.3, 0.8, 1.0])
def test_the_density_on_the_sphere_integrates_to_one(t: float) -> None:
    space = Sphere(2)
    height, angle = (
        a.flatten()
        for a in torch.meshgrid(
            (torch.arange(400).double() + 0.5) / 200 - 1,
            torch.arange(16).double() * (math.pi / 8),
            indexing="ij",
        )
    )
    ring = (1 - height**2).sqrt()
    x = torch.stack([ring * torch.cos(angle), ring * torch.sin(angle), height], 1)
    x_0 = torch.tensor([[0.0, 0.0, 1.0]]).double().expand_as(x)
    process = GeodesicFlow(space).bind(Batch.of(x))
    density = process.log_prob(x, x_0, time(t)).exp()
    assert float(density.mean()) * 4 * math.pi == pytest.approx(1, abs=0.01)


def test_in_flat_space_it_is_the_straight_path() -> None:
    data = Batch.of(torch.tensor([[-1.0, 0.5], [1.0, 0.0], [0.3, 2.0]]).double())
    flow = GeodesicFlow(Euclidean(2), WrappedNormal(Euclidean(2)))
    straight = Gaussian(Flow(), event=(2,))
    ours, theirs = (ExactDenoiser(Product({"x": p}), data) for p in (flow, straight))
    empty = Batch.of(torch.zeros(30, 2).double())
    a, b = (DDIM(d, UniformTime(12)).sample(empty, Generator(4))["x"] for d in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    x = Generator(1).normal((30, 2), torch.float64, "cpu")
    x_0 = data["x"][[0]].expand(30, 2)
    a, b = (p.bind(empty).log_prob(x, x_0, time(0.4)) for p in (flow, straight))
    torch.testing.assert_close(a, b)


BASES = {
    "T2": HeatLaw(Torus(2), 0.2),
    "S2": HeatLaw(Sphere(2), 0.2),
    "SO3": HeatLaw(SO3(), 0.2),
    "H2": None,
    "SPD2": None,
}


@pytest.mark.parametrize("name", BASES)
def test_the_exact_denoiser_returns_the_data_in_proportion(name: str) -> None:
    space, shares = SPACES[name], torch.tensor([0.5, 0.3, 0.2]).double()
    data = some(space, 3, 0.5)
    process = Product({"x": GeodesicFlow(space, BASES[name])})
    denoiser = ExactDenoiser(process, Batch.of(data), shares)
    empty = Batch.of(torch.zeros(600, *space.point).double())
    x = DDIM(denoiser, UniformTime(60)).sample(empty, Generator(6))["x"]
    gaps = torch.stack([space.distance(x, point.expand_as(x)) for point in data], 1)
    assert float(gaps.amin(1).max()) < 1e-6
    found = torch.bincount(gaps.argmin(1), minlength=3) / 600
    assert float((found - shares).abs().max()) < 4 * math.sqrt(0.25 / 600)


def test_contracts_and_refusals() -> None:
    process = Product({"a": GeodesicFlow(Torus(1)), "b": Gaussian(Flow())})
    assert process.offers(Conditional)
    assert process.offers(Flowing)
    assert not process.offers(Markov)
    denoiser = ExactDenoiser(
        Product({"x": GeodesicFlow(Torus(1))}), Batch.of(torch.zeros(1, 1).double())
    )
    with pytest.raises(ValueError, match=r"eta must be 0, got 1\.0: a flow has no fresh noise"):
        DDPM(denoiser, UniformTime(4)).sample(Batch.of(torch.zeros(1, 1).double()), Generator(0))


@spaces
def test_noise_leaves_clean_rows_as_they_are(space: Manifold) -> None:
    """To the last bit: other points have no density there."""
    x_0 = some(space, 50)
    process = GeodesicFlow(space).bind(Batch.of(x_0))
    t = torch.where(torch.arange(50) % 2 == 0, CLEAN, 0.4).double()
    x_t = process.diffuse(x_0, t, Generator(0))
    assert torch.equal(x_t[::2], x_0[::2])
    density = process.log_prob(x_t, x_0, t)
    assert bool((density[::2] == 0).all())
    assert bool((density[1::2] > -torch.inf).all())


def test_given_rows_do_not_move() -> None:
    space = Sphere(2)
    x_0 = some(space, 6)
    held = torch.tensor([True, False, True, False, False, True])
    batch = Batch.of(x_0).with_given({"x": held})
    process = GeodesicFlow(space).bind(Batch({"x": x_0}, batch.layouts, given={"x": held}))
    t = process.times(time(0.5))
    prior = process.prior(Generator(0))
    assert torch.equal(prior[held], x_0[held])
    estimate = process.oracle(x_0, prior, t)
    (step,) = process.plan(torch.tensor([1.0, 0.5]).double(), 0.0)
    moved = process.step(prior, estimate, step, Generator(0))
    assert torch.equal(moved[held], x_0[held])
    assert bool((process.velocity(estimate, prior, t)[held] == 0).all())
    assert float((moved - prior)[~held].abs().min()) > 0


@pytest.mark.parametrize("space", [Torus(2), Sphere(2), Hyperbolic(2)], ids=["T2", "S2", "H2"])
def test_optimal_transport_is_the_best_permutation(space: Manifold) -> None:
    x_0, x_1 = some(space, 5), some(space, 5, 1.0, seed=3)
    got = optimal_transport(space, x_0, x_1)
    cost = torch.stack([space.distance(x, x_1).square() for x in x_0[:, None].expand(5, 5, -1)])
    rows, order = linear_sum_assignment(cost.numpy())
    assert torch.equal(got, x_1[torch.as_tensor(order)])
    apart = space.distance(x_0, x_1).square().sum()
    assert float(cost[rows, order].sum()) < float(apart) - 0.01


def test_noise_is_coupled_to_the_data_only_if_asked() -> None:
    """The same draws as without, in the order of the data: on the line, by rank."""
    x_0 = some(Euclidean(1), 30)
    plain = GeodesicFlow(Euclidean(1))
    assert plain.coupling is None
    coupled = GeodesicFlow(Euclidean(1), coupling=optimal_transport)
    drawn, ordered = (
        p.bind(Batch.of(x_0)).diffuse(x_0, time(1.0), Generator(2)) for p in (plain, coupled)
    )
    rank = x_0[:, 0].argsort()
    torch.testing.assert_close(ordered[rank], drawn.sort(0).values)
    assert float((drawn - ordered).abs().max()) > 1


class Odd(nn.Module):
    """A velocity, a x - b sign x."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(2).double())

    def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
        x = batch["x"]
        return {"x": self.weights[0] * x - self.weights[1] * x.sign()}


@pytest.mark.parametrize("coupled", [True, False])
def test_training_on_coupled_pairs_straightens_the_curves(coupled: bool) -> None:
    """Of the data +-1, one step draws +-1 where noise goes to its side, else their mean."""
    coupling = optimal_transport if coupled else None
    process = Product({"x": GeodesicFlow(Euclidean(1), coupling=coupling)})
    denoiser, random = NetworkDenoiser(Odd(), process), Generator(0)
    objective = Denoising(Uniform(), UniformTimes(0.95, 1.0))
    optimiser = torch.optim.Adam(denoiser.parameters(), 0.05)
    batch = Batch.of(torch.tensor([[-1.0], [1.0]]).double().repeat(64, 1))
    for _ in range(120):
        optimiser.zero_grad()
        objective(denoiser, batch, random).total.backward()
        optimiser.step()
    empty = Batch.of(torch.zeros(500, 1).double())
    drawn = DDIM(denoiser, UniformTime(1)).sample(empty, Generator(1))["x"]
    assert float((drawn.abs() - float(coupled)).square().mean().sqrt()) < 0.25


@spaces
def test_what_networks_predict_means_the_same_estimate(space: Manifold) -> None:
    """The output that stands for the oracle, in each parameterisation."""
    x_0 = some(space, 8)
    t = torch.linspace(0.1, 1.0, 8).double()
    plain = GeodesicFlow(space).bind(Batch.of(x_0))
    x_t = plain.diffuse(x_0, t, Generator(1))
    truth = plain.oracle(x_0, x_t, t)
    velocity = plain.velocity(truth, x_t, t)
    point = GeodesicFlow(space, parameterisation=CleanPoint()).bind(Batch.of(x_0))
    score = GeodesicFlow(space, parameterisation=ScaledScore()).bind(Batch.of(x_0))
    for process, output in ((plain, velocity), (score, -velocity), (point, x_0)):
        got = process.decode(output, x_t, t).value
        torch.testing.assert_close(got, truth.value, rtol=1e-7, atol=1e-7)
    assert float(point.loss(point.decode(x_0, x_t, t), x_0, x_t, t).max()) < 1e-12
