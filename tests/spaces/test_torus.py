"""The torus: exact wrapping, the wrapped normal in both forms, its score and its draws."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import Torus
from structdiff.spaces import torus as module
from tests.spaces.oracle import geomstats

CIRCLE = Torus(1)
TIMES = [1e-3, 0.02, 0.3, 1.0, 1.49, 1.51, 3.0, 9.0]


def time(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def row(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[value]], dtype=dtype)


def reference(angle: float, tau: float) -> tuple[float, float]:
    """Log density of the wrapped normal and its derivative, by images, to 40 digits."""
    with mpmath.workdps(40):
        a, t = mpmath.mpf(angle), mpmath.mpf(tau)
        shifts = [a + 2 * mpmath.pi * k for k in range(-12, 13)]
        weights = [mpmath.exp((a * a - s * s) / (2 * t)) for s in shifts]
        total = sum(weights)
        value = mpmath.log(total) - a * a / (2 * t) - mpmath.log(2 * mpmath.pi * t) / 2
        slope = -sum(s * w for s, w in zip(shifts, weights, strict=True)) / (t * total)
        return float(value), float(slope)


def fourier(angle: float, tau: float) -> float:
    """Log density by many terms of the Fourier series, to 120 digits."""
    with mpmath.workdps(120):
        terms = (
            mpmath.exp(-n * n * mpmath.mpf(tau) / 2) * mpmath.cos(n * mpmath.mpf(angle))
            for n in range(1, 240)
        )
        return float(mpmath.log((1 + 2 * sum(terms)) / (2 * mpmath.pi)))


def test_needs_an_angle() -> None:
    with pytest.raises(ValueError, match="dimensions is 0, must be at least 1"):
        Torus(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_stay_in_the_half_open_interval(dtype: torch.dtype) -> None:
    pi = torch.tensor(math.pi, dtype=dtype)
    ends = [
        pi,
        -pi,
        pi.nextafter(pi * 2),
        pi.nextafter(-pi),
        -pi.nextafter(pi * 2),
        3 * pi,
        -3 * pi,
        0 * pi,
    ]
    a = torch.stack([*ends, *torch.linspace(-20, 20, 401, dtype=dtype)])[:, None]
    wrapped = CIRCLE.project(a)
    assert (wrapped >= -pi).all()
    assert (wrapped < pi).all()
    tolerance = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(torch.cos(wrapped), torch.cos(a), rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.sin(wrapped), torch.sin(a), rtol=0, atol=tolerance)
    small = torch.tensor([[1e-30], [-1e-6], [3.0]], dtype=dtype)
    assert torch.equal(CIRCLE.project(small), small)


def test_opposite_angles_take_the_documented_way() -> None:
    x = row(0.0).requires_grad_()
    way = CIRCLE.log(x, row(math.pi))
    assert way.item() == -math.pi
    assert torch.autograd.grad(way.sum(), x)[0].item() == -1.0


def test_agrees_with_geomstats() -> None:
    x, y = (CIRCLE.uniform(50, Generator(s), torch.float64, "cpu") for s in (0, 1))
    embed = [torch.cat([torch.cos(p), torch.sin(p)], -1) for p in (x, y)]
    with geomstats():
        from geomstats.geometry.hypersphere import Hypersphere

        distance = Hypersphere(1).metric.dist(*embed)
    torch.testing.assert_close(CIRCLE.log(x, y).abs()[:, 0], distance, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tau", [1e-8, 1e-5, *TIMES, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_and_score_are_exact(tau: float, dtype: torch.dtype) -> None:
    angles = [0.0, 1e-6, -1e-3, 0.1, 1.0, -1.57, 1.58, 2.0, -3.0, 3.1, 3.1415, math.pi - 1e-6]
    a = torch.tensor(angles, dtype=dtype)[:, None]
    t = torch.tensor(tau, dtype=dtype)
    zero = torch.zeros_like(a)
    found = CIRCLE.log_kernel(zero, a, t), CIRCLE.score(zero, a, t)[:, 0]
    truth = torch.tensor([reference(v, t.item()) for v in a[:, 0].tolist()], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].double(), truth[:, 0], rtol=20 * eps, atol=30 * eps)
    # Absolute against the scale of the score near the mode, where it is zero.
    torch.testing.assert_close(found[1].double(), truth[:, 1], rtol=300 * eps, atol=1e-20 / tau)


@pytest.mark.parametrize("tau", [0.05, 0.3, 1.5, 4.0])
def test_reference_agrees_with_the_fourier_series(tau: float) -> None:
    for angle in (0.0, 1.0, 3.0):
        assert math.isclose(fourier(angle, tau), reference(angle, tau)[0], rel_tol=1e-14)


def test_series_and_images_agree_in_the_overlap() -> None:
    a = torch.linspace(-math.pi, math.pi, 101, dtype=torch.float64)
    for tau in (1.3, 1.5, 1.6):
        excess, slope = module._series(a, time(tau))
        torch.testing.assert_close(
            torch.log1p(excess), module._images(a, time(tau)), rtol=0, atol=1e-12
        )
        torch.testing.assert_close(
            slope / (1 + excess), module._images_slope(a, time(tau)), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("tau", TIMES)
def test_kernel_integrates_to_one_and_composes(tau: float) -> None:
    nodes = (torch.arange(600, dtype=torch.float64) / 300 - 1)[:, None] * math.pi
    zero, cell = torch.zeros_like(nodes), 2 * math.pi / 600
    density = CIRCLE.log_kernel(zero, nodes, time(tau)).exp()
    assert math.isclose(density.sum().item() * cell, 1.0, rel_tol=1e-12)
    for other in (0.01, 0.7, 1.0):
        second = CIRCLE.log_kernel(nodes, zero + 2.5, time(other)).exp()
        joint = CIRCLE.log_kernel(row(0.0), row(2.5), time(tau + other)).exp().item()
        assert math.isclose((density * second).sum().item() * cell, joint, rel_tol=1e-10)


def test_score_agrees_with_differences() -> None:
    space, step = Torus(2), 1e-6
    x, y = (space.uniform(100, Generator(s), torch.float64, "cpu") for s in (0, 1))
    for tau in (0.2, 1.0, 2.0):
        score = space.score(x, y, time(tau))
        for i in range(2):
            shift = step * torch.eye(2, dtype=x.dtype)[i]
            ends = [space.log_kernel(x, space.exp(y, h), time(tau)) for h in (-shift, shift)]
            difference = (ends[1] - ends[0]) / (2 * step)
            torch.testing.assert_close(score[:, i], difference, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("tau", [1e-12, 1e-4, 0.4, 1.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, -math.pi, math.pi, 1e-20])
def test_derivatives_at_the_special_points(angle: float, dtype: torch.dtype, tau: float) -> None:
    t = torch.tensor(tau, dtype=dtype)
    y = row(angle, dtype).requires_grad_()
    value = CIRCLE.log_kernel(row(0.0, dtype), y, t)
    (first,) = torch.autograd.grad(value.sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), y)
    (slope,) = torch.autograd.grad(CIRCLE.score(row(0.0, dtype), y, t).sum(), y)
    assert first.isfinite().all()
    torch.testing.assert_close(second, slope, rtol=1e-4, atol=1e-6)
    if abs(angle) < 1:
        assert abs(first.item()) < 1e-6
        if tau < 0.1:
            assert math.isclose(second.item(), -1 / t.item(), rel_tol=1e-6)
    elif dtype == torch.float64 and tau > 0.1:
        bend = -reference(math.pi - 1e-6, tau)[1] / 1e-6
        assert math.isclose(second.item(), bend, rel_tol=1e-6)


@pytest.mark.parametrize("tau", [0.02, 1.0, 2.5])
def test_draws_follow_the_density(tau: float) -> None:
    rows = 20_000
    y = CIRCLE.diffuse(torch.zeros(rows, 1, dtype=torch.float64), time(tau), Generator(1))
    nodes = (torch.arange(4001, dtype=torch.float64) / 2000 - 1)[:, None] * math.pi
    density = CIRCLE.log_kernel(0 * nodes, nodes, time(tau)).exp()
    law = integrate.cumulative_simpson(density.numpy(), x=nodes[:, 0].numpy(), initial=0)
    ranks = torch.from_numpy(law)[torch.searchsorted(nodes[:, 0].contiguous(), y[:, 0])]
    assert stats.kstest(ranks.numpy(), "uniform").pvalue > 1e-3


def test_uniform_draws_are_uniform() -> None:
    x = Torus(2).uniform(20_000, Generator(2), torch.float64, "cpu")
    for i in range(2):
        ranks = (x[:, i] / math.pi + 1) / 2
        assert stats.kstest(ranks.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.05, 0.0685, 0.1, 0.4, 1.4, 2.0, 6.0])
def test_entropy_gap_agrees_with_quadrature(tau: float) -> None:
    def integrand(a: float) -> float:
        value = reference(a, tau)[0]
        return 2 * math.exp(value) * (value + math.log(2 * math.pi))

    end = min(math.pi, 10 * math.sqrt(tau))
    truth, _ = integrate.quad(integrand, 0, end, epsabs=1e-12, epsrel=1e-12, limit=200)
    found = Torus(3).entropy_gap(time(tau)).item()
    assert math.isclose(found, 3 * truth, rel_tol=1e-9, abs_tol=1e-12)
