"""Laws of the geodesic random walk: exact kernels, quadrature on the circle, flat space."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Brownian, Generator, Geometric, Layout, Linear
from structdiff.divergence import exact_divergence
from structdiff.processes import Estimate, Product
from structdiff.processes.langevin import Langevin
from structdiff.schedules import CLEAN, Schedule
from structdiff.spaces import (
    SO3,
    Euclidean,
    HeatLaw,
    Law,
    Manifold,
    Torus,
    UniformLaw,
    WrappedNormal,
)
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.sphere import Sphere
from structdiff.testing.noise import Silent
from tests.processes.cases import grid, time

ROWS = 40_000
WIDE: Schedule = Geometric(0.05, 2.0)


def bound(space: Manifold, x: Tensor, steps: int, **options) -> Langevin:
    """Brownian motion by a walk, or one with a drift."""
    law = options.pop("law", None) or UniformLaw(space)
    process = Langevin(options.pop("schedule", WIDE), space, law, steps=steps, **options)
    return process.bind(Batch.of(x))


def many(space: Manifold, rows: int = ROWS) -> Tensor:
    """Copies of the origin."""
    return space.origin(torch.float64, "cpu").expand(rows, *space.point)


def chi(dimension: int, value: Callable[[Tensor], Tensor]) -> float:
    """E value(|z|) for a standard normal z in this many dimensions."""
    r = torch.linspace(0, 14, 20_001, dtype=torch.float64)
    weight = r ** (dimension - 1) * torch.exp(-r.square() / 2)
    return float(torch.trapezoid(weight * value(r), r) / torch.trapezoid(weight, r))


def within(values: Tensor, expected: float, extra: float = 0.0) -> None:
    """Within four standard errors of the sample."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error + extra


# On these spaces a function f of the distance r to the start is an eigenfunction of the Laplacian,
# f(0) = 1, so that Brownian motion has E f = e^{growth tau}, and each step of a walk multiplies
# E f by E f(sqrt(h) |z|).
EIGEN = {
    "sphere": (Sphere(2), torch.cos, -1.0),
    "SO3": (SO3(), lambda r: (1 + 2 * torch.cos(r)) / 3, -1.0),
    "hyperbolic": (Hyperbolic(3), torch.cosh, 1.5),
}
eigen = pytest.mark.parametrize("name", EIGEN)


class Free(Law):
    """No law at all: the volume."""

    def __init__(self, space: Manifold) -> None:
        self.manifold, self.name = space, "volume"

    def draw(self, rows, random, dtype, device) -> Tensor:
        return self.manifold.origin(dtype, device).expand(rows, *self.manifold.point)

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def score(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), *self.manifold.tangent)


def free_walk(space: Manifold, steps: int, tau: float, rows: int = ROWS) -> Tensor:
    """Distances from the start after a walk without drift."""
    x = many(space, rows)
    process = bound(space, x, steps, law=Free(space))
    end = process.walk(x, torch.tensor(tau, dtype=torch.float64), Generator(steps))
    return space.distance(x, end)


@eigen
def test_each_step_draws_the_geodesic_normal(name: str) -> None:
    """The walk's mean of an eigenfunction, by quadrature over each step."""
    space, wave, _ = EIGEN[name]
    for steps in (1, 3):
        one = chi(space.dimension, lambda r, h=1 / steps: wave(math.sqrt(h) * r))
        within(wave(free_walk(space, steps, 1.0)), one**steps)


@eigen
def test_bias_against_the_heat_kernel_halves_with_doubled_steps(name: str) -> None:
    """Weak order 1: the figures of the module's head."""
    space, wave, growth = EIGEN[name]
    exact, errors = math.exp(growth), []
    for steps in (8, 16, 32):
        one = chi(space.dimension, lambda r, h=1 / steps: wave(math.sqrt(h) * r))
        errors.append(abs(one**steps / exact - 1))
    stated = {"sphere": 0.0217, "SO3": 0.0106, "hyperbolic": 0.0561}[name]
    assert errors[0] == pytest.approx(stated, rel=0.01)
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def kernel(dimension: int, r: Tensor, tau: float) -> Tensor:
    """The heat kernel of hyperbolic space, generator Laplacian / 2, without its constant."""
    if dimension == 3:
        return r / torch.sinh(r) * torch.exp(-r.square() / (2 * tau))
    # The plane: an integral over s > r; s = r + u^2 takes the root out of it.
    u = torch.linspace(0, 4, 4001, dtype=torch.float64)[1:]
    s = r[:, None] + u.square()
    gap = torch.cosh(s) - torch.cosh(r)[:, None]
    return torch.trapezoid(s * torch.exp(-s.square() / (2 * tau)) / gap.sqrt() * 2 * u, u)


