"""The multistep family: measured orders, identities, published weights."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    UniformTime,
    marginal,
)
from structdiff.processes import Estimate
from structdiff.samplers import Carry
from structdiff.samplers.linear import exponential_weights
from structdiff.samplers.multistep import Tabled
from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
from structdiff.samplers.warps import LOG_SNR, RECTIFIED, Warp, arctan
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, Impulses, NormalDenoiser, Silent, flow_map, walk

SCHEDULE = Linear()
METHODS = {
    "4": (lambda d, g: Multistep(d, g, order=4), 4),
    "2 corrected": (lambda d, g: Multistep(d, g, order=2, corrector=2), 2),
    "2 corrected by 3": (lambda d, g: Multistep(d, g, order=2, corrector=3), 3),
    "3 corrected": (lambda d, g: Multistep(d, g, order=3, corrector=3), 3),
    "3 corrected by 4": (lambda d, g: Multistep(d, g, order=3, corrector=4), 4),
    "4 corrected": (lambda d, g: Multistep(d, g, order=4, corrector=4), 4),
    "3 rectified": (lambda d, g: Multistep(d, g, order=3, coordinate=RECTIFIED), 3),
    "3 arctan": (lambda d, g: Multistep(d, g, order=3, coordinate=arctan), 3),
    "DEIS1": (lambda d, g: DEIS(d, g, order=1), 1),
    "DEIS2": (lambda d, g: DEIS(d, g, order=2), 2),
    "DEIS3": (lambda d, g: DEIS(d, g, order=3), 3),
    "DEIS4": (lambda d, g: DEIS(d, g, order=4), 4),
    "noise 2 corrected by 3": (
        lambda d, g: Multistep(d, g, order=2, corrector=3, interpolate="noise"),
        3,
    ),
    "DPMSolver1": (lambda d, g: DPMSolver(d, g, order=1), 1),
    "DPMSolver2": (lambda d, g: DPMSolver(d, g, order=2, lower_final=False), 2),
    "DPMSolver3": (lambda d, g: DPMSolver(d, g, order=3, lower_final=False), 2),
    "UniPC1": (lambda d, g: UniPC(d, g, order=1), 2),
    "UniPC2": (lambda d, g: UniPC(d, g, order=2), 3),
    "UniPC2 bh1": (lambda d, g: UniPC(d, g, order=2, variant="bh1"), 3),
}


@pytest.fixture(autouse=True, scope="module")
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture() -> NormalDenoiser:
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.6, 0.5, 0.7])
    return NormalDenoiser(Gaussian(SCHEDULE), mean, std, torch.tensor([0.3, 0.5, 0.2]))


# The error of some methods has a small leading term: their order shows on finer grids.
STEPS = {"2 corrected": 192, "3 corrected": 192, "DPMSolver3": 192}
END = 0.2


@pytest.fixture(scope="module")
def truth():
    start = torch.linspace(-2, 2, 9)
    return start, flow_map(mixture(), SCHEDULE, start, 1.0, END, steps=400)


def error(make, steps, truth):
    start, end = truth
    sampler = make(mixture(), UniformLogSNR(SCHEDULE, steps + 1, end=END))
    return float((walk(sampler, {"x": start}, Silent())["x"] - end).abs().mean())


@pytest.mark.parametrize("name", METHODS)
def test_measured_order_is_the_declared_one(name, truth):
    """End points of the flow of a mixture against the Runge-Kutta method."""
    make, nominal = METHODS[name]
    steps = STEPS.get(name, 64)
    slope = math.log2(error(make, steps, truth) / error(make, 2 * steps, truth))
    assert make(mixture(), UniformTime(3)).order("euclidean") == nominal
    assert nominal - 0.35 < slope < nominal + (1.2 if name == "4 corrected" else 0.35)


def test_a_corrector_lowers_the_error(truth):
    """At the same number of calls."""
    plain = error(lambda d, g: Multistep(d, g, order=3), 48, truth)
    assert error(lambda d, g: Multistep(d, g, order=3, corrector=4), 48, truth) < 0.3 * plain


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda d, g: Multistep(d, g, order=2, corrector=3), 48),
        (lambda d, g: DEIS(d, g, order=2), 48),
    ],
    ids=["corrected", "noise"],
)
def test_order_on_a_manifold(make, steps):
    """Estimates of the past are seen from the present point, corrected or not."""
    schedule, space = Geometric(0.3, 6.0), Torus(2)
    points = space.uniform(5, Generator(3), torch.float64, "cpu")
    process = Product({"x": Brownian(schedule, space)})
    denoiser = ExactDenoiser(process, Batch.of(points))
    start = space.uniform(8, Generator(4), torch.float64, "cpu")
    end = flow_map(denoiser, schedule, start, 1.0, 0.0, space, steps=100)
    errors = []
    for count in (steps, 2 * steps):
        sampler = make(denoiser, UniformLogSNR(schedule, count + 1, end=0.0))
        x = walk(sampler, {"x": start}, Silent())["x"]
        errors.append(float(space.distance(end, x).mean()))
    assert abs(math.log2(errors[0] / errors[1]) - sampler.order("manifold")) < 0.35, errors


@pytest.mark.parametrize("calls", [10, 20])
def test_multistep_needs_fewer_calls_than_ddim_and_than_generic_rules(calls):
    """Narrow modes, equal calls, one kind of grid: also against Euler and midpoint in time.

    On broad modes generic rules in the time of this schedule are as good: the grid decides.
    """
    mean, std = torch.tensor([-1.0, 0.5, 1.5]), torch.tensor([0.1, 0.15, 0.1])
    denoiser = NormalDenoiser(Gaussian(SCHEDULE), mean, std, torch.tensor([0.3, 0.5, 0.2]))
    start = torch.linspace(-2, 2, 33)
    process = denoiser.process.bind(Batch.of(start))
    end = flow_map(denoiser, SCHEDULE, start, 1.0, 0.02, steps=600)

    def error(x):
        return float((x - end).square().mean().sqrt())

    def velocity(x, t):
        times, batch = process.times(t), Batch.of(x)
        return process.velocity(denoiser(batch, times), batch.leaves, times)["x"]

    def generic(stages):
        x = start
        times = UniformLogSNR(SCHEDULE, calls // stages + 1, end=0.02).times()[:-1]
        for t, s in zip(times[:-1], times[1:], strict=True):
            first = velocity(x, t)
            if stages == 2:
                first = velocity(x + (s - t) / 2 * first, (s + t) / 2)
            x = x + (s - t) * first
        return error(x)

    def ours(make):
        grid = UniformLogSNR(SCHEDULE, calls + 1, end=0.02)
        return error(walk(make(denoiser, grid), {"x": start}, Silent())["x"])

    assert max(ours(make) for make in (Multistep, DPMSolver, UniPC, DEIS)) < 0.4 * ours(DDIM)
    assert max(ours(make) for make in (DPMSolver, UniPC)) < min(generic(1), generic(2))


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("corrector", [0, 3])
def test_weak_order_with_fresh_noise_is_two(eta, corrector):
    """Mean and variance of normal data, exactly, by impulses; corrected it falls to two."""
    mean, std, errors = 1.5, 0.7, []
    denoiser = NormalDenoiser(Gaussian(SCHEDULE), torch.tensor([mean]), torch.tensor([std]))
    for steps in (128, 256):
        grid = UniformLogSNR(SCHEDULE, steps + 1, end=0.05)
        sampler = Multistep(denoiser, grid, order=2, eta=eta, corrector=corrector)
        ends = SCHEDULE(sampler.times[[0, -2]])
        means, stds = ends.alpha * mean, ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
        x = means[0].repeat(2 * steps + 4)
        x[-1] += stds[0]
        y = walk(sampler, {"x": x}, Impulses())["x"]
        deviation = (y[1:] - y[0]).square().sum().sqrt()
        errors.append(float((y[0] - means[1]).abs() + (deviation - stds[1]).abs()))
    assert sampler.order("euclidean") == 2
    assert 1.8 < math.log2(errors[0] / errors[1]) < (2.6 if corrector else 2.2), errors


@pytest.mark.parametrize(
    "make",
    [
        lambda d, g: Multistep(d, g, order=1),
        lambda d, g: DEIS(d, g, order=1),
        lambda d, g: DPMSolver(d, g, order=1),
        lambda d, g: Multistep(d, g, order=1, interpolate="noise", coordinate=arctan),
    ],
    ids=["data", "DEIS-0", "DPM-Solver-1", "noise, arctan"],
)
@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["vp", "flow"])
def test_one_estimate_is_ddim(make, schedule):
    """DDIM = DEIS-0 = DPM-Solver-1, from pure noise to clean."""
    mean, std = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5])
    denoiser, grid = NormalDenoiser(Gaussian(schedule), mean, std), UniformTime(9)
    batch = Batch.of(torch.zeros(20))
    a = DDIM(denoiser, grid).sample(batch, Generator(0))["x"]
    torch.testing.assert_close(make(denoiser, grid).sample(batch, Generator(0))["x"], a)


class Polynomial(NormalDenoiser):
    """An estimate, or a noise, that is a cubic of a coordinate and depends on nothing else."""

    def __init__(self, coordinate, noise):
        super().__init__(Gaussian(SCHEDULE), torch.zeros(1), torch.ones(1))
        self.coordinate, self.noise = coordinate, noise

    def forward(self, batch, t, previous=None):
        del previous
        level = SCHEDULE(t["x"])
        u = self.coordinate(level.clock)
        value = (1 + u - 0.3 * u**2 + 0.2 * u**3).expand_as(batch["x"])
        if self.noise:
            value = (batch["x"] - level.sigma * value) / level.alpha
        return {"x": Estimate(value)}


@pytest.mark.parametrize("noise", [False, True], ids=["data", "noise"])
@pytest.mark.parametrize("corrector", [0, 4])
@pytest.mark.parametrize(
    "coordinate", [LOG_SNR, RECTIFIED, Warp(0.5, -0.5), arctan, SCHEDULE.time]
)
def test_polynomials_of_the_coordinate_are_integrated_exactly(noise, corrector, coordinate):
    """The last steps of a fourth-order walk, against quadrature of the kernel in sigma / alpha."""
    grid = UniformLogSNR(SCHEDULE, 9, end=0.1)
    kind = "noise" if noise else "data"
    denoiser = Polynomial(coordinate, noise)
    sampler = Multistep(
        denoiser, grid, order=4, corrector=corrector, interpolate=kind, coordinate=coordinate
    )
    bound = sampler.bind(Batch.of(torch.zeros(1)), Silent())
    level = SCHEDULE(sampler.times)
    carry, states = Carry({"x": torch.ones(1)}), []
    for i in range(8):
        states.append(carry.x["x"] / level.alpha[i])
        carry = bound.step(carry, i)
    # From the fourth call on nothing but the polynomial is left of the error of y.
    low, high = level.clock[5], level.clock[6]
    clock = torch.linspace(0, 1, 20001) * (high - low) + low
    u = coordinate(clock)
    value = 1 + u - 0.3 * u**2 + 0.2 * u**3
    if noise:
        exact = states[5] - torch.trapezoid(value * torch.exp(-clock), clock)
    else:
        moved = torch.trapezoid(value * torch.exp(clock), clock) * torch.exp(-high)
        exact = torch.exp(low - high) * states[5] + moved
    torch.testing.assert_close(states[6], exact, rtol=1e-7, atol=1e-7)


def test_rows_sum_to_one_and_do_not_look_back_further_than_they_must():
    clock = torch.linspace(-4, 4, 12)
    for order, corrector in ((1, 0), (2, 0), (3, 0), (4, 0), (2, 2), (2, 3), (4, 5)):
        sampler = Multistep(mixture(), UniformTime(2), order=order, corrector=corrector)
        rows = sampler.rule(clock)
        torch.testing.assert_close(rows.sum(1), torch.ones(11))
        assert rows.shape[1] == max(order, corrector) + (order == corrector)


def test_a_corrected_walk_is_the_loop_of_its_paper():
    """Predict, ask, redo the step through the new estimate, predict from there."""
    denoiser, grid = mixture(), UniformLogSNR(SCHEDULE, 8, end=0.1)
    clock = SCHEDULE(grid.times()).clock[:-1]
    ratio = torch.exp(-clock)
    level = SCHEDULE(grid.times()[:-1])
    x = torch.linspace(-2, 2, 5)
    y, estimates = x / level.alpha[0], []

    def step(y, i, places):
        weights = exponential_weights(clock[places], clock[i], clock[i + 1], 1.0)
        mean = sum(w * estimates[p] for w, p in zip(weights, places, strict=True))
        r = ratio[i + 1] / ratio[i]
        return r * y + (1 - r) * mean

    seen = y
    for i in range(7):
        batch = Batch.of(level.alpha[i] * seen)
        estimates.append(denoiser(batch, {"x": grid.times()[i]})["x"].value)
        if i:
            y = step(y, i - 1, list(range(i, max(-1, i - 3), -1)))
        seen = step(y, i, list(range(i, max(-1, i - 2), -1)))
    sampler = Multistep(denoiser, grid, order=2, corrector=3)
    ours = walk(sampler, {"x": x}, Silent())["x"]
    torch.testing.assert_close(ours, level.alpha[7] * seen, rtol=1e-9, atol=1e-9)


def test_published_weights():
    """DPM-Solver++ 2M: 1 + h / (2 h_0) and the rest; UniPC's bh2 predicts with the same."""
    clock = torch.tensor([-2.0, -1.2, 0.1, 0.9])
    rows = DPMSolver(mixture(), UniformTime(3), lower_final=False).rule(clock)
    gain = (clock[2] - clock[1]) / (clock[1] - clock[0]) / 2
    torch.testing.assert_close(rows[1], torch.stack([1 + gain, -gain]))


