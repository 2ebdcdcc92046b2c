"""The geometry of the sphere against geomstats, closed forms and its singular places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.sphere import Sphere
from tests.spaces.oracle import geomstats

DIMENSIONS = [1, 2, 3, 7, 31, 127]

dimensions = pytest.mark.parametrize("dimension", DIMENSIONS)
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def points(dimension: int, rows: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return Sphere(dimension).uniform(rows, Generator(seed), dtype, "cpu")


def vectors(x: Tensor, length: float, seed: int = 1) -> Tensor:
    space = Sphere(x.shape[1] - 1)
    v = space.noise(x, Generator(seed))
    v = space.to_tangent(x, v / v.norm(dim=1, keepdim=True))
    return length * v / v.norm(dim=1, keepdim=True)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@dimensions
def test_agrees_with_geomstats(dimension: int) -> None:
    space = Sphere(dimension)
    x, y = points(dimension, 50), points(dimension, 50, seed=2)
    v, w = vectors(x, 0.8), vectors(x, 1.7, seed=5)
    ambient = torch.randn(50, dimension + 1, dtype=torch.float64, generator=torch.manual_seed(0))
    with geomstats():
        from geomstats.geometry.hypersphere import Hypersphere

        other = Hypersphere(dimension)
        metric = other.metric
        end, way, far = metric.exp(w, x), metric.log(y, x), metric.dist(x, y)
        moved = metric.parallel_transport(v, x, end_point=y)
        mended, flat = other.projection(3 * x), other.to_tangent(ambient, base_point=x)
    close(space.exp(x, w), end, 1e-12)
    close(space.log(x, y), way, 1e-10)
    close(space.distance(x, y), far, 1e-7)
    close(space.transport(x, y, v), moved, 1e-10)
    close(space.project(3 * x), mended, 1e-14)
    close(space.to_tangent(x, ambient), flat, 1e-13)


@dimensions
@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-4, 0.031, 0.032, 1.2, 3.0, math.pi - 1e-7])
def test_log_undoes_exp_at_every_length(dimension: int, length: float) -> None:
    x = points(dimension, 50)
    v = vectors(x, length)
    close(Sphere(dimension).log(x, Sphere(dimension).exp(x, v)), v, 2e-14 / (math.pi - length))


@dimensions
@precisions
def test_short_vectors_keep_their_digits(dimension: int, dtype: torch.dtype) -> None:
    """The angle comes from the chord, so it is right to the rounding of the points."""
    x, space = points(dimension, 50, dtype=dtype), Sphere(dimension)
    for length in (1e-3, 3e-2):
        back = space.log(x, space.exp(x, vectors(x, length)))
        error = (back.norm(dim=1) - length).abs().max()
        assert error < 4 * torch.finfo(dtype).eps


@dimensions
@precisions
def test_opposite_points_have_the_documented_logarithm(dimension: int, dtype: torch.dtype) -> None:
    space, x = Sphere(dimension), points(dimension, 20, dtype=dtype)
    x[0] = space.origin(dtype, "cpu")
    x[1] = -x[0]
    y = (-x).requires_grad_()
    v = space.log(x, y)
    rounding = 8 * torch.finfo(dtype).eps
    close(v.detach(), math.pi * space.frame(x)[:, 0], rounding)
    assert (space.exp(x, v.detach()) + x).abs().max() < rounding
    (grad,) = torch.autograd.grad(v.sum(), y)
    assert grad.abs().max() < 100
    moved = space.transport(x, y.detach(), v.detach())
    close(moved, -v.detach(), rounding)


@dimensions
@precisions
def test_second_derivatives_are_finite_and_right_at_coincidence(
    dimension: int, dtype: torch.dtype
) -> None:
    """d^2 |log(x, exp(x, v))|^2 / 2 = identity, and the gradient of the distance is a unit one."""
    space, x = Sphere(dimension), points(dimension, 1, dtype=dtype)
    basis = space.frame(x)[0]

    def half_square(w: Tensor) -> Tensor:
        return space.norm2(space.log(x, space.exp(x, (w @ basis)[None]))).sum() / 2

    zero = torch.zeros(dimension, dtype=dtype)
    hessian = torch.autograd.functional.hessian(half_square, zero)
    close(hessian, torch.eye(dimension, dtype=dtype), 100 * torch.finfo(dtype).eps)
    for gap in (1e-3, 1e-2, 0.5, 3.0):
        y = space.exp(x, gap * basis[:1]).requires_grad_()
        (grad,) = torch.autograd.grad(space.distance(x, y).sum(), y)
        length = space.to_tangent(y.detach(), grad).norm().item()
        assert abs(length - 1) < 100 * torch.finfo(dtype).eps / math.sin(gap)


@dimensions
def test_frame_is_orthonormal_and_tangent(dimension: int) -> None:
    space, x = Sphere(dimension), points(dimension, 20)
    x[0] = space.origin(torch.float64, "cpu")
    x[1] = -x[0]
    basis = space.frame(x)
    close(basis @ basis.mT, torch.eye(dimension, dtype=x.dtype).expand(20, -1, -1), 1e-14)
    close((basis @ x[..., None])[..., 0], torch.zeros(20, dimension, dtype=x.dtype), 1e-15)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0.0, 0.02, 0.5, 2.5, 4.0])
def test_log_jacobian_is_the_determinant(dimension: int, length: float) -> None:
    space, x = Sphere(dimension), points(dimension, 1)
    basis = space.frame(x)[0]
    w = torch.zeros(dimension, dtype=x.dtype)
    w[-1] = length
    jacobian = torch.autograd.functional.jacobian(lambda u: space.exp(x, (u @ basis)[None])[0], w)
    truth = torch.linalg.svdvals(jacobian).log().sum()
    close(space.log_jacobian(x, (w @ basis)[None])[0], truth, 1e-12)


def test_log_jacobian_is_minus_infinity_at_conjugate_points() -> None:
    x = points(2, 3)
    assert (Sphere(2).log_jacobian(x, vectors(x, math.pi)) < -34).all()


@dimensions
def test_isometries_are_orthogonal_and_uniform(dimension: int) -> None:
    space = Sphere(dimension)
    move = space.isometry(Generator(4), torch.float64, "cpu")
    x, y = points(dimension, 30), points(dimension, 30, seed=2)
    close(space.distance(move(x), move(y)), space.distance(x, y), 1e-13)
    close(space.exp(move(x), move(space.log(x, y))), move(y), 1e-13)
    start = space.origin(torch.float64, "cpu")[None]
    moves = [space.isometry(Generator(s), torch.float64, "cpu")(start) for s in range(100)]
    assert torch.cat(moves).mean(0).norm() < 3 / math.sqrt(100)


@dimensions
def test_uniform_points_have_the_moments_of_the_volume(dimension: int) -> None:
    size, rows = dimension + 1, 20_000
    x = points(dimension, rows)
    close(x.norm(dim=1), torch.ones(rows, dtype=x.dtype), 1e-14)
    assert x.mean(0).abs().max() < 5 / math.sqrt(rows * size)
    spread = math.sqrt(2 * dimension / (size + 2)) / size / math.sqrt(rows)
    assert (x.square().mean(0) - 1 / size).abs().max() < 5 * spread


@pytest.mark.parametrize(
    ("dimension", "volume"), [(1, 2 * math.pi), (2, 4 * math.pi), (3, 2 * math.pi**2)]
)
def test_volume(dimension: int, volume: float) -> None:
    assert math.isclose(Sphere(dimension).log_volume, math.log(volume), rel_tol=1e-14)


def test_belonging_names_the_row_and_the_fix() -> None:
    space, x = Sphere(2), points(2, 4)
    assert space.belongs(x).reason is None
    x[2] *= 1.5
    x[3, 0] = math.nan
    found = space.belongs(x)
    assert found.inside.tolist() == [True, True, False, False]
    assert found.reason is not None
    assert "row 2 has length 1.5, must be 1" in found.reason
    assert "project" in found.reason
    with pytest.raises(ValueError, match=r"x has the shape \(4, 2\), must be \(rows, 3\) on S\^2"):
        space.belongs(x[:, :2])


@pytest.mark.parametrize("dimension", [0, 128])
def test_dimension_must_be_in_range(dimension: int) -> None:
    with pytest.raises(ValueError, match=f"dimension is {dimension}, must be from 1 to 127"):
        Sphere(dimension)
