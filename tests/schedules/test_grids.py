"""Grids of times."""

import math

import pytest
import torch

from structdiff.schedules import (
    CLEAN,
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    KarrasGrid,
    Linear,
    UniformLogSNR,
    UniformTime,
)

GRIDS = {
    "uniform time": lambda n: UniformTime(n),
    "uniform time to zero": lambda n: UniformTime(n, end=0.0),
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
