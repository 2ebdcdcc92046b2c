"""Laws of Brownian motion: quadrature on the circle, moments of large samples elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Brownian, Gaussian, Generator, Geometric, Layout, Linear
from structdiff.processes import Estimate
from structdiff.schedules import CLEAN
from structdiff.spaces import Torus
from tests.processes.cases import MANIFOLDS, Case, Fixed, grid, time

cases = pytest.mark.parametrize("case", MANIFOLDS.values(), ids=MANIFOLDS.keys())
named = pytest.mark.parametrize("name", MANIFOLDS)

ROWS = 20_000
NODES = 180
CIRCLE = Brownian(Geometric(0.05, 4.0), Torus(1))
ANGLES = (torch.arange(NODES, dtype=torch.float64) / NODES * 2 - 1)[:, None] * math.pi
CELL = 2 * math.pi / NODES


def sampled(case: Case) -> tuple[Brownian, Tensor]:
    """Many rows that start at one point, and the process bound to them."""
    assert isinstance(case.process, Brownian)
    x_0 = case.clean(Layout.regular(1), torch.float64, 0).expand(ROWS, *case.process.event)
    return case.process.bind(Batch({"x": x_0}, {"x": Layout.regular(ROWS)})), x_0


def turned(x: Tensor, y: Tensor) -> Tensor:
    """The trace of x^T y over 3, an eigenfunction."""
    return (x.reshape(-1, 9) * y.reshape(-1, 9)).sum(1) / 3


def apart(x: Tensor, y: Tensor) -> Tensor:
    """The mean cosine of the angles' differences, an eigenfunction."""
    return torch.cos(x - y).flatten(1).mean(1)


WAVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torus": apart,
    "so3": turned,
    "sphere": lambda x, y: (x * y).sum(1),
    "predicted points": lambda x, y: (x * y).sum(1),
    "product": lambda x, y: apart(x[:, :1], y[:, :1]) * turned(x[:, 1:], y[:, 1:]),
    "power": apart,
}
"""Eigenfunctions of the Laplacian, 1 where x = y, by case."""

RATES = {"torus": 0.5, "so3": 1, "sphere": 1, "predicted points": 1, "product": 1.5, "power": 0.5}
"""Minus half their eigenvalues."""

VOLUMES = {
    "torus": (2 * math.pi) ** 2,
    "so3": 8 * math.pi**2,
    "sphere": 4 * math.pi,
    "predicted points": 4 * math.pi,
    "product": 2 * math.pi * 8 * math.pi**2,
    "power": (2 * math.pi) ** 2,
}


def decay(name: str, tau: float) -> float:
    """What Brownian motion leaves of the eigenfunction."""
    return math.exp(-RATES[name] * tau)


def within(values: Tensor, expected: float, extra: float = 0.0) -> None:
    """Within four standard errors of the sample."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error + extra


@named
def test_semigroup(name: str) -> None:
    """A13: from s to t what clean to s left out, by the decay of an eigenfunction."""
    process, x_0 = sampled(MANIFOLDS[name])
    random = Generator(0)
    x_s = process.diffuse(x_0, time(0.5), random)
    x_t = process.corrupt(x_s, time(0.5), time(0.75), random)
    for x, t in ((x_s, 0.5), (x_t, 0.75)):
        tau = float(process.schedule.sigma(time(t)) ** 2)
        within(WAVES[name](x_0, x), decay(name, tau))
    again = process.corrupt(x_0, time(CLEAN), time(0.75), random)
    within(WAVES[name](x_0, again), decay(name, tau))


@named
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_undoing_on_a_fine_grid(name: str, eta: float) -> None:
    """Oracle steps from t = 0.75 to 0.5: right to first order, so nearly at 24 steps."""
    process, x_0 = sampled(MANIFOLDS[name])
    random = Generator(1)
    x = process.diffuse(x_0, time(0.75), random)
    times = torch.linspace(0.75, 0.5, 25, dtype=torch.float64)
    for t, plan in zip(times, process.plan(times, eta), strict=False):
        x = process.step(x, process.oracle(x_0, x, t), plan, random)
    tau = float(process.schedule.sigma(time(0.5)) ** 2)
    within(WAVES[name](x_0, x), decay(name, tau), extra=0.012)


def circle(rows: int) -> Brownian:
    return CIRCLE.bind(Batch({"x": torch.zeros(rows, 1).double()}, {"x": Layout.regular(rows)}))


def density(t: float) -> Tensor:
    """q(x_t | x_0 = 0) on the circle's nodes."""
    return circle(NODES).log_prob(ANGLES, torch.zeros_like(ANGLES), time(t)).exp()


