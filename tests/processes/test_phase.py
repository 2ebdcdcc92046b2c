"""Phase space: closed moments, exact steps in matrices, and what the network is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Denoising,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Linear,
    Multistep,
    NetworkDenoiser,
    Product,
    UniformLogSNR,
    absorbing,
)
from structdiff.denoiser import Denoiser
from structdiff.likelihood import flow_log_prob
from structdiff.parameterisations import Data, Noise
from structdiff.processes import Estimate, Scored, Tractable
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_matrices import cholesky
from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball
from structdiff.processes.phase_steps import exact_steps
from structdiff.samplers.splitting import SymmetricSplitting
from structdiff.schedules import CLEAN
from structdiff.testing import ExactDenoiser, Impulses, laws, sort_records, walk
from tests.processes.cases import grid, time

MOTIONS = {
    "critical": critically_damped(Linear()),
    "critical cosine": critically_damped(Cosine(), mass=2.0),
    "critical without spread": critically_damped(Linear(), spread=0.0),
    "underdamped": heavy_ball(Linear(), stiffness=1.0, friction=1.2),
    "overdamped": heavy_ball(Linear(), stiffness=2.0, friction=9.0),
    "noise on both": PhaseMotion(
        Linear(), [[-0.4, 0.8], [-0.5, -1.5]], [[0.3, 0.1], [0.1, 1.0]], [[0.0, 0.0], [0.0, 0.2]]
    ),
}
motions = pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS.keys())


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


def one(process: PhaseSpace, rows: int = 1, x: float = 1.5) -> PhaseSpace:
    data = torch.full((rows, *process.event), x, dtype=torch.float64)
    data[:, 1] = 0
    return process.bind(Batch.of(data))


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
    laws.semigroup(laws.Bench(product, data, 1500, 0.4, 0.7, 1, 5.0, 0))


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


def test_the_score_is_the_gradient_of_the_density() -> None:
    process = PhaseSpace(critically_damped(Linear()), event=(2,))
    x_0 = with_velocities(torch.tensor([[1.0, -2.0], [0.5, 0.0]]).double())
    process = process.bind(Batch.of(x_0))
    assert process.offers(Tractable)
    assert process.offers(Scored)
    x_t = process.diffuse(x_0, time(0.4), Generator(0)).requires_grad_()
    (slope,) = torch.autograd.grad(process.log_prob(x_t, x_0, time(0.4)).sum(), x_t)
    score = process.score(process.oracle(x_0, x_t, time(0.4)), x_t, time(0.4))
    torch.testing.assert_close(score, slope)


class Recorder(torch.nn.Module):
    """Says zero and keeps what it was shown."""

    def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
        self.seen = batch["x"]
        return {"x": torch.zeros_like(batch["x"][:, 0])}


def test_the_network_is_asked_for_the_score_of_the_velocity_alone() -> None:
    """The noise of the velocity given the position: what it says is the velocity's score, and the
    position's follows.
    """
    process = PhaseSpace(critically_damped(Linear()), event=(2,))
    x_0 = with_velocities(torch.randn(5, 2, dtype=torch.float64))
    bound, t = process.bind(Batch.of(x_0)), time(0.4)
    x_t = bound.diffuse(x_0, t, Generator(1))
    factor = cholesky(process.motion.state(t).covariance)
    truth = bound.score(bound.oracle(x_0, x_t, t), x_t, t)
    output = -factor[1, 1] * truth[:, 1]
    assert output.shape == (5, 2)
    estimate = bound.decode(output, x_t, t)
    torch.testing.assert_close(estimate.value, x_0)
    other = bound.decode(output + 0.3, x_t, t)
    score = bound.score(other, x_t, t)
    torch.testing.assert_close(score[:, 1], truth[:, 1] - 0.3 / factor[1, 1])
    network = Recorder()
    denoiser = NetworkDenoiser(network, Product({"x": process}))
    terms = Denoising()(denoiser, Batch.of(x_0), Generator(0))
    assert network.seen.shape == (5, 2, 2)
    assert float(terms.total) > 0


@pytest.mark.parametrize("parameterisation", [Data(), Noise()])
def test_other_predictions_are_about_what_the_pair_says(parameterisation: object) -> None:
    """y = alpha x_0 + sigma z: of the right mean and variance, and the decoder finds x_0."""
    process = one(PhaseSpace(critically_damped(Linear()), parameterisation), 40_000, 1.5)
    t = time(0.3)
    x_t = process.diffuse(process.known, t, Generator(0))
    y, level = process.summary(x_t, t)
    z = (y - level.alpha * 1.5) / level.sigma
    assert abs(float(z.mean())) < 4.5 / math.sqrt(len(z))
    assert abs(float(z.var()) - 1) < 4.5 * math.sqrt(2 / len(z))
    output = parameterisation.target(torch.full_like(y, 1.5), y, level.alpha, level.sigma)
    found = process.decode(output, x_t, t)
    torch.testing.assert_close(found.value, process.known)
    assert torch.equal(process.encode(x_t, t)[:, 1], x_t[:, 1])


@motions
def test_the_clock_is_what_the_pair_says_of_the_data(motion: PhaseMotion) -> None:
    """The divergence per time is minus half of what SNR loses, for a unit gap; so is that of
    short steps.
    """
    process = one(PhaseSpace(motion, Data()))
    t = time(0.5)
    x_t = process.diffuse(process.known, t, Generator(0))
    other = Estimate(process.known + with_velocities(torch.ones(1).double()))
    rate = process.divergence_rate(other, process.known, x_t, t)
    snr = motion.log_snr(time(0.5) + torch.tensor([-1e-5, 1e-5]).double()).exp()
    assert float(rate) == pytest.approx(-float(snr[1] - snr[0]) / 4e-5, rel=1e-6)
    (step,) = process.plan(grid(0.5, 0.4999), 1.0)
    short = process.divergence(Estimate(process.known), other, x_t, step)
    assert float(short) / 1e-4 == pytest.approx(float(rate), rel=5e-3)
    whole = process.prior_divergence(process.known - other.value, 0.5)
    assert float(whole) == pytest.approx(float(motion.log_snr(t).exp()) / 2)


def test_velocity_and_leap_are_limits_of_steps() -> None:
    process = one(PhaseSpace(critically_damped(Linear())), 4)
    t, h = time(0.6), 1e-6
    x_t = process.diffuse(process.known, t, Generator(0))
    oracle = process.oracle(process.known, x_t, t)
    (still,) = process.plan(grid(0.6, 0.6 - h), 0.0)
    moved = (x_t - process.step(x_t, oracle, still, Generator(0))) / h
    torch.testing.assert_close(process.velocity(oracle, x_t, t), moved, rtol=1e-4, atol=1e-4)
    (leap,), (exact,) = (
        p(grid(0.6, 0.5999)) for p in (process.leap, lambda x: process.plan(x, 1))
    )
    for a, b in ((leap.keep, exact.keep), (leap.data, exact.data)):
        for left, right in zip(a, b, strict=True):
            assert float(left) == pytest.approx(float(right), abs=2e-5)
    a, b = (float(one.noise[2] ** 2 + one.noise[3] ** 2) for one in (leap, exact))
    assert a == pytest.approx(b, rel=2e-3)


def test_the_flow_carries_the_density() -> None:
    """From t = 0.3 to 1 along the flow of one record: q(u | x_0) less q of where it ends."""
    process = PhaseSpace(critically_damped(Linear()))
    x_0 = with_velocities(torch.tensor([0.4]).double())
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(x_0))
    bound = one(process, 4, 0.4)
    u = bound.diffuse(bound.known, time(0.3), Generator(0))
    found = flow_log_prob(denoiser, Batch.of(u), start=0.3, tolerance=1e-7)
    (up,) = bound.plan(grid(0.3, 1.0), 0.0)
    end = bound.step(u, Estimate(bound.known), up, Generator(0))
    torch.testing.assert_close(found.prior["x"], bound.prior_log_prob(end), rtol=0, atol=1e-4)
    density = bound.log_prob(u, bound.known, time(0.3))
    change = density - bound.log_prob(end, bound.known, time(1.0))
    torch.testing.assert_close(found.draws["x"].mean(0), change, rtol=0, atol=1e-4)


def test_shifts_are_gradients_of_the_density() -> None:
    """log p_t plus g u: the score moves by g, both parts of it."""
    process = one(PhaseSpace(critically_damped(Linear())), 3)
    x_t, t = process.diffuse(process.known, time(0.5), Generator(0)), time(0.5)
    oracle = process.oracle(process.known, x_t, t)
    gradient = torch.tensor([[0.3, -0.7]]).double().expand(3, 2)
    moved = process.score(process.shift(oracle, gradient, x_t, t), x_t, t)
    torch.testing.assert_close(moved - process.score(oracle, x_t, t), gradient)


class MixtureDenoiser(Denoiser):
    """The posterior mean of a mixture of normals on R^2, from what the pair says."""

    def __init__(self, process: PhaseSpace, mean: Tensor, std: float) -> None:
        super().__init__()
        self.leaf, self.process = process, Product({"x": process})
        self.centres, self.std = mean, std

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        leaf = self.leaf.bind(batch)
        y, level = leaf.summary(batch["x"], t["x"])
        variance = (level.alpha * self.std) ** 2 + level.sigma**2
        gap = y - level.alpha * self.centres[:, None]
        share = torch.softmax(-0.5 * (gap.square() / variance).sum(-1), 0)
        each = self.centres[:, None] + level.alpha * self.std**2 / variance * gap
        return {"x": Estimate(with_velocities((share[..., None] * each).sum(0)))}


FAR = Linear(0.1, 30.0)
"""At its end even (1 + rate tau) e^{-rate tau} is small."""

CENTRES = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]]).double()


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein distance along 64 directions."""
    angle = torch.arange(64, dtype=torch.float64) / 64 * math.pi
    ways = torch.stack([angle.cos(), angle.sin()])
    gap = (x @ ways).sort(0).values - (y @ ways).sort(0).values
    return float(gap.square().mean().sqrt())


