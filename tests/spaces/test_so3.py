"""SO(3): exp, log and transport against other libraries, at half turns too."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from structdiff.random import Generator
from tests.spaces.oracle import geomstats
from tests.spaces.turning import HALF_TURNS, SPACE, rotations


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
