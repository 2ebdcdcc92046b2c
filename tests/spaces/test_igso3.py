"""IGSO(3): density, score and derivatives against mpmath, quadrature and differences."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from structdiff.spaces import igso3
from tests.spaces.turning import HALF_TURNS, SPACE, about, reference, rotations, time, turn

TIMES = [1e-3, 0.02, 0.3, 0.7, 0.99, 1.01, 2.0, 6.0]
ANGLES = [1e-6, 0.01, 0.06, 0.0635, 0.3, 1.0, 1.57, 1.58, 2.0, 3.0, 3.1, 3.1415]


def characters(angle: float, tau: float) -> tuple[float, float]:
    """Log f and its derivative by many terms of the character series, to 250 digits."""
    with mpmath.workdps(250):
        w, t, f, slope = mpmath.mpf(angle), mpmath.mpf(tau), mpmath.mpf(0), mpmath.mpf(0)
        for n in range(int(40 / math.sqrt(tau))):
            weight = (2 * n + 1) * mpmath.exp(-n * (n + 1) * t / 2)
            half = n + mpmath.mpf(1) / 2
            f += weight * mpmath.sin(half * w)
            slope += weight * half * mpmath.cos(half * w)
        value = mpmath.log(f / mpmath.sin(w / 2))
        return float(value), float(slope / f - mpmath.cot(w / 2) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [0.0, 1e-9, math.pi - 1e-9, math.pi])
@pytest.mark.parametrize("tau", [1e-6, 0.3, 2.0])
def test_second_derivatives_at_the_special_points(
    tau: float, angle: float, dtype: torch.dtype
) -> None:
    x = torch.eye(3, dtype=dtype)[None]
    t = torch.tensor(tau, dtype=dtype)
    for axis in HALF_TURNS[2::3]:
        y = about(axis, angle, dtype)

        def value(v: Tensor, y: Tensor = y) -> Tensor:
            return SPACE.log_kernel(x, SPACE.exp(y, v[None]), t).sum()

        def score(v: Tensor, y: Tensor = y) -> Tensor:
            return SPACE.score(x, SPACE.exp(y, v[None]), t)[0]

        def log(v: Tensor, y: Tensor = y) -> Tensor:
            return SPACE.log(x, SPACE.exp(y, v[None])).sum()

        zero = torch.zeros(3, dtype=dtype)
        hessian = torch.autograd.functional.hessian(value, zero)
        jacobian = torch.autograd.functional.jacobian(score, zero)
        second = torch.autograd.functional.hessian(lambda v, score=score: score(v).sum(), zero)
        assert second.isfinite().all()
        assert torch.autograd.functional.hessian(log, zero).isfinite().all()
        # The Hessian is the symmetric part of the score's derivative in the body frame.
        loose = 1e-3 if dtype == torch.float32 else 1e-6
        expected = (jacobian + jacobian.T) / 2
        torch.testing.assert_close(
            hessian, expected, rtol=loose, atol=loose * expected.abs().max().item()
        )
        if angle == 0.0 and tau < 0.1:
            curvature = (1 / 12 - 1 / t) * torch.eye(3, dtype=dtype)
            torch.testing.assert_close(hessian, curvature, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tau", [0.05, 0.3, 1.0, 4.0])
def test_dual_agrees_with_the_character_series(tau: float) -> None:
    for angle in (0.01, 1.0, 3.0):
        for a, b in zip(reference(angle, tau), characters(angle, tau), strict=True):
            assert math.isclose(a, b, rel_tol=1e-13)


@pytest.mark.parametrize("tau", [1e-8, 1e-5, 1e-4, *TIMES, 30.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_density_and_score_are_exact(tau: float, dtype: torch.dtype) -> None:
    w, t = torch.tensor(ANGLES, dtype=dtype), torch.tensor(tau, dtype=dtype)
    rotation = turn(w)
    found = (
        igso3.log_density(rotation, t),
        igso3.score_over_sine(rotation, t) * torch.sin(w / 2),
    )
    truth = torch.tensor([reference(a, t.item()) for a in w.tolist()], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].double(), truth[:, 0], rtol=10 * eps, atol=10 * eps)
    # What underflows is compared with the size of a score, 1 / sigma.
    size = torch.where(truth[:, 1].abs() > 1e-20, truth[:, 1].abs(), tau**-0.5)
    relative = ((found[1].double() - truth[:, 1]).abs() / size).max().item()
    assert relative < (1e-4 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize(("sigma", "angle"), [(0.02, 0.12), (0.1, 0.6), (0.5, 3.0)])
def test_score_where_the_series_of_other_codes_fails(sigma: float, angle: float) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        y = about([0.6, 0, 0.8], angle, dtype)
        x = torch.eye(3, dtype=dtype)[None]
        score = SPACE.score(x, y, torch.tensor(sigma**2, dtype=dtype))
        expected = reference(angle, sigma**2)[1] * torch.tensor([[0.6, 0, 0.8]], dtype=dtype)
        torch.testing.assert_close(score, expected, rtol=tolerance, atol=tolerance * sigma**-2)


def test_series_and_dual_agree_in_the_overlap() -> None:
    rotation = turn(torch.linspace(0, math.pi, 101, dtype=torch.float64))
    for tau in (0.9, 1.0, 1.1):
        excess, slope = igso3._series(rotation, time(tau))
        dual = igso3._dual(rotation, time(tau))
        torch.testing.assert_close(torch.log1p(excess), dual, rtol=0, atol=1e-12)
        series = -2 * rotation.cosine * slope / (1 + excess)
        dual = igso3._dual_slope(rotation, time(tau))
        torch.testing.assert_close(series, dual, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", TIMES)
def test_kernel_integrates_to_one(tau: float) -> None:
    w = (torch.arange(2000, dtype=torch.float64) + 0.5) * (math.pi / 2000)
    v = w[:, None] * torch.tensor([[0.48, 0.6, 0.64]], dtype=torch.float64)
    x = torch.eye(3, dtype=torch.float64).expand(2000, 3, 3)
    density = SPACE.log_kernel(x, SPACE.exp(x, v), time(tau)).exp()
    total = (density * 8 * math.pi * (1 - torch.cos(w))).sum().item() * math.pi / 2000
    assert math.isclose(total, 1.0, rel_tol=1e-11)


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.3), (0.4, 0.8), (1.1, 0.9)])
def test_semigroup_by_quadrature(s: float, t: float) -> None:
    """Middle rotations by angle and by the angle between axes, 64 times 64 nodes."""
    n = 64
    w = (torch.arange(n, dtype=torch.float64) + 0.5) * (math.pi / n)
    node, weight = _legendre(n)
    tilt = torch.stack([(1 - node**2).sqrt(), 0 * node, node], -1)
    v = (w[:, None, None] * tilt).reshape(-1, 3)
    x = torch.eye(3, dtype=torch.float64).expand(n * n, 3, 3)
    middle = SPACE.exp(x, v)
    z = about([0, 0, 1.0], 2.3)
    value = SPACE.log_kernel(x, middle, time(s)) + SPACE.log_kernel(
        middle, z.expand_as(x), time(t)
    )
    measure = 4 * math.pi * (1 - torch.cos(w))[:, None] * weight * (math.pi / n)
    total = (value.exp().reshape(n, n) * measure).sum().item()
    truth = SPACE.log_kernel(x[:1], z, time(s + t)).exp().item()
    assert math.isclose(total, truth, rel_tol=1e-10)


def _legendre(n: int) -> tuple[Tensor, Tensor]:
    node, weight = leggauss(n)
    return torch.from_numpy(node), torch.from_numpy(weight)


def test_score_agrees_with_differences() -> None:
    x, y, step = rotations(100), rotations(100, seed=1), 1e-6
    for tau in (0.2, 0.9, 2.0):
        score = SPACE.score(x, y, time(tau))
        for i in range(3):
            shift = step * torch.eye(3, dtype=x.dtype)[i].expand(100, 3)
            ends = [SPACE.log_kernel(x, SPACE.exp(y, h), time(tau)) for h in (-shift, shift)]
            difference = (ends[1] - ends[0]) / (2 * step)
            torch.testing.assert_close(score[:, i], difference, rtol=1e-7, atol=1e-7)
