"""The adapter's exp, log and transport against geomstats itself, closed forms and differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.adapter import CompactGeomstats, Geomstats
from tests.spaces.adapted import MANIFOLDS, ROUGH, SPACES, close, every, points, quiet
from tests.spaces.oracle import geomstats

with geomstats():
    from geomstats.geometry.stiefel import Stiefel

pytestmark = quiet


@every
def test_exp_is_that_of_geomstats(name: str) -> None:
    space, manifold = SPACES[name], MANIFOLDS[name][0]
    x = points(space, 10)
    v = 0.2 * space.noise(x, Generator(1))
    y = space.exp(x, v)
    with geomstats():
        close(y, manifold.metric.exp(space.vector(x, v), x), 1e-14)
    assert space.belongs(y, 1e-9).inside.all()


@every
def test_log_undoes_exp(name: str) -> None:
    space = SPACES[name]
    x = points(space, 8)
    v = space.noise(x, Generator(1))
    v = v * (0.3 / space.norm2(v).sqrt()).reshape(-1, *(1,) * len(space.tangent))
    y = space.exp(x, v)
    close(space.log(x, y), v, ROUGH.get(name, 1e-9))
    far = torch.full((8,), 0.3, dtype=x.dtype)
    close(space.distance(x, y), far, ROUGH.get(name, 1e-9))


@pytest.mark.parametrize("frame", [(3, 2), (5, 3), (4, 4)])
def test_stiefel_log_is_right_for_any_number_of_vectors(frame: tuple[int, int]) -> None:
    """geomstats' own does not undo its exp in Stiefel(3, 2)."""
    with geomstats():
        space = Geomstats(Stiefel(*frame))
    x = points(space, 6)
    v = 0.3 * space.noise(x, Generator(1))
    close(space.log(x, space.exp(x, v)), v, 1e-12)


def test_log_that_is_not_found_is_reported() -> None:
    space = SPACES["Stiefel"]
    assert isinstance(space, CompactGeomstats)
    x = space.uniform(1, Generator(0), torch.float64, "cpu")
    with pytest.warns(UserWarning, match="log was not found for 1 of 1 rows of Stiefel"):
        space.log(x, -x)


@every
def test_transport_keeps_lengths_and_tangency(name: str) -> None:
    space = SPACES[name]
    x = points(space, 2)
    v, w = 0.2 * space.noise(x, Generator(1)), space.noise(x, Generator(2))
    y = space.exp(x, v)
    moved = space.transport(x, y, w)
    tolerance = 1e-5 if name in ROUGH else 1e-11
    close(space.norm2(moved), space.norm2(w), tolerance)
    close(space.to_tangent(y, moved), moved, 1e-9)
    if name != "Stiefel":
        close(space.transport(x, y, v), -space.log(y, x), tolerance)


def test_transport_by_the_ladder_is_that_of_the_other_model() -> None:
    """geomstats has a closed form on the hyperboloid, none on the half-space."""
    half, ball = SPACES["half-space"], MANIFOLDS["half-space"][0].metric.image_space
    x = points(half, 6)
    v, w = half.noise(x, Generator(1)), half.noise(x, Generator(2))
    y = half.exp(x, v)
    angle = half.dot(half.transport(x, y, w), half.log(y, x)) + half.dot(w, v)
    close(angle, torch.zeros(6).double(), 1e-10)
    assert ball.dim == 3
    across = half.transport(x, y, w + 2 * v) - half.transport(x, y, w)
    close(across, 2 * half.transport(x, y, v), 1e-10)


def test_log_jacobian_has_its_closed_forms() -> None:
    for name, bend in (("sphere", torch.sin), ("half-space", torch.sinh)):
        space = SPACES[name]
        x = points(space, 6)
        v = space.noise(x, Generator(1))
        length = space.norm2(v).sqrt()
        close(space.log_jacobian(x, v), 2 * torch.log(bend(length).abs() / length), 1e-10)
        close(space.log_jacobian(x, 0 * v), torch.zeros(6).double(), 0.0)


@pytest.mark.parametrize("name", ["Stiefel", "Grassmann", "positive definite", "shapes"])
def test_log_jacobian_agrees_with_differences(name: str) -> None:
    space, h = SPACES[name], 1e-5
    x = points(space, 3)
    v = 0.6 * space.noise(x, Generator(1))
    y, frame = space.exp(x, v), space.frame(x)
    there = space.frame(y).flatten(2)
    columns = []
    for i in range(space.dimension):
        high, low = space.exp(x, v + h * frame[:, i]), space.exp(x, v - h * frame[:, i])
        with geomstats():
            slope = space.coordinates(y, (high - low) / (2 * h))
        columns.append(torch.einsum("rij,rj->ri", there, slope.flatten(1)))
    truth = torch.linalg.slogdet(torch.stack(columns, -1))[1]
    close(space.log_jacobian(x, v), truth, 1e-7)


@pytest.mark.parametrize("name", ["Stiefel", "Grassmann", "half-space", "positive definite"])
def test_gradients_flow_through_exp_and_log(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 1), points(space, 1, seed=1)
    v = (0.4 * space.noise(x, Generator(2))).requires_grad_()
    w = (0.4 * space.noise(y, Generator(3))).requires_grad_()

    def whole(v: Tensor, w: Tensor) -> Tensor:
        start = space.exp(x, space.to_tangent(x, v))
        return space.log(start, space.exp(y, space.to_tangent(y, w)))

    with geomstats():
        assert torch.autograd.gradcheck(whole, (v, w), atol=1e-6, fast_mode=True)