def truth(count: int, seed: int) -> Tensor:
    random = Generator(seed)
    which = (random.uniform((count,), torch.float64, "cpu") * 3).long()
    return CENTRES[which] + 0.3 * random.normal((count, 2), torch.float64, "cpu")


@pytest.mark.parametrize(
    ("motion", "factory", "steps", "limit"),
    [
        (critically_damped(FAR), lambda d, g: Multistep(d, g, order=2), 50, 1.2),
        (heavy_ball(FAR, friction=1.6), lambda d, g: Multistep(d, g, order=2), 50, 1.2),
        (critically_damped(FAR), SymmetricSplitting, 100, 1.6),
    ],
    ids=["gDDIM", "underdamped", "splitting"],
)
def test_a_mixture_is_sampled(
    motion: PhaseMotion, factory: Callable, steps: int, limit: float
) -> None:
    """In 50 calls (100 with noise): sliced W2 at most `limit` times that of two true samples."""
    process = PhaseSpace(motion, Data(), event=(2,))
    denoiser = MixtureDenoiser(process, CENTRES, 0.3)
    sampler = factory(denoiser, UniformLogSNR(motion, steps, end=0.05))
    batch = Batch.of(torch.zeros(10_000, 2, 2, dtype=torch.float64))
    drawn = sampler.sample(batch, Generator(0))["x"][:, 0]
    samples = [truth(10_000, seed) for seed in range(1, 6)]
    noise = [sliced(a, b) for i, a in enumerate(samples) for b in samples[:i]]
    ours = [sliced(drawn, each) for each in samples]
    assert sum(ours) / len(ours) <= limit * sum(noise) / len(noise)