@pytest.mark.parametrize("dimension", [2, 3])
def test_walk_on_hyperbolic_space_has_the_distances_of_the_kernel(dimension: int) -> None:
    r = torch.linspace(1e-6, 9, 801, dtype=torch.float64)
    density = kernel(dimension, r, 1.0) * torch.sinh(r) ** (dimension - 1)
    mean = float(torch.trapezoid(r * density, r) / torch.trapezoid(density, r))
    space = Hyperbolic(dimension)
    errors = [mean - float(free_walk(space, steps, 1.0).mean()) for steps in (1, 2, 4)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4)
    assert errors[0] / errors[2] == pytest.approx(4, abs=1.2)
    within(free_walk(space, 32, 1.0), mean, extra=errors[2] / 8)


@pytest.mark.parametrize("space", [Sphere(2), SO3(), Torus(2)], ids=["sphere", "SO3", "torus"])
def test_long_walk_forgets_its_start(space: Manifold) -> None:
    """R01 (b): first and second moments of the features are those of the uniform law."""
    x = many(space, 20_000)
    process = bound(space, x, 12, schedule=Geometric(0.05, 4.0))
    last = process.diffuse(x, time(1.0), Generator(0))
    end, prior = space.features(last), space.features(process.prior(Generator(1)))
    for a, b in ((end, prior), (end.square(), prior.square())):
        error = torch.hypot(a.std(0), b.std(0)) / math.sqrt(len(a))
        assert bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all())
    assert bool(space.belongs(last, 1e-5).inside.all())


@pytest.mark.parametrize("dimension", [2, 3])
def test_walk_on_hyperbolic_space_ends_in_the_wrapped_normal(dimension: int) -> None:
    """Its distances from the centre have the law's moments, up to the bias of 16 steps."""
    space = Hyperbolic(dimension)
    law = WrappedNormal(space, 0.5)
    way = torch.tensor([1.5, *[0.0] * (dimension - 1)], dtype=torch.float64)
    x = space.exp(many(space), way.expand(ROWS, dimension))
    process = bound(space, x, 16, law=law)
    centre = many(space)
    r = space.distance(centre, process.diffuse(x, time(1.0), Generator(0)))
    assert float(r.square().mean()) == pytest.approx(dimension * 0.25, rel=0.03)
    within(r, chi(dimension, lambda r: 0.5 * r), extra=0.01)
    direction = space.log(centre, process.diffuse(x, time(1.0), Generator(1)))
    within(direction[:, 0], 0.0, extra=0.01)


