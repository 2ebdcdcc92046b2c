"""The reverse equation and its relatives: convergence, error of the score, Taylor's scheme."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Counter,
    Gaussian,
    Generator,
    Linear,
    UniformLogSNR,
    UniformTime,
)
from structdiff.processes import Estimate
from structdiff.samplers import Carry, Leaping
from structdiff.samplers.runge_kutta import StochasticRungeKutta
from structdiff.testing import Impulses, NormalDenoiser, walk

CENTRES = torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.5]])
SPREADS, SHARES = torch.tensor([0.3, 0.2, 0.4]), torch.tensor([0.2, 0.5, 0.3])
SAMPLES = 1500


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def draws(seed):
    """Samples of the data."""
    source = torch.Generator().manual_seed(seed)
    which = torch.multinomial(SHARES.double(), SAMPLES, replacement=True, generator=source)
    z = torch.randn(SAMPLES, 2, generator=source)
    return CENTRES.double()[which] + SPREADS.double()[which, None] * z


def sliced(x, y):
    """Wasserstein's distance, a root mean square over 32 directions."""
    angle = math.pi * torch.arange(32) / 32
    lines = torch.stack([angle.cos(), angle.sin()])
    gap = (x @ lines).sort(0).values - (y @ lines).sort(0).values
    return float(gap.square().mean().sqrt())


def test_euler_maruyama_on_the_reverse_equation_comes_to_the_data():
    """With a thousand steps as near as another set of samples, within a fifth."""
    process = Gaussian(Linear(), event=(2,))
    denoiser = NormalDenoiser(process, CENTRES.double(), SPREADS.double(), SHARES.double())
    truth = torch.cat([draws(k) for k in range(4)])
    batch = Batch.of(torch.zeros(4 * SAMPLES, 2))
    found = [
        sliced(Leaping(denoiser, UniformTime(n)).sample(batch, Generator(5))["x"], truth)
        for n in (6, 12, 24, 1000)
    ]
    own = torch.tensor(
        [sliced(torch.cat([draws(k) for k in range(i, i + 4)]), truth) for i in range(10, 50, 4)]
    )
    assert found[0] > 1.3 * found[1] > 1.3**2 * found[2]
    assert found[3] < min(found[2], 1.2 * float(own.mean()))


class Off(NormalDenoiser):
    """The exact denoiser, off by epsilon in the score's units, cos(3 x)."""

    epsilon = 0.0

    def forward(self, batch, t, previous=None):
        right = super().forward(batch, t, previous)["x"].value
        level = self.leaf.level(t["x"], right)
        wrong = self.epsilon * level.sigma * torch.cos(3 * batch["x"])
        return {"x": Estimate(right + wrong)}


MAKERS = {
    "DDIM": DDIM,
    "DDPM": DDPM,
    "Leaping": Leaping,
    "StochasticRungeKutta": StochasticRungeKutta,
}


@pytest.mark.parametrize("name", MAKERS)
def test_errors_of_the_score_enter_the_output_linearly(name):
    """Of sizes epsilon, epsilon / 2, epsilon / 4, sample by sample under the same noise."""
    denoiser = Off(Gaussian(Linear()), torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5]))
    sampler, batch = MAKERS[name](denoiser, UniformTime(20)), Batch.of(torch.zeros(300))
    ends = []
    for epsilon in (0.0, 0.04, 0.02, 0.01):
        denoiser.epsilon = epsilon
        ends.append(sampler.sample(batch, Counter(0))["x"])
    errors = [float((end - ends[0]).square().mean().sqrt()) for end in ends[1:]]
    assert errors[0] > 0.01
    for big, small in zip(errors, errors[1:], strict=False):
        assert big / small == pytest.approx(2, abs=0.15)


