"""The adapter's tangent vectors, points and symmetries; what it keeps, and what it refuses."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.adapter import CompactGeomstats, Geomstats
from structdiff.spaces.base import Compact
from tests.spaces.adapted import MANIFOLDS, ROUGH, SPACES, close, every, points, quiet
from tests.spaces.oracle import geomstats

with geomstats():
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.riemannian_metric import RiemannianMetric
    from geomstats.geometry.stiefel import Stiefel

pytestmark = quiet


# Tangent vectors.


@every
def test_coordinates_are_orthonormal(name: str) -> None:
    space, metric = SPACES[name], MANIFOLDS[name][0].metric
    x = points(space, 20)
    v, w = space.noise(x, Generator(1)), space.noise(x, Generator(2))
    with geomstats():
        truth = metric.inner_product(space.vector(x, v), space.vector(x, w), x)
    close(space.dot(v, w), truth, 1e-11)
    close(space.coordinates(x, space.vector(x, v)), v, 1e-12)


@every
def test_projection_is_orthogonal(name: str) -> None:
    space = SPACES[name]
    x = points(space, 20)
    a, b = (Generator(s).normal(x.shape, x.dtype, "cpu") for s in (1, 2))
    v, w = space.to_tangent(x, a), space.to_tangent(x, b)
    close(space.to_tangent(x, v), v, 1e-11)
    close(space.dot(v, b), space.dot(a, w), 1e-10)


@every
def test_frame_is_an_orthonormal_basis(name: str) -> None:
    space, dimension = SPACES[name], MANIFOLDS[name][1]
    assert space.dimension == dimension
    x = points(space, 10)
    frame = space.frame(x)
    assert frame.shape == (10, dimension, *space.tangent)
    flat = frame.flatten(2)
    close(flat @ flat.mT, torch.eye(dimension, dtype=x.dtype).expand(10, -1, -1), 1e-12)
    v = space.noise(x, Generator(1))
    rebuilt = torch.einsum("ri,rij->rj", torch.einsum("rij,rj->ri", flat, v.flatten(1)), flat)
    close(rebuilt, v.flatten(1), 1e-10)


# Points and symmetries.


@every
def test_isometries_keep_distances(name: str) -> None:
    space = SPACES[name]
    x, y = points(space, 6), points(space, 6, seed=1)
    move = space.isometry(Generator(2), torch.float64, "cpu")
    assert space.belongs(move(x), 1e-9).inside.all()
    close(space.distance(move(x), move(y)), space.distance(x, y), 10 * ROUGH.get(name, 1e-10))
    still = name in ("half-space", "hyperboloid", "product", "correlations")
    assert torch.equal(move(x), x) == still


def test_shapes_have_no_attitude() -> None:
    space = SPACES["shapes"]
    x, y = points(space, 5), points(space, 5, seed=1)
    turn = torch.linalg.qr(Generator(2).normal((2, 2), torch.float64, "cpu"))[0]
    turn = turn * torch.tensor([torch.linalg.det(turn).sign(), 1.0])
    close(space.distance(x @ turn, y), space.distance(x, y), 1e-9)
    assert (space.distance(x @ turn, x) < 1e-6).all()


def test_what_does_not_belong_is_named() -> None:
    space = SPACES["Stiefel"]
    x = points(space, 3)
    x[1] *= 1.1
    answer = space.belongs(x)
    assert answer.inside.tolist() == [True, False, True]
    assert "row 1: by geomstats it is no point of Stiefel" in str(answer.reason)
    assert space.belongs(space.project(x)).inside.all()
    with pytest.raises(ValueError, match=r"shape \(rows, \*\(5, 2\)\)"):
        space.belongs(x[0])
    uncentred = points(SPACES["pre-shapes"], 2) + 0.3
    assert not SPACES["pre-shapes"].belongs(uncentred).inside.any()


# Dtypes and state.


@every
def test_float32_is_kept(name: str) -> None:
    space = SPACES[name]
    x = points(space, 4)
    v = 0.2 * space.noise(x, Generator(1))
    y = space.exp(x.float(), v.float())
    assert y.dtype == space.log(x.float(), y).dtype == space.frame(y).dtype == torch.float32
    close(y.double(), space.exp(x, v), 2e-6)
    empty = x[:0]
    for value in (space.exp(empty, v[:0]), space.log(empty, empty), space.project(empty)):
        assert value.shape == (0, *space.point)
    assert space.frame(empty).shape == (0, space.dimension, *space.tangent)
    assert space.belongs(empty).reason is None


def test_torch_is_left_as_it_was() -> None:
    state = torch.get_rng_state()
    with geomstats():
        manifold = Stiefel(4, 2)
    space = Geomstats(manifold)
    assert isinstance(space, Compact)
    x = space.uniform(3, Generator(0), torch.float32, "cpu")
    space.log(x, space.exp(x, 0.2 * space.noise(x, Generator(1))))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(space.origin(torch.float64, "cpu"), Geomstats(manifold)._origin)


def test_spaces_can_be_copied() -> None:
    for name in ("Stiefel", "half-space"):
        twin = copy.deepcopy(SPACES[name])
        assert type(twin) is type(SPACES[name])
        x = points(SPACES[name], 3)
        close(twin.noise(x, Generator(0)), SPACES[name].noise(x, Generator(0)), 0.0)


# Refusals.


def test_refuses_what_it_cannot_adapt() -> None:
    with pytest.raises(ValueError, match="must be a manifold of geomstats, got str: see"):
        Geomstats("Stiefel")
    with geomstats():
        bare, sphere = Hypersphere(2, equip=False), Hypersphere(2)
    with pytest.raises(ValueError, match="got Hypersphere without: call its equip_with_metric"):
        Geomstats(bare)
    with pytest.raises(ValueError, match="draw was given without log_volume"):
        Geomstats(sphere, draw=lambda rows, random: torch.zeros(rows, 3))
    with pytest.raises(ValueError, match="origin must be a point of Hypersphere"):
        Geomstats(sphere, origin=torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="volume of PoincareHalfSpace is not known here"):
        CompactGeomstats(MANIFOLDS["half-space"][0])


def test_a_metric_without_log_walks_only() -> None:
    class Bare(RiemannianMetric):
        def inner_product(self, a: Tensor, b: Tensor, base_point: Tensor) -> Tensor:
            return (a * b).sum(-1)

        def exp(self, tangent_vec: Tensor, base_point: Tensor) -> Tensor:
            return Hypersphere(2).metric.exp(tangent_vec, base_point)

    with geomstats():
        manifold = Hypersphere(2, equip=False)
        manifold.equip_with_metric(Bare)
    space = Geomstats(manifold)
    assert not isinstance(space, Compact)
    x = points(space, 3)
    y = space.exp(x, space.noise(x, Generator(0)))
    with pytest.raises(ValueError, match="no log for Bare: flow matching .* random walks do not"):
        space.log(x, y)
    v = space.noise(x, Generator(1))
    close(space.norm2(space.transport(x, y, v)), space.norm2(v), 1e-12)


def test_names_the_wrong_backend_and_imports_nothing() -> None:
    lines = """
import sys, warnings
from structdiff.spaces.adapter import Geomstats
assert "geomstats" not in sys.modules
warnings.simplefilter("ignore")
from geomstats.geometry.stiefel import Stiefel
try:
    Geomstats(Stiefel(4, 2))
except ValueError as error:
    print(error)
"""
    environment = {k: v for k, v in os.environ.items() if k != "GEOMSTATS_BACKEND"}
    command = [sys.executable, "-c", lines]
    said = subprocess.check_output(command, env=environment, text=True)
    assert "geomstats runs on its numpy backend" in said
    assert "GEOMSTATS_BACKEND=pytorch before geomstats is first imported" in said