class TestFlat:
    """On R^2 with a normal law everything is the Ornstein-Uhlenbeck process, exactly."""

    space = Euclidean(2)
    x_0 = torch.tensor([[2.0, -1.0]]).double()
    kappa = 1 / (2 * 1.5**2)

    def process(self, rows: int, steps: int = 3) -> Langevin:
        law = WrappedNormal(self.space, 1.5)
        return bound(self.space, self.x_0.expand(rows, 2), steps, law=law, rate=self.kappa)

    def level(self, t: float) -> tuple[float, float]:
        """Factor on the data and variance."""
        tau = float(WIDE.sigma(time(t)) ** 2)
        alpha = math.exp(-self.kappa * tau)
        return alpha, 1.5**2 * (1 - alpha**2)

    def test_walk(self) -> None:
        process = self.process(ROWS)
        x_s = process.diffuse(process.known, time(0.6), Generator(0))
        x_t = process.corrupt(x_s, time(0.6), time(0.9), Generator(1))
        for x, t in ((x_s, 0.6), (x_t, 0.9)):
            alpha, variance = self.level(t)
            for k in range(2):
                within(x[:, k], alpha * float(self.x_0[0, k]))
                within((x[:, k] - alpha * float(self.x_0[0, k])).square(), variance)

    def test_varadhan_with_the_drift_is_the_score(self) -> None:
        process, x_t = self.process(1), torch.tensor([[0.3, 4.0]]).double()
        for t in (0.0, 0.5, 1.0):
            alpha, variance = self.level(t)
            estimate = process.oracle(self.x_0, x_t, time(t))
            score = process.score(estimate, x_t, time(t))
            torch.testing.assert_close(score, (alpha * self.x_0 - x_t) / variance)
        assert not process.oracle(self.x_0, self.x_0, time(CLEAN)).value.any()

    @pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
    def test_step_is_the_posterior(self, eta: float) -> None:
        """At eta 1 Bayes' rule, at 0 the same noise at another level."""
        process, x_t = self.process(1), torch.tensor([[0.3, 4.0]]).double()
        oracle = process.oracle(self.x_0, x_t, time(0.9))
        (step,) = process.plan(grid(0.9, 0.4), eta)
        still = process.move(x_t, oracle, step._replace(stochastic=False), Silent())
        (alpha, variance), (alpha_s, variance_s) = self.level(0.9), self.level(0.4)
        carried = alpha / alpha_s
        kept = variance_s * (1 - eta**2 * (1 - carried**2 * variance_s / variance))
        z = (x_t - alpha * self.x_0) / math.sqrt(variance)
        torch.testing.assert_close(still, alpha_s * self.x_0 + math.sqrt(kept) * z)
        assert float(step.noise) == pytest.approx(math.sqrt(variance_s - kept), abs=1e-9)

    def test_velocity_is_the_drift_less_half_the_score(self) -> None:
        process, x_t = self.process(1), torch.tensor([[0.3, 4.0]]).double()
        oracle = process.oracle(self.x_0, x_t, time(0.7))
        score = process.score(oracle, x_t, time(0.7))
        growth = float(2 * WIDE.slope(time(0.7)) * WIDE.sigma(time(0.7)) ** 2)
        expected = growth * 0.5 * (-x_t / 1.5**2 - score)
        torch.testing.assert_close(process.velocity(oracle, x_t, time(0.7)), expected)

    def test_leap_is_the_limit_of_the_plan(self) -> None:
        process = self.process(1)
        (leap,), (plan,) = (
            process.leap(grid(0.7, 0.6999)),
            process.plan(grid(0.7, 0.6999), 1.0),
        )
        for a, b in zip(leap[:3], plan[:3], strict=True):
            assert float(a) == pytest.approx(float(b), rel=2e-3)

    def test_last_step_goes_to_the_data(self) -> None:
        process, x_t = self.process(1), torch.tensor([[0.3, 4.0]]).double()
        times = grid(0.7, CLEAN)
        for steps in (process.plan(times, 1.0), process.plan(times, 0.0), process.leap(times)):
            oracle = process.oracle(self.x_0, x_t, time(0.7))
            torch.testing.assert_close(process.step(x_t, oracle, steps[0], Silent()), self.x_0)

    def test_measured_rate(self) -> None:
        law = WrappedNormal(self.space, 1.5)
        assert bound(self.space, self.x_0, 1, law=law).rate == pytest.approx(self.kappa, rel=0.05)


def test_steps_are_even_in_the_clock_of_the_law() -> None:
    process = TestFlat().process(1, steps=10)
    lengths = process.lengths(torch.tensor([4.0, 0.5, 0.0, 60.0]).double())
    torch.testing.assert_close(lengths.sum(0), torch.tensor([4.0, 0.5, 0.0, 60.0]).double())
    left = lengths.flip(0).cumsum(0).flip(0)
    clock = torch.exp(-process.rate / 2 * left[:, :2])
    torch.testing.assert_close(clock.diff(dim=0).diff(dim=0), torch.zeros(8, 2).double())


