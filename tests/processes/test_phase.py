"""Phase space: densities, what the network is asked for, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Cosine,
    Denoising,
    Generator,
    Geometric,
    Linear,
    NetworkDenoiser,
    Product,
)
from structdiff.likelihood import flow_log_prob
from structdiff.parameterisations import Data, Noise
from structdiff.processes import Estimate, Scored, Tractable
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_matrices import cholesky
from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball
from structdiff.testing import ExactDenoiser
from tests.processes.cases import grid, time
from tests.processes.phase_motions import motions, one


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
