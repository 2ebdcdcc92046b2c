"""The adapter against geomstats itself, closed forms, and the laws of Brownian motion."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces import volumes
from structdiff.spaces.adapter import CompactGeomstats, Geomstats
from structdiff.spaces.base import Compact
from tests.spaces.oracle import geomstats

with geomstats():
    from geomstats.geometry.full_rank_correlation_matrices import FullRankCorrelationMatrices
    from geomstats.geometry.grassmannian import Grassmannian
    from geomstats.geometry.hyperboloid import Hyperboloid
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.poincare_half_space import PoincareHalfSpace
    from geomstats.geometry.pre_shape import PreShapeSpace
    from geomstats.geometry.product_manifold import ProductManifold
    from geomstats.geometry.riemannian_metric import RiemannianMetric
    from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
    from geomstats.geometry.special_orthogonal import SpecialOrthogonal
    from geomstats.geometry.stiefel import Stiefel


def shapes() -> object:
    """Five points of the plane up to their place, size and attitude."""
    space = PreShapeSpace(5, 2)
    space.equip_with_group_action("rotations")
    space.equip_with_quotient()
    return space.quotient


def optimal_transport() -> object:
    space = SPDMatrices(2, equip=False)
    space.equip_with_metric(SPDBuresWassersteinMetric)
    return space


with geomstats():
    MANIFOLDS = {
        "Stiefel": (Stiefel(5, 2), 7),
        "Grassmann": (Grassmannian(5, 2), 6),
        "rotations": (SpecialOrthogonal(4), 6),
        "sphere": (Hypersphere(3), 3),
        "half-space": (PoincareHalfSpace(3), 3),
        "hyperboloid": (Hyperboloid(2), 2),
        "positive definite": (SPDMatrices(3), 6),
        "optimal transport": (optimal_transport(), 3),
        "correlations": (FullRankCorrelationMatrices(3), 3),
        "pre-shapes": (PreShapeSpace(4, 3), 8),
        "shapes": (shapes(), 6),
        "product": (ProductManifold([Hypersphere(2), Hyperboloid(2)]), 4),
    }
SPACES = {name: Geomstats(manifold) for name, (manifold, _) in MANIFOLDS.items()}
HOMOGENEOUS = ["Stiefel", "Grassmann", "rotations", "sphere", "pre-shapes"]
ROUGH = {"shapes": 1e-9, "correlations": 2e-6, "optimal transport": 1e-6}
"""Where geomstats optimises or integrates."""

# In geomstats' logarithm of matrices, with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
every = pytest.mark.parametrize("name", MANIFOLDS)


def points(space: Geomstats, rows: int, seed: int = 0) -> Tensor:
    """Points near the origin."""
    start = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(start, 0.15 * space.noise(start, Generator(seed)))


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


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


# Geodesics.


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


# Derivatives, dtypes, state.


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
