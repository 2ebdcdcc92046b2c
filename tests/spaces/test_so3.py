"""SO(3): exp and log against other libraries, IGSO(3) against mpmath, its draws and its limits."""

from __future__ import annotations

import math
import warnings

import mpmath
import pytest
import torch
from numpy.polynomial.legendre import leggauss
from scipy import integrate, stats
from scipy.spatial.transform import Rotation
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3, igso3, turns
from tests.spaces.oracle import geomstats

SPACE = SO3()
TIMES = [1e-3, 0.02, 0.3, 0.7, 0.99, 1.01, 2.0, 6.0]
ANGLES = [1e-6, 0.01, 0.06, 0.0635, 0.3, 1.0, 1.57, 1.58, 2.0, 3.0, 3.1, 3.1415]
HALF_TURNS = [
    [1.0, 0, 0],
    [0, 1.0, 0],
    [0, 0, 1.0],
    [-0.6, 0.8, 0],
    [0.6, 0, -0.8],
    [0.48, 0.6, 0.64],
]


def time(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def rotations(rows: int, seed: int = 0) -> Tensor:
    return SPACE.uniform(rows, Generator(seed), torch.float64, "cpu")


def about(axis: list[float], angle: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """The rotation matrix about a unit axis, by Rodrigues' formula."""
    n = torch.tensor(axis, dtype=torch.float64)
    n = n / n.norm()
    eye = torch.eye(3, dtype=torch.float64)
    cross = torch.linalg.cross(eye, n.expand(3, 3)).mT.mT
    outer = torch.outer(n, n)
    matrix = outer + math.cos(angle) * (eye - outer) + math.sin(angle) * cross
    return matrix.to(dtype)[None]


def turn(angles: Tensor) -> turns.Turn:
    sine = torch.sin(angles / 2)
    return turns.turn_of(torch.cos(angles / 2), (sine, 0 * sine, 0 * sine))


def reference(angle: float, tau: float) -> tuple[float, float]:
    """Log f and its derivative by the Poisson dual with many images, to 50 digits."""
    with mpmath.workdps(50):
        w, t = mpmath.mpf(angle), mpmath.mpf(tau)
        f = slope = mpmath.mpf(0)
        for k in range(-20, 21):
            d = w - 2 * mpmath.pi * k
            weight = (-1) ** k * mpmath.exp((w * w - d * d) / (2 * t))
            f += d * weight
            slope += (1 - d * d / t) * weight
        constant = t / 8 + mpmath.log(2 * mpmath.pi / t**3) / 2 - w * w / (2 * t)
        value = constant + mpmath.log(f / mpmath.sin(w / 2))
        return float(value), float(slope / f - mpmath.cot(w / 2) / 2)


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


def law(tau: float, nodes: int = 4001) -> tuple[Tensor, Tensor]:
    """The distribution function of the kernel's angle, by Simpson's rule on a grid."""
    w = torch.linspace(0, math.pi, nodes, dtype=torch.float64)
    log_f = igso3.log_density(turn(w), time(tau))
    density = log_f.exp() * (1 - torch.cos(w)) / math.pi
    return w, torch.from_numpy(
        integrate.cumulative_simpson(density.numpy(), x=w.numpy(), initial=0)
    )


def interpolate(x: Tensor, grid: Tensor, values: Tensor) -> Tensor:
    index = torch.searchsorted(grid, x).clamp(1, len(grid) - 1)
    share = (x - grid[index - 1]) / (grid[index] - grid[index - 1])
    return torch.lerp(values[index - 1], values[index], share)


# Geometry.


def test_exp_agrees_with_the_matrix_exponential() -> None:
    x = rotations(50)
    v = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    v[:3] *= torch.tensor([[0.0], [1e-9], [1e-2]])
    eye = torch.eye(3, dtype=torch.float64)
    hat = torch.linalg.cross(v[:, :, None], eye.expand(50, 3, 3), dim=1)
    torch.testing.assert_close(SPACE.exp(x, v), x @ torch.matrix_exp(hat), rtol=0, atol=1e-13)


def test_agrees_with_scipy_and_roma() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import roma
    x, y = rotations(300), rotations(300, seed=1)
    relative = x.mT @ y
    found = SPACE.log(x, y)
    scipy = torch.from_numpy(Rotation.from_matrix(relative.numpy()).as_rotvec())
    torch.testing.assert_close(found, scipy, rtol=0, atol=1e-12)
    torch.testing.assert_close(found, roma.rotmat_to_rotvec(relative), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        SPACE.exp(x, found), x @ roma.rotvec_to_rotmat(found), rtol=0, atol=1e-13
    )


def test_agrees_with_geomstats() -> None:
    x, y, v = rotations(4), rotations(4, seed=1), SPACE.noise(rotations(4), Generator(2))
    eye = torch.eye(3, dtype=torch.float64)

    def lift(p: Tensor, u: Tensor) -> Tensor:
        return p @ torch.linalg.cross(u[:, :, None], eye.expand(4, 3, 3), dim=1)

    tangent = lift(x, SPACE.log(x, y))
    with geomstats():
        from geomstats.geometry.special_orthogonal import SpecialOrthogonal

        metric = SpecialOrthogonal(3, point_type="matrix").metric
        end, way = metric.exp(tangent, x), metric.log(y, x)
        moved = metric.parallel_transport(lift(x, v), x, direction=tangent)
    torch.testing.assert_close(end, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(way, tangent, rtol=0, atol=1e-7)
    expected = lift(y, SPACE.transport(x, y, v))
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-7)


def test_transport_is_the_limit_of_projections() -> None:
    """In R^9 the Levi-Civita connection projects: step along the geodesic, project, repeat."""
    x, v = rotations(20), SPACE.noise(rotations(20), Generator(2))
    w = SPACE.noise(x, Generator(3))
    w = 2.5 * w / w.norm(dim=-1, keepdim=True)
    eye = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    steps = 1000
    moved = x @ torch.linalg.cross(v[:, :, None], eye, dim=1)
    for i in range(1, steps + 1):
        point = SPACE.exp(x, w * (i / steps))
        body = point.mT @ moved
        moved = point @ (body - body.mT) / 2
    body = point.mT @ moved
    expected = torch.stack([body[:, 2, 1], body[:, 0, 2], body[:, 1, 0]], -1)
    found = SPACE.transport(x, point, v)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)


def test_points_are_rotations() -> None:
    x = rotations(200)
    eye = torch.eye(3, dtype=torch.float64).expand(200, 3, 3)
    y = SPACE.exp(x, 20 * SPACE.noise(x, Generator(1)))
    for p in (x, y):
        torch.testing.assert_close(p.mT @ p, eye, rtol=0, atol=1e-14)
        torch.testing.assert_close(
            torch.linalg.det(p), torch.ones(200).double(), rtol=0, atol=1e-14
        )


def test_projection_is_the_nearest_rotation() -> None:
    noise = torch.randn(300, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for matrix in (rotations(300) + 1e-3 * noise, rotations(300) + 0.3 * noise, 5 * noise):
        u, s, vh = torch.linalg.svd(matrix)
        sign = torch.det(u @ vh)
        fix = torch.diag_embed(
            torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
        )
        unique = s[:, 1] + sign * s[:, 2] > 0.05 * s[:, 0]
        expected = u @ fix @ vh
        found = SPACE.project(matrix)
        torch.testing.assert_close(found[unique], expected[unique], rtol=0, atol=1e-10)


def test_projection_mends_rounding_smoothly() -> None:
    x = rotations(200).float()
    bent = x + 1e-4 * torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(4))
    mended = SPACE.project(bent)
    eye = torch.eye(3).expand(200, 3, 3)
    torch.testing.assert_close(mended.mT @ mended, eye, rtol=0, atol=2e-6)
    point = rotations(1).requires_grad_()
    (grad,) = torch.autograd.grad(SPACE.project(point)[0, 0, 1], point)
    body = (point.mT @ grad)[0]
    torch.testing.assert_close(body, -body.mT, rtol=0, atol=1e-14)
    assert math.isclose(
        body.norm().item() ** 2, (1 - point[0, 0, 1].item() ** 2) / 2, rel_tol=1e-12
    )


@pytest.mark.parametrize("axis", HALF_TURNS)
def test_half_turns_take_the_documented_way(axis: list[float]) -> None:
    x = torch.eye(3, dtype=torch.float64)[None]
    n = torch.tensor([axis], dtype=torch.float64)
    y = 2 * n.mT @ n - x
    found = SPACE.log(x, y)[0]
    assert found[found.abs().argmax()] > 0
    torch.testing.assert_close(found * found[n[0].abs().argmax()].sign(), found, rtol=0, atol=0)
    torch.testing.assert_close(SPACE.exp(x, found[None]), y, rtol=0, atol=1e-14)
    assert math.isclose(found.norm().item(), math.pi, rel_tol=1e-14)


@pytest.mark.parametrize("gap", [1e-3, 1e-7, 1e-10])
def test_log_just_below_a_half_turn(gap: float) -> None:
    n = torch.tensor(HALF_TURNS, dtype=torch.float64)
    x = torch.eye(3, dtype=torch.float64).expand(len(n), 3, 3)
    v = n * (math.pi - gap)
    torch.testing.assert_close(SPACE.log(x, SPACE.exp(x, v)), v, rtol=0, atol=1e-14)


def test_log_is_accurate_in_float32() -> None:
    x = rotations(2000).float()
    for length in (1e-3, 0.06, 1.0, 3.0, math.pi - 1e-3):
        v = SPACE.noise(x, Generator(1))
        v = v * (length / v.norm(dim=-1, keepdim=True))
        assert (SPACE.log(x, SPACE.exp(x, v)) - v).abs().max() < 2e-6


# Derivatives at the special points.


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


def test_derivatives_of_exp_at_zero() -> None:
    x = rotations(1)
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: SPACE.exp(x, v[None])[0], zero)
    eye = torch.eye(3, dtype=torch.float64)
    for i in range(3):
        hat = torch.linalg.cross(eye[i].expand(3, 3), eye, dim=-1).T
        torch.testing.assert_close(jacobian[..., i], x[0] @ hat, rtol=0, atol=1e-15)
    bend = torch.autograd.functional.hessian(lambda v: SPACE.exp(eye[None], v[None]).sum(), zero)
    torch.testing.assert_close(bend, 1 - 3 * eye + 0 * bend, rtol=0, atol=1e-14)


