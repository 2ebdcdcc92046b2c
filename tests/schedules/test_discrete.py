"""Schedules on a grid, and how they come from those in continuous time and go to them."""

import pytest
import torch

from structdiff.schedules import Cosine, Discrete, Linear, Schedule, Survival
from tests.schedules.every_schedule import FALLING, float64


def test_one_cosine_beta_is_clipped() -> None:
    """B03: exactly one; and alpha is flatter at the data than the linear schedule's."""
    survival = Discrete.cosine().log_survival
    betas = -torch.expm1(survival.diff())
    assert int(((betas - 0.999).abs() < 1e-12).sum()) == 1
    start = float64(0, 0.01)
    assert Cosine().alpha(start).diff().abs() < Linear().alpha(start).diff().abs() / 3


def test_discrete_steps_converge_to_the_integral() -> None:
    """A08: beta_i = beta(i / T) / T; the largest gap halves when T doubles."""
    gaps = []
    for steps in (250, 500, 1000, 2000):
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        discrete = Discrete((0.1 + 19.9 * t) / steps)
        gaps.append(float((discrete.alpha(t) - Linear().alpha(t)).abs().max()))
    for coarse, fine in zip(gaps, gaps[1:], strict=False):
        assert coarse / fine == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrete_is_exact_on_its_grid(steps: int, dtype: torch.dtype) -> None:
    """A14: discrete to continuous."""
    betas = torch.linspace(1e-3, 0.3, steps, dtype=torch.float64)
    t = (torch.arange(1, steps + 1, dtype=torch.float64) / steps).to(dtype)
    level = Discrete(betas)(t)
    product = torch.cumprod(1 - betas, 0)
    exact = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(level.alpha, product.sqrt(), rtol=exact, atol=1e-14)
    torch.testing.assert_close(level.sigma, (1 - product).sqrt(), rtol=exact, atol=1e-14)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Discrete.ddpm(100)])
def test_a_grid_of_a_continuous_schedule_is_a_discrete_one(schedule: Schedule) -> None:
    """A14: continuous to discrete; betas read off a grid give back its levels."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    survival = schedule.alpha(t) ** 2
    level = Discrete(1 - survival[1:] / survival[:-1])(t)
    torch.testing.assert_close(level.alpha, schedule.alpha(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(level.sigma, schedule.sigma(t), rtol=1e-9, atol=1e-9)


def test_discrete_is_linear_in_log_snr_between_grid_points() -> None:
    schedule = Discrete(torch.linspace(0.1, 0.5, 10))
    clock = schedule(float64(0.3, 0.325, 0.35, 0.375, 0.4)).clock
    torch.testing.assert_close(clock.diff(), clock.diff().mean().expand(4))


def test_absorbing_betas_give_mask_probability_t_over_T() -> None:  # noqa: N802
    """D01(d): beta_t = 1 / (T - t + 1)."""
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    grid = torch.arange(11, dtype=torch.float64) / 10
    level = Survival(Discrete(FALLING))(grid)
    torch.testing.assert_close(level.sigma, grid, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(level.alpha, 1 - grid, rtol=1e-12, atol=1e-14)
    # Between grid points the product is interpolated in log-SNR: it stays close, and in order.
    assert float((Survival(Discrete(FALLING)).sigma(t) - t).abs().max()) < 0.01