def transition(t: float, s: float, eta: float) -> Tensor:
    """Density of the oracle step from each node to each, for x_0 = 0."""
    process = circle(NODES * NODES)
    x_t, x_s = ANGLES.repeat_interleave(NODES, 0), ANGLES.repeat(NODES, 1)
    (plan,) = process.plan(grid(t, s), eta)
    oracle = process.oracle(torch.zeros_like(x_t), x_t, time(t))
    return process.reverse_log_prob(x_s, x_t, oracle, plan).exp().reshape(NODES, NODES)


def heat(s: float, t: float) -> Tensor:
    """q(x_t | x_s) on the nodes."""
    tau = CIRCLE.schedule.sigma(grid(s, t)).square().diff()
    x, y = ANGLES.repeat_interleave(NODES, 0), ANGLES.repeat(NODES, 1)
    return CIRCLE.manifold.log_kernel(x, y, tau).exp().reshape(NODES, NODES)


def test_semigroup_by_quadrature() -> None:
    """A13 on densities, to 1e-10."""
    torch.testing.assert_close(
        density(0.4) @ heat(0.4, 0.7) * CELL, density(0.7), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("eta", [0.7, 1.0])
def test_the_error_of_undoing_halves_with_the_step(eta: float) -> None:
    errors = []
    for steps in (4, 8, 16):
        times = torch.linspace(0.8, 0.5, steps + 1).tolist()
        law = density(0.8)
        for t, s in zip(times, times[1:], strict=False):
            law = law @ transition(t, s, eta) * CELL
        errors.append(float((law - density(0.5)).abs().sum()) * CELL / 2)
    assert errors[0] < 0.2
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.8 < coarse / fine < 3


def test_the_error_of_deterministic_undoing_halves_with_the_step() -> None:
    """eta = 0 moves quantiles: 4,096 of them, from the sorted distribution function."""
    rows = 4096
    process, nodes = circle(rows), torch.linspace(-math.pi, math.pi, 40_001).double()[:, None]
    start = torch.zeros_like(nodes)
    law = CIRCLE.manifold.log_kernel(start, nodes, CIRCLE.schedule.sigma(time(0.8)) ** 2).exp()
    total = torch.cumulative_trapezoid(law, dx=2 * math.pi / 40_000)
    place = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows * total[-1]
    x_t = nodes[1:][torch.searchsorted(total, place)]
    tau = float(CIRCLE.schedule.sigma(time(0.5)) ** 2)
    errors = []
    for steps in (2, 4, 8):
        x, times = x_t, torch.linspace(0.8, 0.5, steps + 1, dtype=torch.float64)
        for t, plan in zip(times, process.plan(times, 0.0), strict=False):
            oracle = process.oracle(torch.zeros_like(x), x, t)
            x = process.step(x, oracle, plan, Generator(0))
        errors.append(abs(float(torch.cos(x).mean()) - math.exp(-tau / 2)))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 1.6 < coarse / fine < 3


def test_bayes_to_first_order() -> None:
    """At eta = 1 the error of the pair law of one step falls with the step."""
    errors = []
    for s in (0.76, 0.78, 0.79):
        backwards = density(0.8)[:, None] * transition(0.8, s, 1.0)
        forwards = density(s)[:, None] * heat(s, 0.8)
        errors.append(float((backwards.T - forwards).abs().sum()) * CELL**2 / 2)
    assert errors[0] < 0.06
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]


