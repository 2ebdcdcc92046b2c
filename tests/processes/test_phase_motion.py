"""Phase space: closed moments and exact steps in matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Cosine, Gaussian, Linear, Product
from structdiff.parameterisations import Data
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball
from structdiff.processes.phase_steps import exact_steps
from structdiff.schedules import CLEAN
from structdiff.testing import laws
from tests.processes.cases import grid, time
from tests.processes.phase_motions import MOTIONS, motions, one


def runge_kutta(field: Callable[[float, Tensor], Tensor], x: Tensor, a: float, b: float) -> Tensor:
    steps = 300
    h = (b - a) / steps
    for i in range(steps):
        t = a + i * h
        k = field(t, x)
        m = field(t + h / 2, x + h / 2 * k)
        n = field(t + h / 2, x + h / 2 * m)
        x = x + h / 6 * (k + 2 * m + 2 * n + field(t + h, x + h * n))
    return x


@motions
def test_moments_solve_their_equation(motion: PhaseMotion) -> None:
    """m' = A m and S' = A S + S A^T + Q, from where the motion begins."""
    late = float(motion.tau(time(0.8)))

    def field(_: float, both: Tensor) -> Tensor:
        m, s = both
        return torch.stack(
            [motion.drift @ m, motion.drift @ s + s @ motion.drift.mT + motion.noise]
        )

    start = torch.stack([torch.eye(2).double(), motion.start])
    m, s = runge_kutta(field, start, 0.0, late)
    state = motion.state(time(0.8))
    torch.testing.assert_close(state.mean, m, rtol=0, atol=1e-8)
    torch.testing.assert_close(state.covariance, s, rtol=0, atol=1e-8)


def test_pairs_end_in_the_stationary_law() -> None:
    """N(0, I) for positions, N(0, M I) for velocities; nothing is left of the data."""
    for mass in (0.25, 2.0):
        state = critically_damped(Cosine(), mass=mass).state(time(1.0))
        torch.testing.assert_close(state.covariance, torch.diag(time(1.0).new([1.0, mass])))
        assert float(state.mean.abs().max()) < 1e-5
    state = heavy_ball(Cosine(), stiffness=3.0, friction=2.0).state(time(1.0))
    torch.testing.assert_close(state.covariance, torch.diag(time(1.0).new([1.0, 3.0])))


@motions
def test_short_motions_keep_their_digits(motion: PhaseMotion) -> None:
    """The position's variance begins as q a^2 tau^3 / 3, where noise is on the velocity alone."""
    tau = time(1e-5)
    if float(motion.noise[0, 0]) == 0:
        expected = motion.noise[1, 1] * motion.drift[0, 1] ** 2 * tau**3 / 3
        torch.testing.assert_close(motion.scatter(tau)[0, 0], expected, rtol=1e-3, atol=0)
    joined = motion.flow(tau) @ motion.scatter(tau) @ motion.flow(tau).mT + motion.scatter(tau)
    torch.testing.assert_close(motion.scatter(2 * tau), joined, rtol=1e-10, atol=0)
    for length in (0.9 * motion.short, 1.1 * motion.short):
        h = time(length)
        joined = motion.flow(h) @ motion.scatter(h) @ motion.flow(h).mT + motion.scatter(h)
        torch.testing.assert_close(motion.scatter(2 * h), joined, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("mass", [0.25, 2.0])
def test_critical_damping_has_the_covariance_of_the_paper(mass: float) -> None:
    """Dockhorn et al., appendix B, at friction G = 2 sqrt(M), from a velocity of variance v."""
    motion = critically_damped(Linear(), mass=mass)
    assert motion.gap == 0
    tau, g, v = float(motion.tau(time(0.4))), 2 * math.sqrt(mass), 0.04 * mass
    grown = math.exp(4 * tau / g)
    place = grown - 1 - 4 * tau / g - 8 * tau**2 / g**2 + 16 * tau**2 * v / g**4
    both = 4 * tau * v / g**2 + 4 * tau**2 / g - 8 * tau**2 * v / g**3
    speed = g**2 / 4 * (grown - 1) + tau * g + v * (1 - 2 * tau / g) ** 2 - 2 * tau**2
    expected = torch.tensor([[place, both], [both, speed]], dtype=torch.float64) / grown
    torch.testing.assert_close(motion.state(time(0.4)).covariance, expected)


def test_momentum_is_the_limit_of_the_heavy_ball() -> None:
    """x_{n+1} = x_n - k h^2 x_n + (1 - c h)(x_n - x_{n-1}) + h sqrt(2 k c h) z, by its moments."""
    k, c, h, length = 1.0, 2.0, 1e-4, 1.5
    motion = heavy_ball(Linear(), stiffness=k, friction=c)
    ball = torch.tensor([[2 - c * h - k * h * h, -(1 - c * h)], [1.0, 0.0]], dtype=torch.float64)
    noise = torch.tensor([[2 * k * c * h**3, 0.0], [0.0, 0.0]], dtype=torch.float64)
    m, s = torch.tensor([1.0, 1.0]).double(), torch.zeros(2, 2).double()
    for _ in range(round(length / h)):
        m, s = ball @ m, ball @ s @ ball.mT + noise
    tau = time(length)
    assert float(m[0]) == pytest.approx(float(motion.flow(tau)[0, 0]), abs=2e-4)
    assert float(s[0, 0]) == pytest.approx(float(motion.scatter(tau)[0, 0]), abs=2e-4)


@motions
def test_the_deterministic_step_is_the_flow(motion: PhaseMotion) -> None:
    """With the data known, against Runge and Kutta's method on r' = (A + Q Sigma^{-1} / 2) r."""
    t, s = time(0.7), time(0.3)
    tau = [float(motion.tau(x)) for x in (t, s)]

    def field(at: float, r: Tensor) -> Tensor:
        at = time(at)
        mean = motion.flow(at)
        covariance = mean @ motion.start @ mean.mT + motion.scatter(at)
        return (motion.drift + 0.5 * motion.noise @ torch.linalg.inv(covariance)) @ r

    flow = runge_kutta(field, torch.eye(2).double(), *tau)
    got = exact_steps(motion, torch.stack([t, s]), 0.0)
    torch.testing.assert_close(got.keep[0], flow, rtol=0, atol=1e-5)
    expected = motion.state(s).mean - flow @ motion.state(t).mean
    torch.testing.assert_close(got.data[0], expected, rtol=0, atol=1e-5)
    assert not got.noise.any()


@motions
@pytest.mark.parametrize(("t", "s"), [(0.7, 0.3), (0.5, 0.499), (1.0, 0.01)])
def test_the_stochastic_step_is_bayes(motion: PhaseMotion, t: float, s: float) -> None:
    """By conditioning the joint normal of (u_s, u_t)."""
    early, late = (motion.state(time(x)) for x in (s, t))
    carried = motion.flow(motion.tau(time(t)) - motion.tau(time(s)))
    cross = carried @ early.covariance
    gain = torch.linalg.solve(late.covariance, cross).mT
    left = early.covariance - gain @ cross
    got = exact_steps(motion, grid(t, s), 1.0)
    torch.testing.assert_close(got.keep[0], gain, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(got.noise[0] @ got.noise[0].mT, left, rtol=1e-6, atol=1e-11)


@motions
def test_noise_in_two_parts_is_noise_at_once(motion: PhaseMotion) -> None:
    data = Batch.of(with_velocities(torch.tensor([-1.0, 0.4, 1.3]).double()))
    product = Product({"x": PhaseSpace(motion, Data())})
    laws.semigroup(laws.Bench(product, data, 12_000, 0.4, 0.7, 1, 5.0, 0))


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_steps_keep_the_marginals(eta: float) -> None:
    for motion in MOTIONS.values():
        step = exact_steps(motion, grid(0.8, 0.2), eta)
        mean = step.keep[0] @ motion.state(time(0.8)).mean + step.data[0]
        spread = step.keep[0] @ motion.state(time(0.8)).covariance @ step.keep[0].mT
        spread = spread + step.noise[0] @ step.noise[0].mT
        torch.testing.assert_close(mean, motion.state(time(0.2)).mean)
        torch.testing.assert_close(spread, motion.state(time(0.2)).covariance)


def test_without_coupling_it_is_ddim() -> None:
    """A velocity that does not matter leaves the variance preserving process, at any eta."""
    motion = PhaseMotion(
        Linear(), [[-0.5, 0.0], [0.0, -0.7]], [[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.5]]
    )
    ours = one(PhaseSpace(motion, Data()))
    plain = Gaussian(motion).bind(Batch.of(torch.zeros(1, dtype=torch.float64)))
    times = grid(1.0, 0.6, 0.3, 0.1, CLEAN)
    for eta in (0.0, 0.5, 1.0):
        for a, b in zip(ours.plan(times, eta), plain.plan(times, eta), strict=True):
            for left, right in ((a.keep, b.keep), (a.data, b.data), (a.noise, b.noise)):
                assert float(left[0]) == pytest.approx(float(right), abs=1e-9)
                assert float(left[1]) == pytest.approx(0.0, abs=1e-12)


def test_steps_do_not_depend_on_coordinates() -> None:
    """A change of coordinates of the pair changes matrices as it must: (E A E^{-1}, E Q E^T)."""
    e = torch.tensor([[1.0, 0.3], [0.0, 0.8]]).double()
    base = MOTIONS["noise on both"]
    back = torch.linalg.inv(e)
    moved = PhaseMotion(
        Linear(),
        (e @ base.drift @ back).tolist(),
        ((e @ base.noise @ e.mT + (e @ base.noise @ e.mT).mT) / 2).tolist(),
        ((e @ base.start @ e.mT + (e @ base.start @ e.mT).mT) / 2).tolist(),
    )
    for eta in (0.0, 1.0):
        a, b = (exact_steps(motion, grid(0.9, 0.4), eta) for motion in (base, moved))
        torch.testing.assert_close(e @ a.keep[0] @ back, b.keep[0], rtol=0, atol=1e-9)
        noise = e @ a.noise[0] @ a.noise[0].mT @ e.mT
        torch.testing.assert_close(noise, b.noise[0] @ b.noise[0].mT, rtol=0, atol=1e-12)