class TestCircle:
    """With a drift on the circle: the Fokker-Planck equation by Fourier series."""

    space = Torus(1)
    law = HeatLaw(Torus(1), 1.0)
    nodes = 64
    x = (torch.arange(nodes, dtype=torch.float64) / nodes * 2 - 1) * math.pi

    def density(self, tau: float) -> Tensor:
        """p_tau on the nodes for data from a heat kernel around 2 at 0.1."""
        wave = torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)
        unit = torch.eye(self.nodes, dtype=torch.float64)
        slope = torch.fft.ifft(1j * wave[:, None] * torch.fft.fft(unit, dim=0), dim=0).real
        drift = torch.diag(self.law.score(self.x[:, None])[:, 0])
        generator = 0.5 * slope @ (slope - drift)
        data = HeatLaw(self.space, 0.1, torch.tensor([2.0])).log_prob(self.x[:, None]).exp()
        return torch.linalg.matrix_exp(tau * generator) @ data

    def series(self, tau: float) -> tuple[Tensor, Tensor]:
        coefficient = torch.fft.fft(self.density(tau)) / self.nodes
        return coefficient, torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)

    def score(self, x: Tensor, tau: float) -> Tensor:
        """d log p / dx at any angles, `(rows, 1)`, by the 24 slowest waves."""
        coefficient, wave = (part[:25] for part in self.series(tau))
        turn = (x + math.pi) * wave
        real, imaginary = (
            2 * torch.cat([part[:1] / 2, part[1:]])
            for part in (coefficient.real, coefficient.imag)
        )
        cosine, sine = torch.cos(turn), torch.sin(turn)
        p = cosine @ real - sine @ imaginary
        return ((-sine @ (wave * real) - cosine @ (wave * imaginary)) / p)[:, None]

    def quantiles(self, tau: float, rows: int) -> Tensor:
        """Evenly spaced quantiles of p_tau, `(rows, 1)`."""
        fine = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
        coefficient, wave = self.series(tau)
        p = (torch.exp(1j * (fine[:, None] + math.pi) * wave) @ coefficient).real
        mass = torch.cumulative_trapezoid(p, fine)
        u = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        place = torch.searchsorted(mass, u).clamp(max=len(mass) - 1)
        below = torch.cat([mass.new_zeros(1), mass])[place]
        share = (u - below) / (mass[place] - below)
        return (fine[place] + share * (fine[1] - fine[0]))[:, None]

    def mean(self, tau: float) -> Tensor:
        """E cos x and E sin x."""
        coefficient, _ = self.series(tau)
        first = coefficient[1] * math.pi * 2 * torch.exp(torch.tensor(1j * math.pi))
        return torch.stack([first.real, -first.imag])

    @staticmethod
    def moments(x: Tensor) -> Tensor:
        return torch.stack([torch.cos(x).mean(), torch.sin(x).mean()])

    def test_quantiles(self) -> None:
        """The fixture itself."""
        got = self.moments(self.quantiles(0.8, 20_000))
        torch.testing.assert_close(got, self.mean(0.8), atol=1e-3, rtol=0)

    def test_walk(self) -> None:
        errors, tau = [], 1.0
        for steps in (4, 16):
            x = self.quantiles(0.0, 200_000)[torch.randperm(200_000)]
            process = bound(self.space, x, steps, law=self.law)
            end = process.walk(x, torch.tensor(tau).double(), Generator(steps))
            errors.append(float((self.moments(end) - self.mean(tau)).norm()))
        assert errors[0] > 0.015
        assert errors[1] < errors[0] / 2.3

    @pytest.mark.parametrize(("eta", "rows"), [(0.0, 2000), (1.0, 60_000)])
    def test_reverse_walk_with_the_exact_score(self, eta: float, rows: int) -> None:
        """From p_t back to p_s: the error falls with the step."""
        errors = []
        for steps in (4, 8, 16):
            times = torch.linspace(1.0, 0.55, steps + 1, dtype=torch.float64)
            x = self.quantiles(float(WIDE.sigma(times[0])) ** 2, rows)
            process = bound(self.space, x, 1, law=self.law)
            for t, step in zip(times, process.plan(times, eta), strict=False):
                tau = float(WIDE.sigma(t)) ** 2
                estimate = Estimate(tau * self.score(x, tau))
                x = process.step(x, estimate, step, Generator(int(steps * 1000 + 100 * t)))
            errors.append(float((self.moments(x) - self.mean(tau_of(0.55))).norm()))
        assert errors[0] < 0.1
        assert errors[0] / errors[1] > 1.6
        assert errors[1] / errors[2] > 1.6 or errors[2] < 0.004

    def test_velocity_moves_the_density(self) -> None:
        """The continuity equation: dp/dt + d(p velocity)/dx = 0."""
        t, h = 0.8, 1e-5
        process = bound(self.space, self.x[:, None], 1, law=self.law)
        rate = (self.density(tau_of(t + h)) - self.density(tau_of(t - h))) / (2 * h)
        tau = tau_of(t)
        estimate = Estimate(tau * self.score(self.x[:, None], tau))
        flux = self.density(tau) * process.velocity(estimate, self.x[:, None], time(t))[:, 0]
        wave = torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)
        slope = torch.fft.ifft(1j * wave * torch.fft.fft(flux)).real
        torch.testing.assert_close(rate, -slope, atol=1e-5, rtol=0)


def tau_of(t: float) -> float:
    return float(WIDE.sigma(time(t)) ** 2)


