"""Covariance matrices: geometry against geomstats, closed forms, laws, and what is refused."""

from __future__ import annotations

import math
from itertools import combinations

import mpmath
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from structdiff.random import Generator
from structdiff.spaces.spd import SPD, LogEuclidean
from tests.spaces.oracle import geomstats

SPACES = [space(n) for space in (SPD, LogEuclidean) for n in (1, 2, 3, 8)]
NAMES = [f"{type(space).__name__}{space.point[0]}" for space in SPACES]

spaces = pytest.mark.parametrize("space", SPACES, ids=NAMES)


def vectors(space: SPD | LogEuclidean, rows: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    v = Generator(seed).normal((rows, space.dimension), torch.float64, "cpu")
    return scale * v / math.sqrt(space.dimension)


def points(space: SPD | LogEuclidean, rows: int, seed: int = 0) -> Tensor:
    start = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(start, vectors(space, rows, 2.0, seed=seed + 100))


def matrix(v: Tensor, n: int) -> Tensor:
    """The symmetric matrix of coordinates, entry by entry."""
    w = v.new_zeros(len(v), n, n)
    for i in range(n):
        w[:, i, i] = v[:, i]
    for k, (i, j) in enumerate(combinations(range(n), 2)):
        w[:, i, j] = w[:, j, i] = v[:, n + k] / math.sqrt(2)
    return w


def coordinates(w: Tensor) -> Tensor:
    n = w.shape[1]
    parts = [w[:, i, i] for i in range(n)]
    parts += [math.sqrt(2) * w[:, i, j] for i, j in combinations(range(n), 2)]
    return torch.stack(parts, 1)


def lift(space: SPD | LogEuclidean, x: Tensor, v: Tensor) -> Tensor:
    """The tangent matrix with coordinates `v` in the frame of the Cholesky factor of x."""
    root = torch.linalg.cholesky(x)
    return root @ matrix(v, space.point[0]) @ root.mT


def lower(space: SPD | LogEuclidean, x: Tensor, tangent: Tensor) -> Tensor:
    inverse = torch.linalg.inv(torch.linalg.cholesky(x))
    return coordinates(inverse @ tangent @ inverse.mT)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# Against geomstats.


@pytest.mark.parametrize("n", [2, 3, 8])
def test_affine_metric_agrees_with_geomstats(n: int) -> None:
    space = SPD(n)
    x, y, v = points(space, 20), points(space, 20, seed=1), vectors(space, 20, 2.0)
    tangent = lift(space, x, v)
    with geomstats():
        from geomstats.geometry.spd_matrices import SPDMatrices

        metric = SPDMatrices(n).metric
        end, way, far = metric.exp(tangent, x), metric.log(y, x), metric.dist(x, y)
        square = metric.squared_norm(tangent, x)
        moved = metric.parallel_transport(tangent, x, end_point=y)
    close(space.exp(x, v), end, 1e-10)
    close(lift(space, x, space.log(x, y)), way, 1e-10)
    close(space.distance(x, y), far, 1e-10)
    close(space.norm2(v), square, 1e-10)
    close(lift(space, y, space.transport(x, y, v)), moved, 1e-9)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_log_euclidean_metric_agrees_with_geomstats(n: int) -> None:
    space = LogEuclidean(n)
    x, y, v = points(space, 20), points(space, 20, seed=1), vectors(space, 20, 2.0)
    with geomstats():
        from geomstats.geometry import spd_matrices as other

        manifold = other.SPDMatrices(n, equip=False)
        manifold.equip_with_metric(other.SPDLogEuclideanMetric)
        metric = manifold.metric
        tangent = other.SymMatrixLog.inverse_tangent(matrix(v, n), base_point=x)
        end, far = metric.exp(tangent, x), metric.dist(x, y)
        way = other.SymMatrixLog.tangent(metric.log(y, x), base_point=x)
    close(space.exp(x, v), end, 1e-10)
    close(space.log(x, y), coordinates(way), 1e-9)
    close(space.distance(x, y), far, 1e-10)


# Laws.


@spaces
def test_exp_and_log_undo_each_other(space: SPD | LogEuclidean) -> None:
    x, y = points(space, 200), points(space, 200, seed=1)
    for scale in (0.0, 1e-12, 1e-6, 1.0, 3.0):
        v = vectors(space, 200, scale)
        close(space.log(x, space.exp(x, v)), v, 1e-11)
    back = space.exp(x, space.log(x, y))
    close(back, y, 1e-11)
    assert back.equal(back.mT)
    assert space.log(x[:0], y[:0]).shape == (0, space.dimension)
    assert space.exp(x[:0], v[:0]).shape == (0, *space.point)


@spaces
def test_a_point_is_at_no_distance_of_itself(space: SPD | LogEuclidean) -> None:
    for dtype in (torch.float32, torch.float64):
        x = points(space, 100).to(dtype)
        assert space.distance(x, x).max() <= 20 * torch.finfo(dtype).eps
        unit = space.origin(dtype, "cpu")[None]
        assert space.log(unit, unit).count_nonzero() == 0
        assert space.exp(unit, space.log(unit, unit)).equal(unit)


@spaces
def test_log_is_the_gradient_of_the_distance(space: SPD | LogEuclidean) -> None:
    x, y = points(space, 30), points(space, 30, seed=1)
    y[:3] = x[:3]
    v = torch.zeros(30, space.dimension, dtype=x.dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(space.norm2(space.log(x, space.exp(y, v))).sum() / 2, v)
    close(grad, -space.log(y, x), 1e-11)


@pytest.mark.parametrize("space", [SPD(1), SPD(3), SPD(4), LogEuclidean(3)])
def test_squared_distance_has_unit_hessian_at_coincidence(space: SPD | LogEuclidean) -> None:
    unit = space.origin(torch.float64, "cpu")[None]
    for x in (points(space, 1), unit):

        def half_square(v: Tensor, x: Tensor = x) -> Tensor:
            return space.norm2(space.log(x, space.exp(x, v[None]))).sum() / 2

        start = torch.zeros(space.dimension, dtype=x.dtype)
        hessian = torch.autograd.functional.hessian(half_square, start)
        close(hessian, torch.eye(space.dimension, dtype=x.dtype), 1e-11)


@spaces
def test_transport_is_an_isometry_along_the_geodesic(space: SPD | LogEuclidean) -> None:
    x, y = points(space, 100), points(space, 100, seed=1)
    u, v = vectors(space, 100), vectors(space, 100, seed=1)
    a, b = space.transport(x, y, u), space.transport(x, y, v)
    close(space.dot(a, b), space.dot(u, v), 1e-13)
    close(space.transport(y, x, a), u, 1e-11)
    close(space.transport(x, y, space.log(x, y)), -space.log(y, x), 1e-11)
    close(space.transport(x, x, u), u, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transport_keeps_lengths_between_badly_conditioned_points(dtype: torch.dtype) -> None:
    space = SPD(3)
    power = 2.5 if dtype == torch.float32 else 6.0
    tilt = torch.linalg.qr(Generator(0).normal((200, 3, 3), torch.float64, "cpu"))[0]
    spread = torch.logspace(-power, power, 3, dtype=torch.float64)
    x = (tilt * spread @ tilt.mT).to(dtype)
    y, u = x.roll(1, 0), vectors(space, 200).to(dtype)
    ratio = space.norm2(space.transport(x, y, u)) / space.norm2(u)
    assert (ratio - 1).abs().max() < 40 * torch.finfo(dtype).eps


@spaces
def test_isometries_keep_distances_and_commute_with_exp(space: SPD | LogEuclidean) -> None:
    x, y, v = points(space, 50), points(space, 50, seed=1), vectors(space, 50)
    move = space.isometry(Generator(3), torch.float64, "cpu")
    p, q = move(x), move(y)
    assert space.belongs(p).reason is None
    assert space.point == (1, 1) or not torch.allclose(p, x, atol=0.1)
    close(space.distance(p, q), space.distance(x, y), 1e-11)
    step = 0.3 * space.log(p, move(space.exp(x, v)))
    close(space.log(p, move(space.exp(x, 0.3 * v))), step, 1e-11)
    other = space.isometry(Generator(4), torch.float64, "cpu")
    assert space.dimension == 1 or not torch.allclose(other(x), p, atol=0.1)


def hard_vectors(space: SPD | LogEuclidean) -> Tensor:
    """Zero, a multiple of the identity, nearly repeated eigenvalues, and generic ones."""
    n = space.point[0]
    v = vectors(space, 8, 2.0)
    v[0] = 0
    v[1:6, n:] = 0
    v[1, :n] = 0.7
    for row, gap in enumerate((1e-3, 1e-8, 1e-12, 1e-15), 2):
        v[row, :n] = 0.7
        v[row, 0] += gap
    return v


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_log_jacobian_is_the_determinant_of_exp(n: int) -> None:
    space = SPD(n)
    v, x = hard_vectors(space), points(space, 8)
    found = space.log_jacobian(x, v)
    for k in range(8):
        start = x[k : k + 1]

        def end(w: Tensor, start: Tensor = start) -> Tensor:
            return space.exp(start, w[None])

        change = torch.autograd.functional.jacobian(end, v[k])[0].permute(2, 0, 1)
        y = space.exp(start, v[k : k + 1]).expand(space.dimension, n, n)
        expected = torch.linalg.slogdet(lower(space, y, change))[1]
        torch.testing.assert_close(found[k], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_jacobian_is_exact_for_any_gap(dtype: torch.dtype) -> None:
    space, eps = SPD(2), torch.finfo(dtype).eps
    gaps = [0.0, 1e-9, 1e-3, 0.5, 0.99, 1.01, 3.0, 20.0, 60.0, 300.0]
    v = torch.tensor([[0.2 + gap, 0.2, 0.0] for gap in gaps], dtype=dtype)
    found = space.log_jacobian(torch.eye(2, dtype=dtype).expand(len(gaps), 2, 2), v)
    for ours, (a, b, _) in zip(found.tolist(), v.tolist(), strict=True):
        half = mpmath.mpf(a - b) / 2
        exact = mpmath.log(mpmath.sinh(half) / half) if half else 0
        assert abs(ours - exact) < 8 * eps * (1 + abs(half))


@pytest.mark.parametrize("space", [SPD(1), SPD(2), SPD(3), SPD(4), LogEuclidean(3)])
def test_first_and_second_derivatives(space: SPD | LogEuclidean) -> None:
    v = hard_vectors(space).requires_grad_()
    x, y = points(space, 8), points(space, 8, seed=1)
    x[0] = torch.eye(space.point[0])
    y[:4] = x[:4]
    x.requires_grad_()
    y.requires_grad_()
    maps = [(space.exp, (x, v)), (space.log, (x, y)), (space.features, (x,))]
    if isinstance(space, SPD):
        maps += [(space.transport, (x, y, v)), (space.log_jacobian, (x, v))]
    for function, arguments in maps:
        assert gradcheck(function, arguments, fast_mode=True)
        assert gradgradcheck(function, arguments, fast_mode=True)


def test_log_jacobian_of_close_and_far_eigenvalues_bends_right() -> None:
    """Second derivatives where the secants change from Gauss's rule to the quotient."""
    space = SPD(3)
    rows = [[0, 0.99, 3], [0, 1.01, 3], [0, 0.4, 0.9], [0, 8.0, 8.5], [2, 2, 7], [2, 2, 2.5]]
    rows += [[0, 1e-15, 3], [0, 1e-12, 0.5]]
    v = torch.zeros(8, 6, dtype=torch.float64)
    v[:, :3] = torch.tensor(rows, dtype=torch.float64)
    v[:6, 3:] = 1e-3 * vectors(space, 6)[:, 3:]
    v.requires_grad_()
    x = torch.eye(3, dtype=torch.float64).expand(8, 3, 3)
    assert gradcheck(space.log_jacobian, (x, v))
    assert gradgradcheck(space.log_jacobian, (x, v))


def test_log_euclidean_space_is_flat() -> None:
    space = LogEuclidean(3)
    x, y, v = points(space, 10), points(space, 10, seed=1), vectors(space, 10)
    assert space.log_jacobian(x, v).count_nonzero() == 0
    assert space.transport(x, y, v).equal(v)
    close(space.log(x, y), space.features(y) - space.features(x), 1e-13)


@spaces
def test_frame_features_and_origin(space: SPD | LogEuclidean) -> None:
    n = space.point[0]
    x = points(space, 5)
    assert space.dimension == n * (n + 1) // 2
    assert space.injectivity == math.inf
    unit = space.frame(x) @ space.frame(x).mT
    close(unit, torch.eye(space.dimension, dtype=x.dtype).expand_as(unit), 0.0)
    close(torch.matrix_exp(matrix(space.features(x), n)), x, 1e-11)
    assert space.origin(torch.float32, "cpu").equal(torch.eye(n))


# Rounding.


@spaces
def test_float32_agrees_with_float64(space: SPD | LogEuclidean) -> None:
    """Errors are eps times the conditions of the points, below 300 here."""
    x, y, v = points(space, 100), points(space, 100, seed=1), vectors(space, 100)
    x, y, v = x.float(), y.float(), v.float()
    maps = [(space.exp, (x, v)), (space.log, (x, y)), (space.transport, (x, y, v))]
    maps += [(space.log_jacobian, (x, v)), (space.features, (x,)), (space.project, (x,))]
    for function, arguments in maps:
        found = function(*arguments)
        exact = function(*(a.double() for a in arguments))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=2e-5)


def test_float32_covariances_of_condition_5000_come_back() -> None:
    """exp(x, log(x, y)) = y in float32, eigenvalues from 0.2 to 1000.

    A relative rounding of n eps of the entries of y is a distance of n eps cond(y). That of x acts
    through the frame at both ends of the way, and the way itself is no longer than
    sqrt(n) log(cond(x) cond(y)), which is lost to eps times itself.
    """
    n, space, eps = 8, SPD(8), torch.finfo(torch.float32).eps
    spread = torch.logspace(math.log10(0.2), 3, n, dtype=torch.float64)
    turn = torch.linalg.qr(Generator(1).normal((400, n, n), torch.float64, "cpu"))[0]
    x, y = ((turn * spread @ turn.mT).float()).chunk(2)
    back = space.exp(x, space.log(x, y))
    condition = 1000 / 0.2
    bound = n * eps * (condition + condition)
    assert space.distance(y.double(), back.double()).max() < bound
    assert space.belongs(back).reason is None
    # And the way is right, not only the way back.
    way = space.log(x, y).double() - space.log(x.double(), y.double())
    assert space.norm2(way).sqrt().max() < bound


def test_autocast_changes_nothing() -> None:
    space = SPD(3)
    x, v = points(space, 10).float(), vectors(space, 10).float()
    y = space.exp(x, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert space.exp(x, v).equal(y)
        assert space.log(x, y).equal(space.log(x.clone(), y))


# Mending and refusing.


@spaces
def test_projection(space: SPD | LogEuclidean) -> None:
    n, x = space.point[0], points(space, 20)
    close(space.project(x), x, 1e-14)
    tilt = torch.linalg.qr(Generator(5).normal((20, n, n), torch.float64, "cpu"))[0]
    values = torch.linspace(1.0, 2.0, n, dtype=torch.float64).expand(20, n).clone()
    values[:, 0] = -0.5 if n > 1 else 1.0
    skew = Generator(6).normal((20, n, n), torch.float64, "cpu")
    skew = skew - skew.mT
    eps = torch.finfo(torch.float64).eps
    least = 8 * n * eps * values.max()
    nearest = tilt * values.clamp(min=least)[:, None] @ tilt.mT
    mended = space.project(tilt * values[:, None] @ tilt.mT + skew)
    close(mended, nearest, 1e-14)
    assert space.belongs(mended).reason is None
    assert space.log(x, mended).isfinite().all()
    assert space.project(torch.zeros(1, n, n)).diagonal(dim1=1, dim2=2).min() > 0


def test_projection_has_the_derivative_of_the_symmetric_part() -> None:
    x = (points(SPD(3), 4) + 1e-3).requires_grad_()
    g = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    (grad,) = torch.autograd.grad((SPD(3).project(x) * g).sum(), x)
    close(grad, (g + g.mT) / 2, 1e-15)


@spaces
def test_belongs_names_the_row_and_the_fix(space: SPD | LogEuclidean) -> None:
    n, x = space.point[0], points(space, 4)
    good = space.belongs(x)
    assert good.reason is None
    assert good.inside.all()
    x[2] = -0.25 * torch.eye(n)
    told = space.belongs(x)
    assert told.inside.tolist() == [True, True, False, True]
    assert told.reason is not None
    assert "row 2: its smallest eigenvalue is -0.25, must be positive" in told.reason
    assert "add a multiple of the identity or use `project`" in told.reason
    x[1] = torch.nan
    reason = space.belongs(x).reason
    assert reason == "row 1: entries that are not finite: leave the row out"
    if n > 1:
        x[0, 0, 1] += 0.01 * x[0].abs().max()
        told = space.belongs(x)
        assert told.reason is not None
        assert "row 0: it differs from its transpose by 0.0" in told.reason
        assert "(x + x.mT) / 2" in told.reason
        assert space.belongs(x[:1], tolerance=0.1).reason is None
        singular = torch.eye(n)[None].clone()
        singular[0, 0, 0] = 1e-8
        assert "is 1e-08, must be positive and at least" in str(space.belongs(singular).reason)
        assert space.belongs(singular.double()).reason is None
    with pytest.raises(ValueError, match=rf"must have shape \(rows, \*\({n}, {n}"):
        space.belongs(x[0])


@pytest.mark.parametrize("kind", [SPD, LogEuclidean])
def test_sizes_are_checked(kind: type) -> None:
    with pytest.raises(ValueError, match=r"n is 0, must be at least 1: give the number of rows"):
        kind(0)