def test_leaves_of_a_product_have_the_weights_of_their_own_clocks():
    """Two normals on two schedules at once are what each is alone; classes stay laws."""
    classes = Categorical(Flow(), marginal(torch.tensor([0.4, 0.6])))
    leaves = {"a": Gaussian(Linear()), "b": Gaussian(Flow()), "c": classes}
    data = {"a": torch.tensor([-1.0, 1.0]), "b": torch.tensor([0.5, 2.0])}
    data["c"] = torch.tensor([0, 1])
    denoiser = ExactDenoiser(Product(leaves), Batch.of(data))
    batch = Batch.of({"a": torch.zeros(64), "b": torch.zeros(64), "c": torch.zeros(64).long()})
    sampler = Multistep(denoiser, UniformTime(12), order=3, corrector=4)
    bound = sampler.bind(batch, Generator(0))
    for name, schedule in (("a", Linear()), ("b", Flow())):
        alone = sampler.rule(schedule(sampler.times).clock)
        for row, ours in zip(alone, bound.mixing, strict=True):
            torch.testing.assert_close(torch.stack(ours[name]), row[: len(ours[name])])
    drawn = sampler.sample(batch, Generator(0))
    whole = drawn["c"] == (drawn["a"] > 0).long()
    assert float(whole.double().mean()) > 0.9
    torch.testing.assert_close(drawn["a"].abs(), torch.ones(64), rtol=1e-6, atol=1e-6)