def test_without_drift_the_reversal_is_that_of_brownian_motion() -> None:
    space, x = Sphere(2), many(Sphere(2), 3)
    walk, kernel_process = bound(space, x, 4), Brownian(WIDE, space).bind(Batch.of(x))
    times = torch.tensor([1.0, 0.6, 0.3, 0.0, CLEAN], dtype=torch.float64)
    for ours, theirs in (
        *zip(walk.plan(times, 0.7), kernel_process.plan(times, 0.7), strict=True),
        *zip(walk.leap(times), kernel_process.leap(times), strict=True),
    ):
        torch.testing.assert_close(ours.drift, theirs.drift)
        torch.testing.assert_close(ours.noise, theirs.noise)
        assert not walk.pull(x).any()


@pytest.mark.parametrize(
    ("space", "factor"), [(Sphere(2), 1 / 6), (SO3(), 1 / 12)], ids=["sphere", "SO3"]
)
def test_varadhan_is_off_by_the_curvature(space: Manifold, factor: float) -> None:
    """(n - 1) / 6 times the curvature times tau, relative to the score of the kernel."""
    x = space.uniform(2000, Generator(0), torch.float64, "cpu")
    exact = Brownian(Geometric(0.1, 3.0), space).bind(Batch.of(x))
    walk = bound(space, x, 1, schedule=Geometric(0.1, 3.0))
    for t in (0.0, 0.2):
        x_t = exact.diffuse(x, time(t), Generator(1))
        guess, truth = (p.oracle(x, x_t, time(t)).value for p in (walk, exact))
        gap = space.norm2(guess - truth).mean().sqrt() / space.norm2(truth).mean().sqrt()
        tau = float(exact.schedule.sigma(time(t)) ** 2)
        assert float(gap) == pytest.approx(factor * tau, rel=0.1)


def test_divergence_sees_the_drift() -> None:
    """Of the velocity at a score of zero, on R^2: tau' / 2 times -2 / s^2."""
    process = Product(
        {"x": Langevin(WIDE, Euclidean(2), WrappedNormal(Euclidean(2), 1.5), steps=1)}
    )
    batch = Batch.of(torch.randn(3, 2, dtype=torch.float64))
    still = process.bind(batch)
    t = still.times(time(0.7))
    field = lambda x: still.velocity({"x": Estimate(torch.zeros_like(x["x"]))}, x, t)  # noqa: E731
    got = exact_divergence(field, still, batch).divergence["x"]
    growth = float(2 * WIDE.slope(time(0.7)) * tau_of(0.7))
    torch.testing.assert_close(got, torch.full((3,), -growth / 1.5**2).double())


def test_given_rows_stay_and_rows_have_their_own_times() -> None:
    space = Sphere(2)
    x = space.uniform(4, Generator(0), torch.float64, "cpu")
    held = torch.tensor([True, False, False, True])
    process = Langevin(WIDE, space, UniformLaw(space), steps=3)
    process = process.bind(Batch({"x": x}, {"x": Layout.regular(4)}, given={"x": held}))
    t = process.times(torch.tensor([0.5, CLEAN, 0.9, 0.5]).double())
    moved = process.diffuse(x, t, Generator(1))
    assert (moved == x).all(1).tolist() == [True, True, False, True]
    prior = process.prior(Generator(2))
    assert torch.equal(prior[held], x[held])
    (step,) = process.plan(grid(0.9, 0.5), 1.0)
    oracle = process.oracle(space.uniform(4, Generator(3), torch.float64, "cpu"), moved, t)
    assert torch.equal(process.step(x, oracle, step, Generator(4))[held], x[held])
    assert not process.velocity(oracle, moved, time(0.5))[held].any()
    single = process.bind(Batch.of(x.float()))
    assert single.diffuse(x.float(), time(0.5), Generator(1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": Linear()}, "alpha = 1"),
        ({"law": UniformLaw(Torus(1))}, "law must be one on Torus with points .2,., got one on"),
        ({"rate": -1.0}, "rate must be at least 0 and finite, got -1"),
        ({"rate": 6.0}, "reached long ago: end it at sigma = 1.29"),
    ],
)
def test_refusals(arguments, message) -> None:
    space = Torus(2)
    settings = {"schedule": WIDE, "law": HeatLaw(space, 1.0), "steps": 4, **arguments}
    with pytest.raises(ValueError, match=message):
        Langevin(settings.pop("schedule"), space, settings.pop("law"), **settings)
