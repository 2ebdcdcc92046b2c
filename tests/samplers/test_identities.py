"""Samplers against independent formulas of the papers."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Cosine,
    Discrete,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Karras,
    KarrasGrid,
    Linear,
    Multistep,
    UniformLogSNR,
    UniformTime,
)
from structdiff.samplers import Carry
from structdiff.samplers.multistep import exponential_weights
from structdiff.schedules import (
    Grid,
    Shifted,
    Sigmoid,
    SimpleLinear,
    Standard,
    SubVP,
    ZeroTerminal,
)
from structdiff.testing import Addressed, NormalDenoiser, Silent, walk

MEAN, STD, SHARE = torch.tensor([-1.0, 2.0]), torch.tensor([0.3, 0.5]), torch.tensor([0.4, 0.6])


class Times(Grid):
    """Given times, then clean (or not)."""

    def __init__(self, *t):
        self.t = torch.tensor(t, dtype=torch.float64)

    def times(self):
        return self.t


def mixture(schedule) -> NormalDenoiser:
    return NormalDenoiser(Gaussian(schedule), MEAN, STD, SHARE)


def answer(denoiser, x, t):
    return denoiser(Batch.of(x), {"x": t})["x"].value


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def start(schedule, n=7):
    end = schedule(torch.ones(()))
    return torch.linspace(-2, 2, n, dtype=torch.float64) * (end.sigma**2 + 4 * end.alpha**2).sqrt()


def test_heun_is_algorithm_1_of_karras():
    """S09, B06: weights of the paper's loop; N = 18 costs 35 calls."""
    denoiser, grid = mixture(Karras()), KarrasGrid(Karras(), 18)
    sigma = [float(s) for s in Karras().sigma(grid.times()[:-1])] + [0.0]
    assert sigma[0] == pytest.approx(80, rel=1e-12) and sigma[17] == pytest.approx(0.002)
    x = start(Karras())
    bound = Heun(denoiser, grid).bind(Batch.of(x), Silent())
    carry = Carry({"x": x})
    for i in range(18):
        carry = bound.step(carry, i)
    y = x
    for i in range(18):
        t = grid.times()[i]
        d = (y - answer(denoiser, y, t)) / sigma[i]
        look = y + (sigma[i + 1] - sigma[i]) * d
        if sigma[i + 1]:
            end = (look - answer(denoiser, look, grid.times()[i + 1])) / sigma[i + 1]
            look = y + (sigma[i + 1] - sigma[i]) * (d + end) / 2
        y = look
    close(carry.x["x"], y)
    assert carry.calls == 35


@pytest.mark.parametrize(
    "schedule", [Linear(), Cosine(), Flow(), Karras()], ids=lambda s: type(s).__name__
)
def test_first_order_is_ddim(schedule):
    """S06, S07: Multistep(1) is DDIM, and DDIM is eq. 12 of its paper."""
    denoiser, grid = mixture(schedule), UniformTime(9)
    x = start(schedule)
    a = walk(DDIM(denoiser, grid), {"x": x}, Silent())["x"]
    assert torch.equal(a, walk(Multistep(denoiser, grid, order=1), {"x": x}, Silent())["x"])
    y = x
    level = schedule(grid.times())
    for i in range(8):
        x_0 = answer(denoiser, y, grid.times()[i])
        eps = (y - level.alpha[i] * x_0) / level.sigma[i]
        y = level.alpha[i + 1] * x_0 + level.sigma[i + 1] * eps
    close(a, y)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("rate", [1.0, 1.64, 2.0])
def test_weights_are_the_exponential_integral(order, rate):
    """E06: against integration on a fine grid of the Lagrange basis."""
    nodes = torch.tensor([0.2, -0.3, -1.1], dtype=torch.float64)[:order]
    low, high = nodes[0], torch.tensor(0.9, dtype=torch.float64)
    place = torch.linspace(0, 1, 200_001, dtype=torch.float64) * (high - low) + low
    mass = torch.exp(rate * place)
    expected = []
    for j in range(order):
        others = [n for k, n in enumerate(nodes) if k != j]
        basis = math.prod([(place - n) / (nodes[j] - n) for n in others], start=torch.ones(()))
        expected.append(torch.trapezoid(basis * mass, place) / torch.trapezoid(mass, place))
    close(exponential_weights(nodes, low, high, rate), torch.stack(expected), 1e-9)


