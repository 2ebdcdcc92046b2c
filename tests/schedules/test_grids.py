"""Grids of times."""

import math
from collections.abc import Callable

import pytest
import torch

from structdiff import Batch, Gaussian
from structdiff.schedules import (
    CLEAN,
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    KarrasGrid,
    Linear,
    PowerTime,
    Schedule,
    UniformLogSNR,
    UniformTime,
)

GRIDS = {
    "uniform time": lambda n: UniformTime(n),
    "uniform time to zero": lambda n: UniformTime(n, end=0.0),
    "quadratic time": lambda n: PowerTime(n),
    "square root of time": lambda n: PowerTime(n, 0.5, end=1e-3),
    "quadratic time to zero": lambda n: PowerTime(n, end=0.0),
    "log-SNR linear": lambda n: UniformLogSNR(Linear(), n),
    "log-SNR cosine": lambda n: UniformLogSNR(Cosine(), n),
    "log-SNR flow": lambda n: UniformLogSNR(Flow(), n, start=0.99, end=0.01),
    "log-SNR discrete": lambda n: UniformLogSNR(Discrete.ddpm(), n),
    "karras": lambda n: KarrasGrid(Karras(), n),
    "karras on linear": lambda n: KarrasGrid(Linear(), n, sigma_min=0.01, sigma_max=100.0),
    "karras on cosine": lambda n: KarrasGrid(Cosine(), n),
}
grids = pytest.mark.parametrize("name", GRIDS)


@grids
@pytest.mark.parametrize("steps", [2, 18, 100])
def test_times_fall_and_end_clean(name: str, steps: int) -> None:
    times = GRIDS[name](steps).times()
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert bool((times.diff() < 0).all())
    assert times[-1] == CLEAN
    assert bool((times[:-1] >= 0).all() and (times <= 1).all())


@grids
def test_one_step_starts_at_the_first_time(name: str) -> None:
    assert GRIDS[name](1).times()[0] == GRIDS[name](5).times()[0]


def test_uniform_time() -> None:
    times = UniformTime(8).times()[:-1]
    torch.testing.assert_close(times, torch.arange(8, 0, -1, dtype=torch.float64) / 8)
    times = UniformTime(5, end=0.2).times()[:-1]
    assert (times[0], times[-1]) == (1.0, 0.2)
    torch.testing.assert_close(times.diff(), torch.full((4,), -0.2).double())


def test_power_time() -> None:
    """DDIM's quadratic sub-sequence, floor(c i^2) of T steps; power 1 is uniform."""
    steps, long = 50, 1000
    papers = [math.floor(long * (i / steps) ** 2) for i in range(steps, 0, -1)]
    gap = PowerTime(steps).times()[:-1] * long - torch.tensor(papers)
    assert bool(((gap > -1e-9) & (gap < 1)).all())
    torch.testing.assert_close(PowerTime(7, 1.0).times(), UniformTime(7).times())
    cubic = PowerTime(4, 3.0, end=0.001).times()[:-1]
    torch.testing.assert_close(cubic ** (1 / 3), torch.tensor([1, 0.7, 0.4, 0.1]).double())


def test_exponential_grid_is_uniform_in_log_sigma() -> None:
    """B04: constant ratios of sigma, whatever exploding schedule the times are read off."""
    for schedule in (Karras(), Geometric(0.002, 80.0)):
        sigma = schedule.sigma(UniformLogSNR(schedule, 30, end=0.0).times()[:-1])
        even = torch.logspace(math.log10(80), math.log10(0.002), 30, dtype=torch.float64)
        torch.testing.assert_close(sigma, even, rtol=1e-8, atol=0)


# B12, FastDPM: kappa of the paper is eta. A sub-chain of S steps has the products of the long
# chain at the chosen levels, and betas of its own.
LEVELS: dict[str, Callable[[int], torch.Tensor]] = {
    "steps, uniform": lambda n: torch.arange(1, n + 1) / n,
    "steps, quadratic": lambda n: torch.floor(1000 * (torch.arange(1, n + 1) / n) ** 2) / 1000,
    "variances": lambda n: Discrete.ddpm().time(torch.linspace(4, -4.5, n)),
}


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", LEVELS)
def test_fast_sampling_is_a_grid_and_eta(name: str, kappa: float) -> None:
    """B12: DDIM at kappa 0, DDPM of the short chain at kappa 1, in the letters of the paper."""
    steps, schedule = 20, Discrete.ddpm()
    rising = LEVELS[name](steps).double()
    bound = Gaussian(schedule).bind(Batch.of(torch.zeros(1, dtype=torch.float64)))
    plan = bound.plan(rising.flip(0), kappa)
    level = schedule.alpha(rising) ** 2  # gamma-bar of the sub-chain
    for i, step in enumerate(plan):
        new, old = level[steps - 1 - i], level[steps - 2 - i]
        beta = 1 - new / old
        posterior = (1 - old) / (1 - new) * beta
        share = torch.sqrt(1 - old - kappa**2 * posterior)
        for value, paper in (
            (step.noise, kappa * posterior.sqrt()),
            (step.keep, share / (1 - new).sqrt()),
            (step.data, old.sqrt() - share * new.sqrt() / (1 - new).sqrt()),
        ):
            torch.testing.assert_close(value, paper, rtol=1e-6, atol=1e-9)
        if kappa == 1:  # the ancestral step of the short chain, as Ho et al. write it
            torch.testing.assert_close(step.data, old.sqrt() * beta / (1 - new), rtol=1e-6, atol=0)