def test_densities_integrate_to_one() -> None:
    for t in (0.2, 0.5, 1.0):
        assert float(density(t).sum()) * CELL == pytest.approx(1, abs=1e-10)
    rows = transition(0.6, 0.4, 1.0).sum(1) * CELL
    torch.testing.assert_close(rows, torch.ones(NODES).double(), rtol=0, atol=1e-10)


@cases
def test_gradient_of_the_density_is_the_oracle(case: Case) -> None:
    """tau times the score, along geodesics."""
    process, batch = case.process.bind(case.batch()), case.batch()
    assert isinstance(process, Brownian)
    x_0, x_t, t = batch["x"], case.batch(seed=4)["x"], time(0.6)
    space = process.manifold
    v = torch.zeros(3, *space.tangent).double().requires_grad_()
    value = process.log_prob(space.exp(x_t, space.to_tangent(x_t, v)), x_0, t)
    (score,) = torch.autograd.grad(value.sum(), v)
    tau = process.schedule.sigma(t) ** 2
    torch.testing.assert_close(process.oracle(x_0, x_t, t).value, tau * score)
    estimate = process.oracle(x_0, x_t, t)
    torch.testing.assert_close(process.score(estimate, x_t, t), score)


def test_prior_divergence_is_the_integral() -> None:
    for sigma in (0.5, 1.5, 4.0):
        process = Brownian(Geometric(0.05, sigma), Torus(1))
        law = process.manifold.log_kernel(torch.zeros_like(ANGLES), ANGLES, time(sigma**2))
        kl = float((law.exp() * (law + math.log(2 * math.pi))).sum()) * CELL
        bound = process.bind(Batch.of(torch.zeros(2, 1).double()))
        divergence = bound.prior_divergence(torch.zeros(2, 1).double())
        torch.testing.assert_close(divergence, torch.tensor([kl, kl]).double(), atol=1e-7, rtol=0)


@named
def test_forgetting(name: str) -> None:
    """The draw at t = 1 and the prior's agree; the prior's density is one over the volume."""
    process, x_0 = sampled(MANIFOLDS[name])
    tau = float(process.schedule.sigma(time(1.0)) ** 2)
    end = process.diffuse(x_0, time(1.0), Generator(2))
    within(WAVES[name](x_0, end), decay(name, tau))
    within(WAVES[name](x_0, process.prior(Generator(3))), 0.0)
    log_prob = process.prior_log_prob(end)
    expected = -math.log(VOLUMES[name])
    torch.testing.assert_close(log_prob, torch.full_like(log_prob, expected))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_in_flat_space_it_is_the_exploding_gaussian(eta: float) -> None:
    """Small noise on the torus: same draws, steps, losses and divergences."""
    schedule = Geometric(0.001, 0.05)
    x_0 = torch.tensor([[0.1, -0.3], [0.5, 1.0], [-1.2, 0.4]]).double()
    batch, guess = Batch.of(x_0), x_0 + 0.02
    z = Generator(0).normal((3, 2), torch.float64, "cpu")
    curved = Brownian(schedule, Torus(2)).bind(batch)
    flat = Gaussian(schedule, event=(2,)).bind(batch)
    t = time(0.8)
    x_t = flat.diffuse(x_0, t, Fixed(z))
    torch.testing.assert_close(curved.diffuse(x_0, t, Fixed(z)), x_t)
    oracle = curved.oracle(x_0, x_t, t)
    torch.testing.assert_close(oracle.value, x_0 - x_t)
    torch.testing.assert_close(curved.log_prob(x_t, x_0, t), flat.log_prob(x_t, x_0, t))
    seen, plain = Estimate(guess - x_t), Estimate(guess)
    loss = curved.loss(seen, x_0, x_t, t)
    torch.testing.assert_close(loss, flat.loss(plain, x_0, x_t, t))
    (ours,), (theirs,) = curved.plan(grid(0.8, 0.5), eta), flat.plan(grid(0.8, 0.5), eta)
    moved = flat.step(x_t, plain, theirs, Fixed(z))
    torch.testing.assert_close(curved.step(x_t, seen, ours, Fixed(z)), moved)
    if eta > 0:
        a = curved.divergence(oracle, seen, x_t, ours)
        torch.testing.assert_close(a, flat.divergence(Estimate(x_0), plain, x_t, theirs))
        a = curved.reverse_log_prob(moved, x_t, seen, ours)
        torch.testing.assert_close(a, flat.reverse_log_prob(moved, x_t, plain, theirs))
    a = curved.reconstruction(seen, x_0, x_t, time(0.3))
    torch.testing.assert_close(a, flat.reconstruction(plain, x_0, x_t, time(0.3)))
    (up,) = curved.plan(grid(0.5, 0.8), 0.0)
    back = flat.step(x_t, plain, flat.plan(grid(0.5, 0.8), 0.0)[0], Fixed(z))
    torch.testing.assert_close(curved.step(x_t, seen, up, Fixed(z)), back)