@pytest.mark.parametrize(
    ("factory", "order"),
    [(DDIM, 1), (Heun, 2), (lambda d, g: Multistep(d, g, order=2), 2), (DDPM, 1)]
    + [(SymmetricSplitting, 1)],
    ids=["gDDIM", "Heun", "Multistep2", "Bayes", "splitting"],
)
def test_orders_in_the_moments_of_normal_data(factory: Callable, order: int) -> None:
    """Exactly, by impulses: x_0 ~ N(1.5, 0.7^2), against p_s of the positions and velocities."""
    motion = critically_damped(Linear())
    process = PhaseSpace(motion, Data(), event=())
    denoiser = NormalPositions(process, 1.5, 0.7)
    errors = []
    for steps in (48, 96):
        sampler = factory(denoiser, UniformLogSNR(motion, steps + 1, end=0.05))
        ends = [motion.state(t) for t in sampler.times[[0, -2]]]
        means = [state.mean[:, 0] * 1.5 for state in ends]
        wanted = [s.covariance + 0.49 * torch.outer(s.mean[:, 0], s.mean[:, 0]) for s in ends]
        start = means[0].expand(2 * steps * 2 + 6, 2).clone()
        start[-2:] += cholesky(wanted[0]).mT
        # An impulse reaches both halves of a pair alike: so each half is drawn alone.
        y = walk(sampler, {"x": start}, Halves())["x"]
        spread = (y[1:] - y[0]).mT @ (y[1:] - y[0])
        errors.append(float((y[0] - means[1]).norm() + (spread - wanted[1]).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


class Halves(Impulses):
    """The k-th draw is 1 in the positions of one row and in the velocities of the next."""

    def normal(self, shape: tuple, dtype: torch.dtype, device: object) -> Tensor:
        self.draws += 2
        z = torch.zeros(*shape, dtype=dtype)
        z[self.draws - 1, 0], z[self.draws, 1] = 1, 1
        return z


class NormalPositions(Denoiser):
    """The posterior mean of normal positions."""

    def __init__(self, process: PhaseSpace, mean: float, std: float) -> None:
        super().__init__()
        self.leaf, self.process, self.at, self.std = process, Product({"x": process}), mean, std

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        y, level = self.leaf.bind(batch).summary(batch["x"], t["x"])
        gain = level.alpha * self.std**2 / ((level.alpha * self.std) ** 2 + level.sigma**2)
        return {"x": Estimate(with_velocities(self.at + gain * (y - level.alpha * self.at)))}


@pytest.mark.parametrize("factory", [DDPM, DDIM, SymmetricSplitting])
def test_records_return_in_proportion_beside_other_leaves(factory: Callable) -> None:
    process = Product(
        {
            "place": PhaseSpace(critically_damped(Linear()), event=(2,)),
            "kind": Categorical(Flow(), absorbing(3)),
        }
    )
    place = with_velocities(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]]))
    data = Batch.of({"place": place, "kind": torch.tensor([0, 1, 2])})
    weights = torch.tensor([0.5, 0.2, 0.3])
    sampler = factory(
        ExactDenoiser(process, data, weights), UniformLogSNR(MOTIONS["critical"], 60)
    )
    drawn = sampler.sample(Batch.of(process.empty(1500)), Generator(0))
    record = sort_records(drawn, data)
    assert float((record < 0).double().mean()) < 2 / 60
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / 1500) + 2 / 60


