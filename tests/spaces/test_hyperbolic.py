"""Hyperbolic space: both models against geomstats and mpmath, far away, at the boundary, at 0."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.hyperbolic import (
    Hyperbolic,
    HyperbolicModel,
    PoincareBall,
    from_ball,
    to_ball,
)
from structdiff.spaces.laws import WrappedNormal
from tests.spaces.oracle import geomstats

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
MODELS = pytest.mark.parametrize("space", [Hyperbolic(3), PoincareBall(3)], ids=["H3", "ball3"])


def points(space: HyperbolicModel, rows: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    centre = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(centre, scale * space.noise(centre, Generator(seed)))


def ambient(x: Tensor, v: Tensor) -> Tensor:
    """The vector B_x (0, v) of R^{1+n}."""
    along = (x[:, 1:] * v).sum(1, keepdim=True)
    return torch.cat([along, v + x[:, 1:] * along / (1 + x[:, :1])], 1)


def far_points(radius: float, dtype: torch.dtype, way: str, seed: int) -> tuple[Tensor, Tensor]:
    """Two unit vectors: equal, so near that the points are about 1 apart, random, or opposite."""
    e, f = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other = {"same": e, "near": e + f * math.exp(-radius), "random": f, "opposite": -e}[way]
    return (e / e.norm()).to(dtype), (other / other.norm()).to(dtype)


# The maps with 60 digits, as the formulas are written.


def digits(x: Tensor) -> list[mpmath.mpf]:
    return [mpmath.mpf(float(a)) for a in x]


def product(a: list[mpmath.mpf], b: list[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.fsum(p * q for p, q in zip(a, b, strict=True))


def height(x: list[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.sqrt(1 + product(x, x))


def boost(x: list[mpmath.mpf], u: list[mpmath.mpf]) -> list[mpmath.mpf]:
    k = height(u) + product(x, u) / (1 + height(x))
    return [a + k * b for a, b in zip(u, x, strict=True)]


def log(x: list[mpmath.mpf], y: list[mpmath.mpf]) -> list[mpmath.mpf]:
    w = boost([-a for a in x], y)
    s = mpmath.sqrt(product(w, w))
    return [a * mpmath.asinh(s) / s for a in w] if s else w


def exp(x: list[mpmath.mpf], v: list[mpmath.mpf]) -> list[mpmath.mpf]:
    r = mpmath.sqrt(product(v, v))
    return boost(x, [a * mpmath.sinh(r) / r for a in v])


def length(v: list[mpmath.mpf]) -> float:
    return float(mpmath.sqrt(product(v, v)))


def gap(a: list[mpmath.mpf], b: list[mpmath.mpf]) -> float:
    return length([p - q for p, q in zip(a, b, strict=True)])


@pytest.mark.parametrize("model", [Hyperbolic, PoincareBall])
def test_needs_a_dimension(model: type[HyperbolicModel]) -> None:
    with pytest.raises(ValueError, match="dimension is 0, must be at least 1"):
        model(0)


def test_agrees_with_geomstats() -> None:
    space, ball = Hyperbolic(3), PoincareBall(3)
    x, y = points(space, 20), points(space, 20, seed=1)
    v = space.noise(x, Generator(2))
    w, p, q = ambient(x, v), to_ball(x), to_ball(y)
    scale = (1 - p.square().sum(1, keepdim=True)) / 2
    with geomstats():
        from geomstats.geometry.hyperboloid import Hyperboloid
        from geomstats.geometry.poincare_ball import PoincareBall as Ball

        metric, other = Hyperboloid(3).metric, Ball(3).metric
        end, way, far = metric.exp(w, x), metric.log(y, x), metric.dist(x, y)
        moved = metric.parallel_transport(w, x, end_point=y)
        ball_end, ball_far = other.exp(scale * v, p), other.dist(p, q)
    close = torch.testing.assert_close
    close(space.exp(x, v), end, rtol=1e-9, atol=1e-9)
    close(ambient(x, space.log(x, y)), way, rtol=1e-7, atol=1e-7)
    close(space.distance(x, y), far, rtol=1e-9, atol=1e-9)
    close(ambient(y, space.transport(x, y, v)), moved, rtol=1e-7, atol=1e-7)
    close(ball.exp(p, v), ball_end, rtol=1e-9, atol=1e-9)
    close(ball.distance(p, q), ball_far, rtol=1e-7, atol=1e-7)


def test_models_are_one_space() -> None:
    space, ball = Hyperbolic(3), PoincareBall(3)
    x, y = points(space, 50), points(space, 50, seed=1)
    v, p, q = space.noise(x, Generator(2)), to_ball(x), to_ball(y)
    close = torch.testing.assert_close
    close(from_ball(p), x, rtol=1e-12, atol=1e-12)
    close(ball.log(p, q), space.log(x, y), rtol=1e-12, atol=1e-12)
    close(ball.exp(p, v), to_ball(space.exp(x, v)), rtol=1e-12, atol=1e-12)
    close(ball.transport(p, q, v), space.transport(x, y, v), rtol=1e-12, atol=1e-12)
    close(ball.features(p), space.features(x), rtol=1e-12, atol=1e-12)
    # The ball's own coordinates of the frame's unit vectors are (1 - |p|^2) / 2 long.
    step = torch.autograd.functional.jacobian(
        lambda w: ball.exp(p[:1], w).sum(0), torch.zeros(1, 3, dtype=p.dtype)
    )[:, 0]
    shrink = (1 - p[0].square().sum()) / 2
    close(step, shrink * torch.eye(3, dtype=p.dtype), rtol=1e-13, atol=1e-13)


@DTYPES
@pytest.mark.parametrize("way", ["same", "near", "random", "opposite"])
def test_far_points(way: str, dtype: torch.dtype) -> None:
    """Errors are those of coordinates that are rounded, at up to 15 or 30 from the origin."""
    space, eps = Hyperbolic(3), torch.finfo(dtype).eps
    radii = (0.1, 1.0, 8.0, 15.0) if dtype == torch.float32 else (0.1, 5.0, 15.0, 30.0)
    with mpmath.workdps(60):
        for i, (near, far) in enumerate((r, s) for r in radii for s in radii):
            e, f = far_points(max(near, far), dtype, way, i)
            a, b = e * math.sinh(near), f * math.sinh(far)
            x, y = (torch.cat([a.new_ones(1), each])[None] for each in (a, b))
            x, y = space.project(x), space.project(y)
            expected = log(digits(a), digits(b))
            r = max(length(expected), 1e-9)
            rounding = (math.cosh(near) + math.cosh(far)) * r / math.sinh(r) + 1 + r
            assert gap(digits(space.log(x, y)[0]), expected) < 2 * eps * rounding
            v = -f * far
            place, found = exp(digits(a), digits(v)), digits(space.exp(x, v[None])[0, 1:])
            rounding = math.cosh(near) + math.cosh(far) + float(height(place))
            assert length(log(found, place)) < eps * rounding
            moved = space.transport(x, y, v[None])
            norms = space.norm2(moved) / space.norm2(v[None])
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=10 * eps)
            back = space.transport(y, x, moved)
            torch.testing.assert_close(back[0], v, rtol=0, atol=10 * far * eps)


@DTYPES
@MODELS
def test_walks_far_along_a_ray(space: HyperbolicModel, dtype: torch.dtype) -> None:
    """Along the radius distances keep their digits; the ball loses eps cosh(R)."""
    end, eps = 15.0 if dtype == torch.float32 else 30.0, torch.finfo(dtype).eps
    bound = 4 * eps * (math.cosh(end) if isinstance(space, PoincareBall) else 2 * end)
    x = space.origin(dtype, "cpu")[None]
    v = torch.tensor([[0.0, -end, 0.0]], dtype=dtype)
    y, middle, behind = space.exp(x, v), space.exp(x, v / 2), space.exp(x, -v)
    for start, stop, expected in ((x, y, end), (middle, y, end / 2), (behind, y, 2 * end)):
        assert abs(space.distance(start, stop).double().item() - expected) < bound
        assert abs(space.distance(stop, start).double().item() - expected) < bound


@DTYPES
@MODELS
def test_derivatives_far_away(space: HyperbolicModel, dtype: torch.dtype) -> None:
    """Half the squared distance has the gradient -log, and finite second derivatives."""
    radius = 7.0 if dtype == torch.float32 else 14.0
    x = space.exp(
        space.origin(dtype, "cpu").expand(4, *space.point),
        radius * torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0.0]], dtype=dtype),
    )
    y = x[[0, 2, 3, 1]]
    v = torch.zeros(4, 3, dtype=dtype, requires_grad=True)
    half_square = space.norm2(space.log(x, space.exp(y, v))).sum() / 2
    (grad,) = torch.autograd.grad(half_square, v, create_graph=True)
    loose = 1e-2 if dtype == torch.float32 else 1e-5
    torch.testing.assert_close(grad.detach(), -space.log(y, x), rtol=loose, atol=loose)
    (bend,) = torch.autograd.grad(grad[:, 0].sum(), v)
    assert bend.isfinite().all()


@DTYPES
def test_the_boundary_of_the_ball(dtype: torch.dtype) -> None:
    """Points on it or beyond stand for the outermost ones; maps and gradients stay finite."""
    space, eps = PoincareBall(2), torch.finfo(dtype).eps
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1 - 0.5 * eps, 0.0], [0.0, 1.0]], dtype=dtype)
    y = torch.tensor([[0.0, 0.0], [-0.6, -0.8], [1.0, 0.0], [0.5, 0.0]], dtype=dtype)
    x.requires_grad_()
    v = space.log(x, y)
    outermost = math.log(2 / (4 * eps))
    distances = space.norm2(v).sqrt().detach().double()
    assert abs(distances[0].item() - outermost) < 0.2
    assert abs(distances[1].item() - 2 * outermost) < 0.4
    z = space.exp(x, v)
    assert torch.autograd.grad(z.square().sum() + v.square().sum(), x)[0].isfinite().all()
    far = space.exp(y.detach(), 40 * torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1], [1, 0]]).to(y))
    assert (far.square().sum(1) < 1).all()
    assert (space.project(x).square().sum(1) < 1).all()


@MODELS
@DTYPES
@pytest.mark.parametrize("r", [0.0, 1e-12, 1e-6, 9.9e-4, 1.01e-3, 0.05, 1.0, 8.0])
def test_curvature_of_the_squared_distance(
    space: HyperbolicModel, r: float, dtype: torch.dtype
) -> None:
    """Its half has the Hessian 1 along the geodesic and r coth r across, at the origin and off."""
    eps = torch.finfo(dtype).eps
    for start in (torch.zeros(3), torch.tensor([0.3, -1.2, 0.5])):
        x = space.exp(space.origin(dtype, "cpu")[None], start.to(dtype)[None])
        y = space.exp(x, torch.tensor([[0.6 * r, 0.0, 0.8 * r]], dtype=dtype))
        e = space.log(y, x)[0] / max(r, 1e-30) if r > 1e-9 else torch.zeros(3, dtype=dtype)

        def half_square(v: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return space.norm2(space.log(x, space.exp(y, v[None]))).sum() / 2

        hessian = torch.autograd.functional.hessian(half_square, torch.zeros(3, dtype=dtype))
        across = r / math.tanh(r) if r else 1.0
        along = torch.outer(e, e)
        expected = across * (torch.eye(3, dtype=dtype) - along) + along
        rounding = 100 * eps * math.cosh(r) ** 2 + 3 * eps / max(r, 1e-3)
        torch.testing.assert_close(hessian, expected, rtol=rounding, atol=rounding)


@DTYPES
@pytest.mark.parametrize("r", [0.0, 1e-12, 1e-6, 9.9e-4, 1.01e-3, 0.05, 1.0, 8.0])
def test_derivatives_of_exp(r: float, dtype: torch.dtype) -> None:
    """From the origin it is sinh(r) / r v: first and second derivatives in closed form."""
    space, eps = Hyperbolic(2), torch.finfo(dtype).eps
    origin = space.origin(dtype, "cpu")[None]

    def place(v: Tensor) -> Tensor:
        return space.exp(origin, v[None])[0, 1]

    v = torch.tensor([r, 0.0], dtype=dtype)
    (slope,) = torch.autograd.functional.jacobian(lambda w: place(w)[None], v)
    bend = torch.autograd.functional.hessian(place, v)
    with mpmath.workdps(40):
        s = mpmath.mpf(float(v[0]))
        f = mpmath.sinh(s) / s if s else mpmath.mpf(1)
        first = [mpmath.cosh(s), 0]
        cross = (mpmath.cosh(s) - f) / s if s else mpmath.mpf(0)
        second = [[mpmath.sinh(s), 0], [0, cross]]
    rounding = 20 * eps * math.cosh(r)
    expected = torch.tensor([float(a) for a in first], dtype=dtype)
    torch.testing.assert_close(slope, expected, rtol=0, atol=rounding)
    expected = torch.tensor([[float(a) for a in row] for row in second], dtype=dtype)
    torch.testing.assert_close(bend, expected, rtol=0, atol=rounding + eps / max(r, 1e-3))


@DTYPES
def test_log_jacobian_is_exact(dtype: torch.dtype) -> None:
    lengths = torch.tensor([0.0, 1e-9, 9e-4, 1.1e-3, 0.1, 1, 15, 80], dtype=dtype)
    v = torch.stack([lengths, 0 * lengths, 0 * lengths], 1)
    found = Hyperbolic(3).log_jacobian(v, v)
    with mpmath.workdps(40):
        reals = [mpmath.mpf(float(r)) for r in lengths]
        truth = [float(2 * mpmath.log(mpmath.sinh(r) / r)) if r else 0.0 for r in reals]
    expected = torch.tensor(truth, dtype=dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=8 * eps, atol=8 * eps)


def test_wrapped_normal_has_mass_one() -> None:
    """Integrated over polar coordinates, whose area element is sinh r."""
    space = PoincareBall(2)
    law = WrappedNormal(space, scale=0.7, centre=torch.tensor([0.3, -0.4]))
    # Off the centre, so that the integrand knows no symmetry.
    r = (torch.arange(120, dtype=torch.float64) + 0.5) * 0.05
    angle = torch.arange(160, dtype=torch.float64) * (2 * math.pi / 160)
    grid = torch.cartesian_prod(r, angle)
    v = grid[:, :1] * torch.stack([torch.cos(grid[:, 1]), torch.sin(grid[:, 1])], 1)
    x = space.exp(torch.zeros(len(v), 2, dtype=torch.float64), v)
    mass = (law.log_prob(x).exp() * torch.sinh(grid[:, 0])).sum() * 0.05 * 2 * math.pi / 160
    assert abs(mass.item() - 1) < 1e-3


def test_belongs_says_what_is_wrong() -> None:
    x = torch.tensor([[1.0, 0.0], [math.sqrt(2), 1.0], [1.0, 1.0]])
    reason = Hyperbolic(1).belongs(x).reason
    assert reason is not None
    assert reason.startswith("row 2: x_0 differs from sqrt(1 + |x'|^2), relative to it, by 0.293")
    reason = PoincareBall(2).belongs(torch.tensor([[0.0, 0.9], [0.9, 0.9]])).reason
    assert reason is not None
    assert reason.startswith("row 1: |p| is above 1 by 0.273")
