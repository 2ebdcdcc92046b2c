"""Laws of every manifold, in float64 on the list below."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.base import Compact, Manifold
from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
from structdiff.spaces.powers import power
from structdiff.spaces.products import product
from structdiff.spaces.se3 import SE3
from structdiff.spaces.simplex import Simplex
from structdiff.spaces.so3 import SO3
from structdiff.spaces.spd import SPD, LogEuclidean
from structdiff.spaces.sphere import Sphere
from structdiff.spaces.torus import Torus


class Case(NamedTuple):
    """A symmetric space, how far `log` undoes `exp`, and how far from the origin to draw."""

    space: Manifold
    reach: float
    spread: float = 1.0


CASES = {
    "R2x3": Case(Euclidean(2, 3), 5.0),
    "T2": Case(Torus(2), 3.1),
    "SO3": Case(SO3(), 3.1),
    "S1": Case(Sphere(1), 3.1),
    "S2": Case(Sphere(2), 3.1),
    "S7": Case(Sphere(7), 3.1),
    "S127": Case(Sphere(127), 3.1),
    "SPD1": Case(SPD(1), 3.0),
    "SPD3": Case(SPD(3), 3.0),
    "logSPD3": Case(LogEuclidean(3), 3.0),
    "H1": Case(Hyperbolic(1), 5.0),
    "H2": Case(Hyperbolic(2), 5.0),
    "H5": Case(Hyperbolic(5), 5.0, 0.7),
    "H20": Case(Hyperbolic(20), 5.0, 0.4),
    "ball1": Case(PoincareBall(1), 5.0),
    "ball3": Case(PoincareBall(3), 5.0),
    "ball20": Case(PoincareBall(20), 5.0, 0.4),
    "simplex2": Case(Simplex(2), 0.6, 0.3),
    "simplex3": Case(Simplex(3), 0.6, 0.3),
    "simplex6": Case(Simplex(6), 0.3, 0.1),
    "SO3xT2": Case(product(SO3(), Torus(2)), 3.1),
    "ball2xsimplex3xR": Case(product(PoincareBall(2), Simplex(3), Euclidean()), 0.6, 0.3),
    "SO3^3": Case(power(SO3(), 3), 3.1),
    "(H2xT1)^2": Case(power(product(Hyperbolic(2), Torus(1)), 2), 3.1),
    "SE3": Case(SE3(), 3.1),
}

pytestmark = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def points(case: Case, rows: int, seed: int = 0) -> Tensor:
    """Points not beyond `spread` times where a uniform, or a standard wrapped, draw would be."""
    space, random = case.space, Generator(seed)
    centre = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    if isinstance(space, Compact):
        away = space.log(centre, space.uniform(rows, random, torch.float64, "cpu"))
    else:
        away = space.noise(centre, random)
    return space.exp(centre, case.spread * away)


def vectors(case: Case, x: Tensor, length: float, seed: int = 1) -> Tensor:
    """Tangent vectors of the given length."""
    v = case.space.noise(x, Generator(seed))
    scale = length / case.space.norm2(v).sqrt()
    return v * scale.reshape(-1, *(1,) * (v.ndim - 1))


def combine(space: Manifold, x: Tensor, weights: Tensor) -> Tensor:
    """The tangent vectors with the given coordinates `(rows, dimension)` in the frames."""
    frame = space.frame(x)
    return (frame.flatten(2) * weights[:, :, None]).sum(1).reshape(len(x), *space.tangent)


def resolve(space: Manifold, x: Tensor, v: Tensor) -> Tensor:
    """The inverse of `combine`."""
    return (space.frame(x).flatten(2) @ v.reshape(len(x), -1, 1))[:, :, 0]


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("part", [0.0, 1e-12, 1e-5, 1e-3, 0.02, 0.3, 0.9])
def test_log_undoes_exp(case: Case, part: float) -> None:
    x = points(case, 50)
    v = vectors(case, x, part * case.reach)
    y = case.space.exp(x, v)
    close(case.space.log(x, y), v, 1e-11)
    length = torch.full((50,), part * case.reach, dtype=x.dtype)
    close(case.space.distance(x, y), length, 1e-11)


def test_exp_undoes_log(case: Case) -> None:
    x, y = points(case, 200), points(case, 200, seed=2)
    back = case.space.exp(x, case.space.log(x, y))
    assert case.space.distance(y, back).max() < 1e-11
    close(case.space.distance(x, y), case.space.distance(y, x), 1e-12)
    close(case.space.exp(x, torch.zeros_like(case.space.log(x, y))), x, 1e-14)


def test_tangent_vectors(case: Case) -> None:
    """`to_tangent` is an orthogonal projection, `frame` a basis of what it projects to."""
    space, x, y = case.space, points(case, 20), points(case, 20, seed=2)
    u, w = torch.randn(
        2, 20, *space.tangent, dtype=x.dtype, generator=torch.Generator().manual_seed(0)
    )
    kept = space.to_tangent(x, u)
    close(space.to_tangent(x, kept), kept, 1e-13)
    close(space.dot(kept, w), space.dot(u, space.to_tangent(x, w)), 1e-12)
    frame = space.frame(x).reshape(20, space.dimension, -1)
    close(frame @ frame.mT, torch.eye(space.dimension, dtype=x.dtype).expand(20, -1, -1), 1e-13)
    close(combine(space, x, resolve(space, x, u)), kept, 1e-13)
    way = space.log(x, y)
    close(space.to_tangent(x, way), way, 1e-12)
    moved = space.transport(x, y, kept)
    close(space.to_tangent(y, moved), moved, 1e-12)


def test_log_is_the_gradient_of_the_distance(case: Case) -> None:
    space, x, y = case.space, points(case, 50), points(case, 50, seed=2)
    y[:5] = x[:5]
    weights = torch.zeros(50, space.dimension, dtype=x.dtype, requires_grad=True)
    half_square = space.norm2(space.log(x, space.exp(y, combine(space, y, weights)))) / 2
    (grad,) = torch.autograd.grad(half_square.sum(), weights)
    close(grad, -resolve(space, y, space.log(y, x)), 1e-10)


def test_squared_distance_at_coincident_points(case: Case) -> None:
    """To second order it is that of flat space, in both points."""
    space, x = case.space, points(case, 1)
    n = space.dimension

    def half_square(weights: Tensor) -> Tensor:
        start, end = (space.exp(x, combine(space, x, w[None])) for w in weights)
        return space.norm2(space.log(start, end)).sum() / 2

    zero = torch.zeros(2, n, dtype=x.dtype)
    hessian = torch.autograd.functional.hessian(half_square, zero)
    flat = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=x.dtype)
    expected = flat[:, None, :, None] * torch.eye(n, dtype=x.dtype)[:, None]
    close(hessian, expected, 1e-9)


def test_distance_at_coincident_points(case: Case) -> None:
    """It is zero, with the gradient zero."""
    space, x = case.space, points(case, 20)
    y = x.clone().requires_grad_()
    distance = space.distance(x, y)
    (grad,) = torch.autograd.grad(distance.sum(), y)
    assert distance.max() < 1e-14
    assert grad[distance == 0].abs().sum() == 0
    assert grad.isfinite().all()


def test_transport_is_an_isometry_along_the_geodesic(case: Case) -> None:
    space, x, y = case.space, points(case, 100), points(case, 100, seed=2)
    u, v = vectors(case, x, 1.3, seed=3), vectors(case, x, 0.7, seed=4)
    a, b = space.transport(x, y, u), space.transport(x, y, v)
    close(space.dot(a, b), space.dot(u, v), 1e-12)
    close(space.transport(y, x, a), u, 1e-12)
    close(space.transport(x, y, space.log(x, y)), -space.log(y, x), 1e-11)
    close(space.transport(x, x, u), u, 1e-13)


def test_transport_agrees_with_the_pole_ladder(case: Case) -> None:
    """Which is exact on symmetric spaces: two reflections at the middle, by exp and log alone.

    References:
        Numerical Accuracy of Ladder Schemes for Parallel Transport on Manifolds (Guigui and
        Pennec, 2021), section 3. https://arxiv.org/abs/2007.07585
    """
    space, x = case.space, points(case, 50)
    y = space.exp(x, vectors(case, x, 0.5 * case.reach))
    v = vectors(case, x, 0.3 * case.reach, seed=5)
    middle = space.exp(x, space.log(x, y) / 2)
    mirrored = space.exp(middle, -space.log(middle, space.exp(x, v)))
    close(space.transport(x, y, v), -space.log(y, mirrored), 1e-11)


@pytest.mark.parametrize("part", [0.0, 1e-4, 0.2, 0.9])
def test_log_jacobian(case: Case, part: float) -> None:
    """It is the determinant of the derivative of exp in frames, by differentiation."""
    space, x = case.space, points(case, 2)
    v = vectors(case, x, part * case.reach)
    y = space.exp(x, v).detach()

    def move(weights: Tensor) -> Tensor:
        return resolve(space, y, space.log(y, space.exp(x, combine(space, x, weights)))).sum(0)

    jacobian = torch.autograd.functional.jacobian(move, resolve(space, x, v))
    expected = torch.linalg.slogdet(jacobian.movedim(1, 0)).logabsdet
    close(space.log_jacobian(x, v), expected, 1e-9)


def test_isometries(case: Case) -> None:
    """They keep distances and carry geodesics to geodesics."""
    space, x, y = case.space, points(case, 50), points(case, 50, seed=2)
    moved = 0.0
    for seed in range(4):
        move = space.isometry(Generator(seed), torch.float64, "cpu")
        close(space.distance(move(x), move(y)), space.distance(x, y), 1e-11)
        v = vectors(case, x, 0.9 * case.reach)
        way = space.log(move(x), move(space.exp(x, v)))
        far = space.distance(move(space.exp(x, v / 3)), space.exp(move(x), way / 3))
        assert far.max() < 1e-11
        moved = max(moved, space.distance(move(x), x).max().item())
    assert moved > 1e-3


def test_projection(case: Case) -> None:
    space, x = case.space, points(case, 50)
    close(space.project(x), x, 1e-13)
    shift = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    mended = space.project(x + 1e-3 * shift)
    assert space.belongs(mended, 1e-12).inside.all()
    assert space.distance(mended, x).max() < 0.1
    close(space.project(mended), mended, 1e-13)


def test_belongs(case: Case) -> None:
    space, x = case.space, points(case, 6)
    found = space.belongs(x)
    assert found.inside.all()
    assert found.reason is None
    x[2], x[4] = math.nan, math.nan
    found = space.belongs(x)
    assert found.inside.tolist() == [True, True, False, True, False, True]
    assert found.reason is not None
    assert "row 2" in found.reason
    with pytest.raises(ValueError, match="shape"):
        space.belongs(x[:, None])


def test_features_tell_points_apart(case: Case) -> None:
    space, x = case.space, points(case, 1)
    assert space.features(points(case, 30)).abs().max() < 10

    def describe(weights: Tensor) -> Tensor:
        return space.features(space.exp(x, combine(space, x, weights))).sum(0)

    zero = torch.zeros(1, space.dimension, dtype=x.dtype)
    slope = torch.autograd.functional.jacobian(describe, zero)[:, 0]
    assert torch.linalg.svdvals(slope).min() > 0.1


def test_float32_agrees_with_float64(case: Case) -> None:
    space, x, y = case.space, points(case, 50), points(case, 50, seed=2)
    x, y = x.float(), y.float()
    v = space.log(x, y)
    assert v.dtype == space.exp(x, v).dtype == space.transport(x, y, v).dtype == torch.float32
    near = space.exp(x, v / 3).double()
    assert space.distance(near, space.exp(x.double(), v.double() / 3)).max() < 1e-4
    inside = space.distance(x, y) < 0.95 * space.injectivity
    close(v[inside].double(), space.log(x.double(), y.double())[inside], 1e-4)
    u = vectors(case, x, 1.0)
    moved = space.transport(x.double(), y.double(), u.double())
    close(space.transport(x, y, u)[inside].double(), moved[inside], 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_do_not_depend_on_whether_derivatives_are_asked_for(
    case: Case, dtype: torch.dtype
) -> None:
    space = case.space
    x = space.project(points(case, 40).to(dtype))
    rounding = 100 * torch.finfo(dtype).eps
    for length in (0.0, 1e-30, 1e-12, 1e-6, 1e-3, 0.0316, 0.5, 0.99 * case.reach):
        v = space.to_tangent(x, vectors(case, x, length))
        y = space.exp(x, v)
        followed = x.clone().requires_grad_()
        close(space.exp(followed, v).detach(), y, rounding)
        near = max(0.1, math.pi - length)
        close(space.log(followed, y).detach(), space.log(x, y), rounding / near)
        u = space.noise(x, Generator(3))
        moved = space.transport(followed, y, u).detach()
        close(moved, space.transport(x, y, u), rounding / near)
    if isinstance(space, Sphere):
        close(space.log(followed, -x).detach(), space.log(x, -x), rounding)


def test_no_rows(case: Case) -> None:
    space, x = case.space, points(case, 0)
    v = space.log(x, space.exp(x, space.noise(x, Generator(0))))
    assert v.shape == (0, *space.tangent)
    assert space.transport(x, x, v).shape == (0, *space.tangent)
    assert space.frame(x).shape == (0, space.dimension, *space.tangent)
    assert space.log_jacobian(x, v).shape == (0,)
    assert space.project(x).shape == x.shape
    assert space.belongs(x).reason is None
