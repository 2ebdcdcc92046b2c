"""The adapter's random walks, uniform draws and volumes against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import volumes
from structdiff.spaces.adapter import CompactGeomstats, Geomstats
from structdiff.spaces.base import Compact
from tests.spaces.adapted import HOMOGENEOUS, MANIFOLDS, SPACES, close, points, quiet
from tests.spaces.oracle import geomstats

with geomstats():
    from geomstats.geometry.grassmannian import Grassmannian
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.pre_shape import PreShapeSpace
    from geomstats.geometry.special_orthogonal import SpecialOrthogonal
    from geomstats.geometry.stiefel import Stiefel

pytestmark = quiet


# Random walks.


@pytest.mark.parametrize("name", ["Stiefel", "Grassmann"])
def test_walk_of_a_thousand_steps_stays(name: str) -> None:
    space = SPACES[name]
    x, random = points(space, 4), Generator(3)
    for _ in range(1000):
        x = space.exp(x, 0.1 * space.noise(x, random))
    assert space.belongs(x, 1e-9).inside.all()


@pytest.mark.parametrize(("name", "rate"), [("Stiefel", 4.0), ("Grassmann", 5.0)])
def test_walk_forgets_at_the_rate_of_brownian_motion(name: str, rate: float) -> None:
    """Centred entries are eigenfunctions: of Stiefel(n, p) with n - 1, of projectors with n."""
    space, rows, steps, tau = SPACES[name], 1000, 20, 0.3
    start = space.origin(torch.float64, "cpu")
    centre = start.diagonal().mean() * torch.eye(5) if name == "Grassmann" else 0 * start
    x, random = start.expand(rows, *space.point), Generator(5)
    for _ in range(steps):
        x = space.exp(x, math.sqrt(tau / steps) * space.noise(x, random))
    direction = (start - centre) / (start - centre).norm()
    seen = ((x - centre) * direction).flatten(1).sum(1)
    truth = math.exp(-rate * tau / 2) * float((start - centre).norm())
    # A step of geodesics errs by O(tau / steps) of the change.
    assert abs(seen.mean().item() - truth) < 4 * seen.std().item() / math.sqrt(rows) + 0.01 * truth


# Uniform laws and volumes.


def test_spaces_of_known_volume_are_compact() -> None:
    for name, space in SPACES.items():
        assert isinstance(space, Compact) == (name in HOMOGENEOUS)


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_uniform_draws_have_no_direction(name: str) -> None:
    space, rows = SPACES[name], 2000
    assert isinstance(space, Compact)
    x = space.uniform(rows, Generator(0), torch.float64, "cpu")
    assert space.belongs(x, 1e-9).inside.all()
    turned = space.isometry(Generator(1), torch.float64, "cpu")(x)
    for moment in (x - turned, x.square() - turned.square(), x**4 - turned**4):
        error = moment.std(0) / math.sqrt(rows) + 1e-12
        assert (moment.mean(0).abs() < 4.5 * error).all()


def test_uniform_draws_have_their_moments() -> None:
    rows = 5000
    for name, moment in (("Stiefel", 3 / 35), ("Grassmann", 8 / 35)):
        space = SPACES[name]
        assert isinstance(space, Compact)
        x = space.uniform(rows, Generator(0), torch.float64, "cpu")[:, 0, 0]
        power = x**4 if name == "Stiefel" else x**2
        assert abs(power.mean().item() - moment) < 4 * power.std().item() / math.sqrt(rows)


def test_volumes() -> None:
    with geomstats():
        known = {
            8 * math.pi**2: [SpecialOrthogonal(3), Stiefel(3, 2)],
            4 * math.pi: [Hypersphere(2), Stiefel(3, 1), Grassmannian(3, 1)],
            2 * math.pi**2: [Hypersphere(3), PreShapeSpace(3, 2)],
        }
    for volume, manifolds in known.items():
        for manifold in manifolds:
            assert volumes.known(manifold) == pytest.approx(math.log(volume), abs=1e-12)
    assert volumes.known(MANIFOLDS["half-space"][0]) is None
    assert volumes.known(MANIFOLDS["shapes"][0]) is None


def test_volume_is_that_of_a_ball_over_its_probability() -> None:
    """In Grassmann(4, 2), of dimension 4, within the injectivity radius."""
    with geomstats():
        space = Geomstats(Grassmannian(4, 2))
    assert isinstance(space, CompactGeomstats)
    rows, radius = 3000, space.injectivity
    centre = space.origin(torch.float64, "cpu").expand(rows, 4, 4)
    # Each principal angle turns the projector twice.
    x = space.uniform(5000, Generator(0), torch.float64, "cpu")
    cosines = torch.linalg.svdvals(centre[0] @ x)[:, :2].clamp(max=1)
    share = ((2 * torch.acos(cosines).square().sum(1)).sqrt() < radius).double()
    v = space.noise(centre, Generator(1))
    length = radius * Generator(2).uniform((rows,), torch.float64, "cpu") ** 0.25
    v = v * (length / space.norm2(v).sqrt())[:, None, None]
    stretch = space.log_jacobian(centre, v).exp()
    ball = math.pi**2 / 2 * radius**4 * stretch
    found = ball.mean().item() / share.mean().item()
    spread = [(part.std() / part.mean()).item() / math.sqrt(len(part)) for part in (ball, share)]
    error = math.hypot(*spread)
    assert abs(found / math.exp(space.log_volume) - 1) < 4 * error


def test_volume_and_draw_can_be_given() -> None:
    def draw(rows: int, random: object) -> Tensor:
        del random
        return torch.eye(3, dtype=torch.float64).expand(rows, 3, 3)

    space = Geomstats(MANIFOLDS["positive definite"][0], log_volume=1.5, draw=draw)
    assert isinstance(space, CompactGeomstats)
    assert space.log_volume == 1.5
    close(space.uniform(2, Generator(0), torch.float32, "cpu"), torch.eye(3).expand(2, 3, 3), 0.0)