def test_second_order_tends_to_dpm_solver_2m():
    """E06: D_i + (h_i / 2 h_{i-1}) (D_i - D_{i-1}) as the steps shrink, gap third order."""
    gaps = []
    for h in (0.1, 0.05):
        clock = torch.tensor([0.0, -h], dtype=torch.float64)
        weight = exponential_weights(clock, clock[0], clock[0] + h, 1.0)
        gaps.append(float((weight - torch.tensor([1.5, -0.5])).abs().max()))
    assert gaps[0] < 0.02 and gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("make", [DDIM, DDPM, Heun, Multistep], ids=lambda m: m.__name__)
def test_one_step_to_clean_is_the_estimate(make):
    """S04: from T to clean in one step."""
    denoiser = mixture(Linear())
    sampler = make(denoiser, UniformTime(1, end=0.0))
    batch = Batch.of(torch.zeros(50, dtype=torch.float64))
    bound = sampler.bind(batch, Generator(0))
    carry = bound.start()
    end = bound.step(carry, 0)
    close(end.x["x"], answer(denoiser, carry.x["x"], sampler.times[0]), 1e-12)


def test_eta_one_is_the_ddpm_posterior():
    """S01, S04, A03(b): mean and variance of q(x_{t-1} | x_t, x_0) in the paper's letters."""
    schedule, steps = Discrete.ddpm(100), 100
    betas = torch.linspace(1e-3, 0.2, steps, dtype=torch.float64)
    survival = torch.cumprod(1 - betas, 0)
    times = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
    bound = Gaussian(schedule).bind(Batch.of(torch.zeros(1, dtype=torch.float64)))
    plan = bound.plan(times, 1.0)
    for i, step in enumerate(plan):
        n = steps - 1 - i
        old, new, beta = survival[n - 1], survival[n], betas[n]
        close(step.data, old.sqrt() * beta / (1 - new), 1e-9)
        close(step.keep, (1 - beta).sqrt() * (1 - old) / (1 - new), 1e-9)
        close(step.noise**2, (1 - old) / (1 - new) * beta, 1e-9)


def test_ancestral_sampling_of_a_normal():
    """A03(c), A11: 1000 steps return mean and variance within 3 standard errors / 2 %."""
    schedule, mean, std, n = Discrete.ddpm(), 0.7, 1.3, 40_000
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    drawn = DDPM(denoiser, UniformTime(1000)).sample(Batch.of(torch.zeros(n)), Generator(0))["x"]
    assert abs(drawn.mean() - mean) < 3 * std / math.sqrt(n)
    assert abs(drawn.var() / std**2 - 1) < 0.02