def test_tabled_weights_are_those_given():
    denoiser, grid = mixture(), UniformLogSNR(SCHEDULE, 6, end=0.1)
    clock = SCHEDULE(grid.times()).clock
    method = Multistep(denoiser, grid, order=3, corrector=3)
    batch = Batch.of(torch.zeros(5))
    a = method.sample(batch, Generator(1))["x"]
    b = Tabled(denoiser, grid, {"x": method.rule(clock)}).sample(batch, Generator(1))["x"]
    assert torch.equal(a, b)


@pytest.mark.parametrize("warp", [LOG_SNR, RECTIFIED, Warp(0.2, 0.3), Warp(0.0, 1 / 7)])
def test_a_warp_and_its_inverse(warp):
    clock = torch.linspace(-5, 5, 21)
    assert bool((warp(clock).diff() < 0).all())
    torch.testing.assert_close(warp.inverse(warp(clock)), clock, rtol=1e-8, atol=1e-8)


def test_named_warps():
    clock = torch.linspace(-3, 3, 7)
    ratio = torch.exp(-clock)
    torch.testing.assert_close(LOG_SNR(clock), -clock)
    torch.testing.assert_close(RECTIFIED(clock), ratio / (1 + ratio))
    torch.testing.assert_close(Warp(0.0, 1.0)(clock), ratio - 1)
    torch.testing.assert_close(arctan(clock), torch.atan(ratio))


