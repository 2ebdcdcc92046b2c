"""Laws of the geodesic random walk in flat space, its reversal, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import Batch, Brownian, Generator, Geometric, Layout, Linear
from structdiff.divergence import exact_divergence
from structdiff.processes import Estimate, Product
from structdiff.processes.langevin import Langevin
from structdiff.schedules import CLEAN
from structdiff.spaces import SO3, Euclidean, HeatLaw, Manifold, Torus, UniformLaw, WrappedNormal
from structdiff.spaces.sphere import Sphere
from structdiff.testing.noise import Silent
from tests.processes.cases import grid, time
from tests.processes.geodesic_walks import ROWS, WIDE, bound, many, tau_of, within


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