@cases
def test_the_last_step_reaches_the_point(case: Case) -> None:
    """tau_s = 0: in flat directions exp of the oracle is x_0; close to it at small tau."""
    process, batch = case.process.bind(case.batch()), case.batch()
    t = time(0.0)
    x_t = process.diffuse(batch["x"], t, Generator(1))
    for eta in (0.0, 1.0):
        (plan,) = process.plan(grid(0.0, CLEAN), eta)
        x = process.step(x_t, process.oracle(batch["x"], x_t, t), plan, Generator(2))
        torch.testing.assert_close(x, batch["x"], rtol=0, atol=2e-4)


@cases
def test_encoding_and_decoding_is_a_round_trip(case: Case) -> None:
    """To first order: the gap falls with the number of steps."""
    process, batch = case.process.bind(case.batch()), case.batch()
    assert isinstance(process, Brownian)
    x_0, gaps = batch["x"], []
    x_t = process.diffuse(x_0, time(0.6), Generator(1))
    for steps in (8, 16, 32):
        x, up = x_t, torch.linspace(0.6, 0.9, steps + 1, dtype=torch.float64)
        for times in (up, up.flip(0)):
            for t, plan in zip(times, process.plan(times, 0.0), strict=False):
                x = process.step(x, process.oracle(x_0, x, t), plan, Generator(2))
        gaps.append(float(process.manifold.log(x, x_t).abs().max()))
    assert gaps[0] < 0.3
    assert gaps[0] > 1.7 * gaps[1] > 2.9 * gaps[2]
    with pytest.raises(ValueError, match="times must fall"):
        process.plan(grid(0.2, 0.4), 0.5)


@cases
def test_combine_in_the_tangent_space(case: Case) -> None:
    """History at x_t itself adds plainly; elsewhere the denoised point is carried along."""
    process, batch = case.process.bind(case.batch()), case.batch()
    assert isinstance(process, Brownian)
    space, x = process.manifold, batch["x"]
    v, w = space.noise(x, Generator(0)) * 0.01, space.noise(x, Generator(1)) * 0.01
    weights = (time(1.5), time(-0.5))
    mixed = process.combine([(x, Estimate(v)), (x, Estimate(w))], weights, x)
    torch.testing.assert_close(mixed.value, 1.5 * v - 0.5 * w)
    y = space.exp(x, w)
    back = space.transport(x, y, -w)
    mixed = process.combine([(x, Estimate(v)), (y, Estimate(back))], weights, x)
    torch.testing.assert_close(mixed.value, 1.5 * v, rtol=1e-6, atol=1e-9)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must have alpha = 1: use Geometric or Karras"):
        Brownian(Linear(), Torus(1))
    process = circle(2)
    with pytest.raises(ValueError, match=r"must be \(\) or \(rows,\), got \(2, 1\): give whole"):
        process.diffuse(torch.zeros(2, 1).double(), torch.zeros(2, 1), Generator(0))