BAD = [
    (lambda d, g: Multistep(d, g, order=5), "order must be 1, 2, 3 or 4, got 5"),
    (lambda d, g: Multistep(d, g, order=2, corrector=1), "corrector must be 0, 2 or 3"),
    (lambda d, g: Multistep(d, g, interpolate="score"), "'data' or 'noise', got 'score'"),
    (lambda d, g: Multistep(d, g, interpolate="noise", eta=0.5), "needs eta = 0, got 0.5"),
    (lambda d, g: DPMSolver(d, g, order=4), "order must be in 1, ..., 3, got 4"),
    (lambda d, g: UniPC(d, g, variant="bh3"), "variant must be 'bh1' or 'bh2', got 'bh3'"),
    (lambda d, g: Tabled(d, g, {"x": torch.ones(2, 1)}), "one row for each of 3 steps"),
    (lambda d, g: Warp(-1.0), "centre = -1.0 and power = 0.0 must be finite"),
]


@pytest.mark.parametrize(("make", "match"), BAD)
def test_refusals(make, match):
    with pytest.raises(ValueError, match=match):
        make(mixture(), UniformTime(3))


def test_effective_weights_of_a_plain_rule_are_the_rule():
    clock = torch.linspace(-2, 2, 5)
    plain = Multistep(mixture(), UniformTime(2), order=2).rule(clock)
    for i in range(1, 4):
        expected = exponential_weights(clock[[i, i - 1]], clock[i], clock[i + 1], 1.0)
        torch.testing.assert_close(plain[i], expected)


def test_a_step_of_no_length_changes_nothing():
    """A time twice, in the middle and at the end, as some grids have it."""
    once, twice = (
        torch.linspace(-3, 3, 8),
        torch.linspace(-3, 3, 8)[[0, 1, 2, 3, 3, 4, 5, 6, 7, 7]],
    )
    for order, corrector in ((2, 0), (3, 3)):
        method = Multistep(mixture(), UniformTime(2), order=order, corrector=corrector)
        plain, rows = method.rule(once), method.rule(twice)
        assert bool(rows.isfinite().all())
        torch.testing.assert_close(rows.sum(1), torch.ones(9))
        torch.testing.assert_close(rows[:3, : plain.shape[1]], plain[:3])