def test_given_positions_hold_their_velocities() -> None:
    """A mask of entries names pairs, whichever of the two it names."""
    process = PhaseSpace(critically_damped(Linear()), event=(2,))
    x_0 = with_velocities(torch.randn(3, 2, dtype=torch.float64))
    held = with_velocities(torch.tensor([[True, False], [False, False], [True, True]]))
    bound = process.bind(Batch.of(x_0).with_given({"x": held}))
    pairs = (held[:, 0] | held[:, 1]).unsqueeze(1).expand(3, 2, 2)
    random, t = Generator(0), bound.times(time(0.6))
    x_t = bound.diffuse(x_0, t, random)
    estimate = bound.decode(torch.randn(3, 2, dtype=torch.float64), x_t, t)
    (step,) = bound.plan(grid(0.6, 0.3), 1.0)
    for drawn in (bound.prior(random), x_t, bound.step(x_t, estimate, step, random)):
        assert torch.equal(drawn[pairs], x_0[pairs])
        assert bool((drawn[~pairs] != x_0[~pairs]).all())
    assert torch.equal(estimate.value[pairs], x_0[pairs])
    assert bound.log_prob(x_t, x_0, t)[2] == 0
    assert not bound.velocity(estimate, x_t, t)[pairs].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: critically_damped(Linear(), mass=0.0), "mass must be positive and finite, got 0"),
        (lambda: critically_damped(Linear(), spread=-1.0), "spread must be at least 0"),
        (lambda: heavy_ball(Linear(), friction=-1.0), "stiffness and friction must be positive"),
        (lambda: critically_damped(Geometric()), "alpha of schedule Geometric must fall"),
        (lambda: motion_of([[0.1, 0.0], [0.0, -1.0]]), "negative real parts, got"),
        (lambda: motion_of([[-0.5, 0.0], [0.0, -1.0]]), "drift must carry noise to the position"),
        (lambda: motion_of([[-0.5, 0.0]]), "drift must be 2 x 2 and finite"),
        (
            lambda: motion_of(q=[[0.0, 0.1], [0.0, 1.0]]),
            "noise must be symmetric and not negative",
        ),
        (lambda: motion_of(q=[[1.0, 0.0], [0.0, 0.0]]), "noise must be positive on the velocity"),
        (lambda: motion_of(first=0.0), "first must be in .0, 1., got 0"),
        (lambda: PhaseSpace(heavy_ball(Linear(), friction=0.4)), "velocity says nothing of x_0"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def motion_of(
    drift: object = ((0.0, 1.0), (-1.0, -2.0)),
    q: object = ((0.0, 0.0), (0.0, 4.0)),
    first: float = 1e-3,
) -> PhaseMotion:
    return PhaseMotion(Linear(), drift, q, ((0.0, 0.0), (0.0, 0.1)), first)


def test_splitting_needs_a_phase_space() -> None:
    process = Product({"x": Gaussian(Linear())})
    denoiser = ExactDenoiser(process, Batch.of(torch.zeros(2)))
    with pytest.raises(ValueError, match="must be a PhaseSpace, none is: use DDPM or Leaping"):
        SymmetricSplitting(denoiser, UniformLogSNR(Linear(), 4))


def test_known_pairs_are_put_in_place_whole() -> None:
    """Whichever of the two a mask names: else a replaced position keeps a velocity not its own."""
    process = PhaseSpace(critically_damped(Linear()), event=(2,))
    known = torch.randn(2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = torch.zeros_like(known)
    held = with_velocities(torch.tensor([[True, False], [False, False]]))
    pairs = torch.tensor([[True, False], [False, False]]).unsqueeze(1).expand(2, 2, 2)
    for mask in (held, held.flip(1)):
        got = process.graft(x_t, known, mask)
        assert torch.equal(got, torch.where(pairs, known, x_t))
        imposed = process.impose(Estimate(x_t), known, mask, x_t, time(0.5)).value
        assert torch.equal(imposed, got)


def test_at_its_end_the_motion_stands_still() -> None:
    """Where the clock of a schedule is infinite: no velocity, and the step of the plan."""
    process = one(PhaseSpace(critically_damped(Cosine())), 3)
    u = process.prior(Generator(0))
    assert not process.velocity(Estimate(process.known), u, time(1.0)).any()
    (leap,), (plan,) = (p(grid(1.0, 0.8)) for p in (process.leap, lambda x: process.plan(x, 1.0)))
    for a, b in zip(leap[:3], plan[:3], strict=True):
        torch.testing.assert_close(a, b)


def test_positions_alone_are_refused_with_the_cure() -> None:
    process = PhaseSpace(critically_damped(Linear()), event=(3,))
    with pytest.raises(ValueError, match=r"expects event \(2, 3\): positions with velocities"):
        process.bind(Batch.of(torch.zeros(4, 3)))