def test_more_steps_are_nearer_to_a_mixture():
    """A11: the distance of the quantiles falls with the steps, to that of two true samples."""
    denoiser, n = mixture(Linear()), 10_000
    source = torch.Generator().manual_seed(9)

    def truth():
        which = (torch.rand(n, generator=source) > SHARE[0]).long()
        return (MEAN[which] + STD[which] * torch.randn(n, generator=source)).sort().values

    def apart(steps):
        batch = Batch.of(torch.zeros(n))
        drawn = DDPM(denoiser, UniformTime(steps)).sample(batch, Generator(1))["x"]
        return float((drawn.sort().values - reference).square().mean().sqrt())

    reference = truth()
    noise = max(float((truth() - reference).square().mean().sqrt()) for _ in range(8))
    distances = [apart(steps) for steps in (4, 16, 400)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1.2 * noise


def test_flow_map_of_a_normal_is_affine():
    """A12: the closed form m_s + (std_s / std_t) (x - m_t)."""
    schedule, mean, std = Linear(), 1.2, 0.5
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    grid = UniformLogSNR(schedule, 801, end=0.02)
    x = start(schedule)
    ends = schedule(grid.times()[[0, -2]])
    stds = ((ends.alpha * std) ** 2 + ends.sigma**2).sqrt()
    expected = ends.alpha[1] * mean + stds[1] / stds[0] * (x - ends.alpha[0] * mean)
    for order, tolerance in ((2, 1e-4), (3, 1e-6)):
        sampler = Multistep(denoiser, grid, order=order)
        close(walk(sampler, {"x": x}, Silent())["x"], expected, tolerance)


@pytest.mark.parametrize("make", [Heun, Multistep], ids=lambda m: m.__name__)
def test_encoding_and_decoding_is_a_round_trip(make):
    """A12, S04: up the grid and down again."""
    denoiser = mixture(Linear())
    t = UniformLogSNR(Linear(), 1201, end=0.05).times()[:-1]
    up, down = Times(*t.flip(0).tolist(), -1.0), Times(*t.tolist(), -1.0)
    x = torch.linspace(-1.5, 3, 9, dtype=torch.float64)
    noise = walk(make(denoiser, up), {"x": x}, Silent())
    back = walk(make(denoiser, down), noise, Silent())["x"]
    close(back, x, 1e-3)


def test_the_round_trip_of_ddim_converges():
    """A12: first order, its error halves with the steps at every point of the modes."""
    denoiser, errors = mixture(Linear()), []
    x = torch.tensor([-1.3, -1.0, -0.7, 1.4, 2.0, 2.6], dtype=torch.float64)
    for steps in (100, 200, 400):
        t = UniformLogSNR(Linear(), steps + 1, end=0.05).times()[:-1]
        up, down = Times(*t.flip(0).tolist(), -1.0), Times(*t.tolist(), -1.0)
        noise = walk(DDIM(denoiser, up), {"x": x}, Silent())
        errors.append((walk(DDIM(denoiser, down), noise, Silent())["x"] - x).abs())
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert (fine / coarse - 0.5).abs().max() < 0.03
    assert errors[2].max() < 0.02


SCHEDULES = [
    Linear(),
    Cosine(),
    Flow(),
    SubVP(),
    Karras(),
    Geometric(),
    Discrete.ddpm(),
    Discrete.cosine(),
    SimpleLinear(),
    Sigmoid(),
    Shifted(Cosine(), -1.0),
    Standard(Geometric()),
    ZeroTerminal(Linear()),
]


@pytest.mark.parametrize("make", [DDIM, DDPM, Multistep], ids=lambda m: m.__name__)
@pytest.mark.parametrize("k", range(len(SCHEDULES)))
def test_spread_of_samples_in_float32(make, k):
    """Deviation and mean of the data, for every schedule (once three times too wide)."""
    schedule, mean, std, n = SCHEDULES[k], 0.5, 1.0, 10_000
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([mean]), torch.tensor([std]))
    drawn = make(denoiser, UniformTime(250)).sample(Batch.of(torch.zeros(n)), Generator(0))["x"]
    assert drawn.dtype == torch.float32
    assert abs(float(drawn.std()) - std) < 0.03 + 4 * std / math.sqrt(2 * n)
    assert abs(float(drawn.mean()) - mean) < 0.03 + 4 * std / math.sqrt(n)


def test_a_source_by_address_gives_each_step_its_own_noise():
    bound = DDPM(mixture(Linear()), UniformTime(3)).bind(Batch.of(torch.zeros(4)), Addressed(0))
    x = {"x": torch.zeros(4)}
    estimate = bound.denoise(x, 1, None)
    a, b = (bound.advance(x, estimate, 1, part=part)["x"] for part in (1, 2))
    assert not torch.equal(a, b)
    assert torch.equal(a, bound.advance(x, estimate, 1)["x"])


def test_refusals():
    denoiser = mixture(Linear())
    with pytest.raises(ValueError, match=r"eta must be in \[0, 1\], got 1.5"):
        DDIM(denoiser, UniformTime(3), eta=1.5)
    with pytest.raises(ValueError, match="order must be 1, 2, 3 or 4, got 5"):
        Multistep(denoiser, UniformTime(3), order=5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        DDIM(denoiser, UniformTime(0))


@pytest.mark.parametrize("make", [DDIM, DDPM, Heun])
@pytest.mark.parametrize("first", [1.0, 0.9])
def test_a_grid_may_begin_before_pure_noise(make, first):
    """The first state has the noise of the first time, not that of t = 1 (once far too wide)."""
    schedule = Geometric(0.002, 200.0)
    denoiser = NormalDenoiser(Gaussian(schedule), torch.tensor([0.0]), torch.tensor([1.0]))
    grid = UniformLogSNR(schedule, 80, start=first, end=0.0)
    drawn = make(denoiser, grid).sample(Batch.of(torch.zeros(20_000)), Generator(0))["x"]
    assert abs(float(drawn.std()) - 1) < 0.06 + 4 / math.sqrt(2 * 20_000)
