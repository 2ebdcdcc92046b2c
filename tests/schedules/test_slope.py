"""The speed of a schedule's clock."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from structdiff.schedules import CLEAN, Discrete, Flow, Karras, Linear, Schedule, Survival, Window
from tests.schedules.every_schedule import FLAT, SCHEDULES, float64, schedules


@schedules
def test_slope_is_the_central_difference(name: str) -> None:
    schedule, h = SCHEDULES[name], 1e-6
    low, high = (0.26, 0.74) if name in FLAT else (0.003, 0.996)
    t = torch.linspace(low, high, 41, dtype=torch.float64) + 1.7e-4  # not at kinks
    with torch.no_grad():
        slope = schedule.slope(t.reshape(1, 41))
        difference = (schedule(t - h).clock - schedule(t + h).clock) / (2 * h)
    torch.testing.assert_close(slope, difference.reshape(1, 41), rtol=3e-7, atol=1e-7)
    assert bool((slope > 0).all())


@schedules
def test_slope_on_a_grid_is_the_one_on_the_side_of_the_data(name: str) -> None:
    """Where interpolations have kinks; the last is at an end."""
    schedule, h = SCHEDULES[name], 1e-7
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    t = t[2:7] if name in FLAT else t
    difference = (schedule(t - h).clock - schedule(t).clock) / h
    torch.testing.assert_close(schedule.slope(t), difference, rtol=1e-5, atol=1e-6)


@schedules
def test_slope_is_finite_and_positive_up_to_the_ends(name: str) -> None:
    t = torch.cat([float64(0, 1e-9, 1e-5), torch.linspace(0.01, 0.99, 99).double(), float64(1)])
    slope = SCHEDULES[name].slope(t)
    assert bool(slope.isfinite().all())
    assert bool((slope >= 0).all() if name in FLAT else (slope > 0).all())


def test_closed_forms() -> None:
    """1 / (t (1 - t)) of a straight path, log(80 / 0.002) of nothing: Karras at rho 1."""
    t = float64(1e-6, 0.1, 0.5, 0.999)
    torch.testing.assert_close(Flow().slope(t), 1 / (t * (1 - t)), rtol=1e-12, atol=0)
    karras = Karras(1.0, 3.0, rho=1.0)
    torch.testing.assert_close(karras.slope(t), 2 / (1 + 2 * t), rtol=1e-12, atol=0)
    # The rate of a variance-preserving schedule, beta(t) / (2 sigma^2).
    beta = (0.1 + 19.9 * t) / (2 * Linear().sigma(t) ** 2)
    torch.testing.assert_close(Linear().slope(t), beta, rtol=1e-9, atol=0)


@pytest.mark.parametrize("inner", [Flow(), Karras(), Survival(Discrete.ddpm(100))])
def test_a_clock_that_stands_still_has_no_slope(inner: Schedule) -> None:
    slope = Window(inner, 0.25, 0.75).slope(float64(CLEAN, 0, 0.2, 0.25, 0.8, 1))
    assert slope.tolist() == [0.0] * 6
    assert inner.slope(float64(CLEAN)).tolist() == [0.0]


class Half(Schedule):
    """Pure noise from t = 1/2 on; the derivative of its logarithm there is infinity times 0."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.log((1 - 2 * t) * (t < 0.5))

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log((2 * t).clamp(max=1))


def test_an_infinite_clock_inside_stands_still() -> None:
    slope = Half().slope(float64(0.25, 0.5 + 1e-9, 0.75, 1))
    torch.testing.assert_close(slope, float64(8, 0, 0, 0))


def test_float32_times_have_float64_slopes() -> None:
    t = torch.tensor(0.3)
    assert Linear().slope(t).dtype == torch.float64
    assert Linear().slope(t) == Linear().slope(t.double())


class Power(Schedule):
    """sigma = t^k, with k to be learned: the clock's slope is k / t."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self.k * torch.log(t)


def test_gradients_flow_to_times_and_parameters() -> None:
    """d (k / t) / dk = 1 / t and d (k / t) / dt = -k / t^2."""
    schedule, t = Power(3.0), float64(0.2, 0.5).requires_grad_()
    by_k, by_t = torch.autograd.grad(schedule.slope(t).sum(), (schedule.k, t))
    torch.testing.assert_close(by_k, (1 / t).sum().detach())
    torch.testing.assert_close(by_t, (-3 / t**2).detach())
    with torch.no_grad():
        assert not schedule.slope(t).requires_grad
    assert not Flow().slope(float64(0.5)).requires_grad