def test_steps_and_noise_levels_are_one_to_one() -> None:
    """B12: the bijection of FastDPM, and levels between two steps."""
    schedule: Schedule = Discrete.ddpm()
    t = torch.linspace(0.001, 1, 3001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule(t).clock), t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("schedule", [Linear(), Geometric(), Discrete.ddpm()])
def test_log_snr_is_cut_evenly(schedule: torch.nn.Module) -> None:
    times = UniformLogSNR(schedule, 20, end=0.01).times()[:-1]
    assert times[0] == 1
    assert times[-1].item() == pytest.approx(0.01, abs=1e-10)
    steps = schedule(times).clock.diff()
    torch.testing.assert_close(steps, steps.mean().expand(19), rtol=1e-8, atol=0)


def test_log_snr_grid_starts_at_pure_noise() -> None:
    """Where alpha(1) = 0 the first step leads to log-SNR -20 + one spacing; the rest is even."""
    clock = Cosine()(UniformLogSNR(Cosine(), 11).times()[:-1]).clock
    assert clock[0] == -math.inf
    end = Cosine()(torch.tensor(1e-3)).clock
    even = torch.linspace(-10, float(end), 11, dtype=torch.float64)
    torch.testing.assert_close(clock[1:], even[1:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("schedule", [Karras(), Cosine(), Flow()])
def test_karras_grid_is_the_papers(schedule: torch.nn.Module) -> None:
    """B06: sigma / alpha follows eq. 5 on any schedule, from 80 to 0.002."""
    steps, rho, low, high = 18, 7.0, 0.002, 80.0
    i = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    paper = (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    times = KarrasGrid(schedule, steps).times()[:-1]
    torch.testing.assert_close(torch.exp(-schedule(times).clock), paper, rtol=1e-9, atol=0)


def test_karras_schedule_is_its_grid_in_uniform_time() -> None:
    """B06: the ends are 80 and 0.002 to rounding."""
    ours, papers = UniformTime(18, end=0.0).times(), KarrasGrid(Karras(), 18).times()
    torch.testing.assert_close(ours, papers, rtol=0, atol=1e-12)
    sigma = Karras().sigma(papers[[0, -2]])
    torch.testing.assert_close(sigma, torch.tensor([80, 0.002]).double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: UniformTime(0), "steps must be at least 1, got 0"),
        (lambda: UniformTime(3, end=1.0), r"end must be in \[0, 1\), got 1.0"),
        (lambda: PowerTime(0), "steps must be at least 1, got 0"),
        (lambda: PowerTime(3, 0.0), "power must be positive, got 0.0"),
        (lambda: PowerTime(3, end=-0.5), r"end must be in \[0, 1\), got -0.5"),
        (lambda: PowerTime(3, 3.0, end=1.5), r"end must be in \[0, 1\), got 1.5"),
        (lambda: UniformLogSNR(Linear(), 0), "steps must be at least 1, got 0"),
        (lambda: UniformLogSNR(Linear(), 3, end=0.0), "sigma is zero at end = 0.0"),
        (lambda: UniformLogSNR(Geometric(), 3, start=0.2, end=0.5), "0 <= end < start <= 1"),
        (lambda: KarrasGrid(Karras(), 0), "steps must be at least 1, got 0"),
        (lambda: KarrasGrid(Karras(), 3, rho=-1.0), "rho must be positive, got -1.0"),
        (lambda: KarrasGrid(Flow(), 3, sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max"),
        (lambda: KarrasGrid(Linear(), 3, sigma_max=1e3), "schedule's range, 0 to 152.2"),
        (lambda: KarrasGrid(Karras(), 3, sigma_min=1e-3), "schedule's range, 0.002 to 80"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