def quasi_taylor(x, x_0, schedule, t, s, z):
    """A step of second order in its length for the time reversal with x_0 held fixed.

    Ito-Taylor's for dx = b(x, t) dt + g(t) dw in reverse time, with b linear in x and the
    derivatives of the score those of one data point ("ideal"): with h = t - s,

        x + b h + (b_t + b b_x) h^2 / 2 + g w + (g_t + b_x g) h w / 2,   w = sqrt(h) z.
    """
    h = t - s

    def rate(time):
        beta = 2 * -schedule.decay(time)  # forward drift -beta x / 2, noise beta
        level = schedule(time)
        slope = beta / 2 - beta / level.sigma**2
        return slope, beta * level.alpha / level.sigma**2 * x_0, beta.sqrt()

    tiny = 1e-5
    late, early = rate(t + tiny), rate(t - tiny)
    a_t, c_t, g_t = ((b - a) / (2 * tiny) for a, b in zip(late, early, strict=True))
    a, c, g = rate(t)
    b = a * x + c
    w = h.sqrt() * z
    return x + b * h + (a_t * x + c_t + a * b) * h**2 / 2 + g * w + (g_t + a * g) * h * w / 2


def test_taylor_steps_with_ideal_derivatives_are_of_second_weak_order_and_ddpm_their_limit():
    """Of one data point, where the time reversal is an Ornstein-Uhlenbeck process.

    The scheme is Taylor's expansion of the Bayes step, which is exact there: on any grid.
    """
    schedule, x_0, errors = Linear(), torch.tensor(0.8), []
    denoiser = NormalDenoiser(Gaussian(schedule), x_0[None], torch.zeros(1))
    for steps in (40, 80, 160):
        times = torch.linspace(0.9, 0.3, steps + 1)
        ends = schedule(times[[0, -1]])
        x = torch.zeros(steps + 2)
        x += ends.alpha[0] * x_0
        x[-1] += ends.sigma[0]
        random = Impulses()
        for t, s in times.unfold(0, 2, 1):
            z = random.normal((steps + 2,), torch.float64, "cpu")
            x = quasi_taylor(x, x_0, schedule, t, s, z)
        mean, spread = x[0] - ends.alpha[1] * x_0, (x[1:] - x[0]).square().sum().sqrt()
        errors.append(float(mean.abs() + (spread - ends.sigma[1]).abs()))
    assert abs(math.log2(errors[1] / errors[2]) - 2) < 0.2, errors
    bound = DDPM(denoiser, UniformTime(2, end=0.3)).bind(Batch.of(torch.zeros(8)), Impulses())
    start, last = (schedule(time) for time in bound.times[:2])
    x = torch.zeros(8) + start.alpha * x_0
    x[-1] += start.sigma
    y = bound.step(Carry({"x": x}), 0).x["x"]
    assert float(y[0]) == pytest.approx(float(last.alpha * x_0), rel=1e-12)
    assert float((y[1:] - y[0]).square().sum()) == pytest.approx(float(last.sigma**2), rel=1e-12)


def test_a_taylor_step_agrees_with_the_bayes_step_to_third_order():
    schedule, x_0, gaps = Linear(), torch.tensor(0.8), []
    denoiser = NormalDenoiser(Gaussian(schedule), x_0[None], torch.zeros(1))
    x = torch.tensor([0.7, 0.7, -0.2])
    for h in (0.02, 0.01):
        grid = UniformLogSNR(schedule, 2, start=0.6, end=0.6 - h)
        bayes = walk(DDPM(denoiser, grid), {"x": x}, Impulses())["x"]
        z = torch.tensor([0.0, 1.0, 0.0])
        t, s = grid.times()[:2]
        gap = quasi_taylor(x, x_0, schedule, t, s, z) - bayes
        gaps.append(gap.abs())
    order = torch.log2(gaps[0] / gaps[1])
    assert float(order[0]) == pytest.approx(3, abs=0.2)  # of the drift
    assert float(order.min()) > 2.3  # of the noise, 5 / 2