# The heat kernel.


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


# Draws.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [1e-4, 0.1, 0.6, 0.99, 1.01, 2.0, 8.0])
def test_angle_of_draws_follows_the_density(tau: float, dtype: torch.dtype) -> None:
    x = rotations(20_000).to(dtype)
    y = SPACE.diffuse(x, torch.tensor(tau, dtype=dtype), Generator(1))
    v = SPACE.log(x.double(), y.double())
    angle = v.norm(dim=-1)
    grid, values = law(tau, 40_001 if tau < 0.01 else 4001)
    assert stats.kstest(interpolate(angle, grid, values).numpy(), "uniform").pvalue > 1e-3
    axis = v / angle[:, None]
    for i in range(3):
        assert stats.kstest((axis[:, i] / 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("tau", [0.05, 0.4, 0.8, 0.99, 1.01, 1.5, 3.0, 10.0])
def test_draws_solve_for_the_rank(tau: float) -> None:
    """The rank of the angle is the one of the normal numbers it came from, row by row."""
    z = Generator(4).normal((5000, 4), torch.float64, "cpu")
    length = z[:, 1:].norm(dim=-1)
    angle = igso3.draw(z, time(tau)).norm(dim=-1)
    if tau < 1:
        # The angle is not folded yet: beyond a half turn it counts on to a full turn.
        found, expected = _unfolded(tau, angle), igso3._maxwell(length)
    else:
        grid, values = law(tau)
        found = interpolate(angle, grid, values)
        expected = igso3._haar(2 * torch.atan2(length, z[:, 0].abs()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def _unfolded(tau: float, angle: Tensor) -> Tensor:
    """Integral of the term k = 0 of the dual from 0 to each angle, by Simpson's rule."""
    w = torch.linspace(0, min(2 * math.pi, 8 * math.sqrt(tau)), 8001, dtype=torch.float64)
    scale = 2 / math.pi * math.sqrt(2 * math.pi) * math.exp(tau / 8) / tau**1.5
    density = scale * torch.sin(w / 2) * w * torch.exp(-w * w / (2 * tau))
    values = torch.from_numpy(
        integrate.cumulative_simpson(density.numpy(), x=w.numpy(), initial=0)
    )
    return interpolate(angle, w, values)


def test_uniform_draws_are_uniform() -> None:
    v = SPACE.log(
        torch.eye(3, dtype=torch.float64).expand(20_000, 3, 3), rotations(20_000, seed=9)
    )
    angle = v.norm(dim=-1)
    assert stats.kstest(igso3._haar(angle).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest((v[:, 2] / angle / 2 + 0.5).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.05, 0.0685, 0.1, 0.4, 0.99, 1.4, 6.0])
def test_entropy_gap_agrees_with_quadrature(tau: float) -> None:
    def integrand(w: float) -> float:
        value = reference(w, tau)[0]
        return math.exp(value) * value * (1 - math.cos(w)) / math.pi

    end = min(math.pi, 10 * math.sqrt(tau))
    truth, _ = integrate.quad(integrand, 0, end, epsabs=1e-12, epsrel=1e-12, limit=200)
    assert math.isclose(SPACE.entropy_gap(time(tau)).item(), truth, rel_tol=1e-9, abs_tol=1e-12)
