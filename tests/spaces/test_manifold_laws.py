"""Laws of every manifold with a heat kernel, in float64 on the list below."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import SO3, HeatKernel, Sphere, Torus, power, product

SPACES: list[HeatKernel] = [
    Torus(1),
    Torus(3),
    SO3(),
    Sphere(1),
    Sphere(2),
    product(Torus(1), Sphere(2)),
    power(Sphere(2), 2),
]
NAMES = ["T1", "T3", "SO3", "S1", "S2", "T1 x S2", "S2 x S2"]
TIMES = [1e-4, 0.03, 0.4, 0.97, 1.2, 1.7, 4.0]

pytestmark = pytest.mark.parametrize("space", SPACES, ids=NAMES)
times = pytest.mark.parametrize("tau", TIMES)


def points(space: HeatKernel, rows: int, seed: int = 0) -> Tensor:
    return space.uniform(rows, Generator(seed), torch.float64, "cpu")


def vectors(space: HeatKernel, x: Tensor, length: float, seed: int = 1) -> Tensor:
    """Tangent vectors of the given length."""
    v = space.noise(x, Generator(seed))
    v = v * (length / space.norm2(v).sqrt()).reshape(-1, *(1,) * (v.ndim - 1))
    return space.to_tangent(x, v)  # scaling up also scales what rounding left across


def around(space: HeatKernel, x: Tensor, c: Tensor) -> Tensor:
    """exp of the tangent vectors with coordinates c, `(rows, dimension)`, in the frame at x."""
    return space.exp(x, torch.einsum("rd,rd...->r...", c, space.frame(x)))


def in_frame(space: HeatKernel, x: Tensor, v: Tensor) -> Tensor:
    """Coordinates of tangent vectors in the frame at x."""
    return (v[:, None] * space.frame(x)).flatten(2).sum(2)


def time(tau: float) -> Tensor:
    return torch.tensor(tau, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("length", [0.0, 1e-12, 1e-5, 0.06, 0.0633, 1.0, 2.5, math.pi - 1e-6])
def test_log_undoes_exp(space: HeatKernel, length: float) -> None:
    x = points(space, 100)
    v = vectors(space, x, length)
    close(space.log(x, space.exp(x, v)), v, 1e-14 + 1e-14 / (math.pi - length))


def test_exp_undoes_log(space: HeatKernel) -> None:
    x, y = points(space, 500), points(space, 500, seed=2)
    back = space.exp(x, space.log(x, y))
    close(space.log(y, back), torch.zeros(500, *space.tangent, dtype=x.dtype), 1e-13)
    assert space.norm2(space.log(x, y)).max() <= space.dimension * math.pi**2


def test_projection_keeps_points(space: HeatKernel) -> None:
    x = points(space, 100)
    close(space.project(x), x, 1e-14)
    close(
        space.project(space.exp(x, vectors(space, x, 7.0))),
        space.exp(x, vectors(space, x, 7.0)),
        1e-14,
    )


def test_transport_is_an_isometry_along_the_geodesic(space: HeatKernel) -> None:
    x, y = points(space, 200), points(space, 200, seed=2)
    u, v = vectors(space, x, 1.3, seed=3), vectors(space, x, 0.7, seed=4)
    a, b = space.transport(x, y, u), space.transport(x, y, v)
    close(space.dot(a, b), space.dot(u, v), 1e-13)
    close(space.transport(y, x, a), u, 1e-13)
    close(space.transport(x, y, space.log(x, y)), -space.log(y, x), 1e-12)
    close(space.transport(x, x, u), u, 1e-14)
    close(space.to_tangent(x, u), u, 1e-14)


def test_log_is_the_gradient_of_the_distance(space: HeatKernel) -> None:
    x, y = points(space, 100), points(space, 100, seed=2)
    y[:5] = x[:5]
    v = torch.zeros(100, space.dimension, dtype=x.dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(space.norm2(space.log(x, around(space, y, v))).sum() / 2, v)
    close(grad, -in_frame(space, y, space.log(y, x)), 1e-12)


def test_squared_distance_has_unit_hessian_at_coincidence(space: HeatKernel) -> None:
    x = points(space, 1)

    def half_square(v: Tensor) -> Tensor:
        return space.norm2(space.log(x, around(space, x, v[None]))).sum() / 2

    hessian = torch.autograd.functional.hessian(
        half_square, torch.zeros(space.dimension, dtype=x.dtype)
    )
    close(hessian, torch.eye(space.dimension, dtype=x.dtype), 1e-13)


@times
def test_score_is_the_gradient_of_the_log_kernel(space: HeatKernel, tau: float) -> None:
    x, y = points(space, 200), points(space, 200, seed=2)
    y[:5] = x[:5]
    y[5:30] = space.exp(x[5:30], vectors(space, x[5:30], 0.05))
    v = torch.zeros(200, space.dimension, dtype=x.dtype, requires_grad=True)
    value = space.log_kernel(x, around(space, y, v), time(tau))
    (grad,) = torch.autograd.grad(value.sum(), v)
    close(in_frame(space, y, space.score(x, y, time(tau))) * tau, grad * tau, 1e-10)


@times
def test_kernel_obeys_the_heat_equation(space: HeatKernel, tau: float) -> None:
    """d log k / d tau = (Laplacian log k + |grad log k|^2) / 2, in normal coordinates at y."""
    x, y = points(space, 40), points(space, 40, seed=2)
    y[:5] = x[:5]
    t = torch.full((40,), tau, dtype=torch.float64, requires_grad=True)
    v = torch.zeros(40, space.dimension, dtype=x.dtype, requires_grad=True)
    value = space.log_kernel(x, around(space, y, v), t)
    rate, grad = torch.autograd.grad(value.sum(), (t, v), create_graph=True)
    bend = sum(
        torch.autograd.grad(grad[:, i].sum(), v, retain_graph=True)[0][:, i]
        for i in range(space.dimension)
    )
    expected = (bend + grad.square().sum(-1)) / 2
    close(rate.detach() * tau**2, expected.detach() * tau**2, 1e-9)


@times
def test_kernel_is_symmetric_and_has_the_flat_limit(space: HeatKernel, tau: float) -> None:
    x, y = points(space, 200), points(space, 200, seed=2)
    close(space.log_kernel(x, y, time(tau)), space.log_kernel(y, x, time(tau)), 1e-11)
    near = space.exp(x, vectors(space, x, 2e-4))
    flat = -2e-4 - 0.5 * space.dimension * math.log(2 * math.pi * 1e-4)
    close(space.log_kernel(x, near, time(1e-4)), torch.full((200,), flat, dtype=x.dtype), 1e-4)


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.3), (0.5, 0.9), (1.0, 1.5)])
def test_semigroup_by_sampling(space: HeatKernel, s: float, t: float) -> None:
    rows = 20_000
    x = points(space, 1).expand(rows, *space.point)
    z = points(space, 1, seed=5).expand(rows, *space.point)
    middle = space.diffuse(x, time(s), Generator(3))
    value = space.log_kernel(middle, z, time(t)).exp()
    truth = space.log_kernel(x[:1], z[:1], time(s + t)).exp().item()
    assert abs(value.mean().item() - truth) < 4 * value.std().item() / math.sqrt(rows)


@pytest.mark.parametrize("tau", [0.1, 0.9, 1.3, 2.5])
def test_entropy_gap_is_the_mean_log_density(space: HeatKernel, tau: float) -> None:
    rows = 20_000
    x = points(space, rows)
    y = space.diffuse(x, time(tau), Generator(6))
    value = space.log_kernel(x, y, time(tau)) + space.log_volume
    error = value.std().item() / math.sqrt(rows)
    assert abs(value.mean().item() - space.entropy_gap(time(tau)).item()) < 4 * error


def test_entropy_gap_falls_to_zero(space: HeatKernel) -> None:
    gap = space.entropy_gap(torch.tensor([0.01, 0.1, 1.0, 2.0, 10.0, 40.0], dtype=torch.float64))
    assert (gap.diff() < 0).all()
    assert gap[-1] < 1e-15
    assert abs(space.entropy_gap(time(2000.0)).item()) < 1e-15
    assert space.entropy_gap(torch.tensor(0.3)).dtype == torch.float32


def test_times_per_row_and_zero_time(space: HeatKernel) -> None:
    x, y = points(space, 6), points(space, 6, seed=2)
    t = torch.tensor([0.0, 0.1, 0.9, 1.4, 1.6, 9.0], dtype=torch.float64)
    mixed = space.diffuse(x, t, Generator(7))
    close(mixed[0], x[0], 0.0)
    for i in range(1, 6):
        close(mixed[i], space.diffuse(x, t[i], Generator(7))[i], 1e-14)
        for function in (space.log_kernel, space.score):
            close(function(x, y, t.clamp(min=0.1))[i], function(x, y, t[i])[i], 1e-14)


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.4])
def test_draw_is_differentiable_in_time(space: HeatKernel, tau: float) -> None:
    x = points(space, 50)
    t = torch.full((50,), tau, dtype=torch.float64, requires_grad=True)
    moved = space.norm2(space.log(x, space.diffuse(x, t, Generator(8)))) / 2
    (grad,) = torch.autograd.grad(moved.sum(), t)
    assert grad.isfinite().all()
    if tau:
        step = 1e-5
        ends = [space.diffuse(x, time(tau + h), Generator(8)) for h in (-step, step)]
        low, high = (space.norm2(space.log(x, end)) / 2 for end in ends)
        close(grad, (high - low) / (2 * step), 1e-7)


@pytest.mark.parametrize("tau", [1e-4, 0.03, 0.4, 1.2, 4.0])
def test_float32_agrees_with_float64(space: HeatKernel, tau: float) -> None:
    x, y = points(space, 300).float(), points(space, 300, seed=2).float()
    t = torch.tensor(tau)
    wide = (x.double(), y.double(), t.double())
    assert space.log_kernel(x, y, t).dtype == space.score(x, y, t).dtype == torch.float32
    assert (
        space.diffuse(x, t, Generator(0)).dtype
        == space.exp(x, space.log(x, y)).dtype
        == torch.float32
    )
    close(space.log_kernel(x, y, t).double(), space.log_kernel(*wide), 5e-6)
    # At the cut locus the score turns faster than float32 points can say.
    way = space.log(wide[0], wide[1])
    round_ = isinstance(space, (SO3, Sphere))
    reach = space.norm2(way).sqrt() if round_ else way.flatten(1).abs().amax(-1)
    inside = reach < (math.pi - 0.01 if round_ else math.pi / 3**0.5)
    a, b = space.score(x, y, t).double(), space.score(*wide)
    error = space.norm2(a - b).sqrt() / space.norm2(b).sqrt()
    assert error[inside].max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_times_have_finite_derivatives(space: HeatKernel, dtype: torch.dtype) -> None:
    """At 1e-12 the score is the flat one, -log(y, x) / tau, short of the cut locus."""
    x, y = points(space, 50).to(dtype), points(space, 50, seed=2).to(dtype)
    y[:5] = x[:5]
    t = torch.tensor(1e-12, dtype=dtype)
    start = y.clone().requires_grad_()
    score = space.score(x, start, t)
    loose = 1e-5 if dtype == torch.float32 else 1e-11
    close(score.detach() * t, space.log(y, x), loose)
    assert torch.autograd.grad(score.sum(), start)[0].isfinite().all()


def test_no_rows(space: HeatKernel) -> None:
    x = points(space, 0)
    v = space.log(x, space.exp(x, space.noise(x, Generator(0))))
    assert v.shape == (0, *space.tangent)
    assert space.diffuse(x, time(0.3), Generator(0)).shape == (0, *space.point)
    assert space.log_kernel(x, x, time(0.3)).shape == (0,)
