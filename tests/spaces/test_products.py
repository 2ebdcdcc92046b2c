"""Products and powers: sums over factors, capabilities, addresses of noise, SE(3)."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from structdiff.counter import Counter
from structdiff.layout import Layout
from structdiff.random import Generator
from structdiff.spaces.base import Compact, HeatKernel, Manifold
from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.powers import power
from structdiff.spaces.products import product
from structdiff.spaces.se3 import SE3
from structdiff.spaces.simplex import Simplex
from structdiff.spaces.so3 import SO3
from structdiff.spaces.torus import Torus

ROTATION, ANGLES = SO3(), Torus(2)
BOTH = product(ROTATION, ANGLES)
THREE = power(ROTATION, 3)


def rotations(rows: int, seed: int = 0) -> Tensor:
    return ROTATION.uniform(rows, Generator(seed), torch.float64, "cpu")


def angles(rows: int, seed: int = 0) -> Tensor:
    return ANGLES.uniform(rows, Generator(seed), torch.float64, "cpu")


def flat(*parts: Tensor) -> Tensor:
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-13) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_needs_factors_and_copies() -> None:
    with pytest.raises(ValueError, match="there is no factor, must be at least one"):
        product()
    with pytest.raises(ValueError, match="copies is 0, must be at least 1"):
        power(ROTATION, 0)


@pytest.mark.parametrize(
    ("space", "compact", "kernel"),
    [
        (BOTH, True, True),
        (THREE, True, True),
        (product(ROTATION, Simplex(3)), True, False),
        (power(Simplex(3), 2), True, False),
        (product(BOTH, THREE), True, True),
        (product(ROTATION, Euclidean(3)), False, False),
        (power(Hyperbolic(2), 2), False, False),
        (power(product(ROTATION, Hyperbolic(2)), 2), False, False),
    ],
)
def test_capability_is_that_of_the_factors(space: Manifold, compact: bool, kernel: bool) -> None:
    assert isinstance(space, Compact) == compact
    assert isinstance(space, HeatKernel) == kernel


def test_maps_are_those_of_the_factors() -> None:
    a, b, c, d = rotations(20), rotations(20, 1), angles(20), angles(20, 1)
    x, y = flat(a, c), flat(b, d)
    close(BOTH.log(x, y), flat(ROTATION.log(a, b), ANGLES.log(c, d)))
    v = BOTH.noise(x, Generator(2))
    close(BOTH.exp(x, v), flat(ROTATION.exp(a, v[:, :3]), ANGLES.exp(c, v[:, 3:])))
    close(BOTH.transport(x, y, v)[:, :3], ROTATION.transport(a, b, v[:, :3]))
    squares = ROTATION.distance(a, b).square() + ANGLES.distance(c, d).square()
    close(BOTH.distance(x, y).square(), squares)
    close(BOTH.log_jacobian(x, v), ROTATION.log_jacobian(a, v[:, :3]))
    assert BOTH.log_volume == pytest.approx(ROTATION.log_volume + ANGLES.log_volume)
    assert product(ROTATION, Simplex(2)).injectivity == math.pi
    assert power(Hyperbolic(2), 3).injectivity == math.inf
    close(BOTH.origin(torch.float64, "cpu")[:9].reshape(3, 3), torch.eye(3).double())


def test_copies_are_points_of_the_factor() -> None:
    x, y = rotations(12).reshape(4, 3, 3, 3), rotations(12, 1).reshape(4, 3, 3, 3)
    v = THREE.noise(x, Generator(2))
    for copy in range(3):
        p, q, w = x[:, copy], y[:, copy], v[:, copy]
        close(THREE.log(x, y)[:, copy], ROTATION.log(p, q))
        close(THREE.exp(x, v)[:, copy], ROTATION.exp(p, w))
        close(THREE.transport(x, y, v)[:, copy], ROTATION.transport(p, q, w))
    each = [ROTATION.distance(x[:, copy], y[:, copy]).square() for copy in range(3)]
    close(THREE.distance(x, y).square(), torch.stack(each).sum(0))
    each = [ROTATION.log_jacobian(x[:, copy], v[:, copy]) for copy in range(3)]
    close(THREE.log_jacobian(x, v), torch.stack(each).sum(0))
    assert THREE.log_volume == pytest.approx(3 * ROTATION.log_volume)


@pytest.mark.parametrize("shape", [(), (6,)])
def test_kernels_add(shape: tuple[int, ...]) -> None:
    """At one time for all rows, and at a time for each."""
    tau = 0.1 + torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b, c, d = rotations(6), rotations(6, 1), angles(6), angles(6, 1)
    x, y = flat(a, c), flat(b, d)
    apart = ROTATION.log_kernel(a, b, tau) + ANGLES.log_kernel(c, d, tau)
    close(BOTH.log_kernel(x, y, tau), apart)
    close(BOTH.score(x, y, tau), flat(ROTATION.score(a, b, tau), ANGLES.score(c, d, tau)))
    gaps = ROTATION.entropy_gap(tau) + ANGLES.entropy_gap(tau)
    close(BOTH.entropy_gap(tau), gaps)
    x, y = rotations(18).reshape(6, 3, 3, 3), rotations(18, 1).reshape(6, 3, 3, 3)
    each = [ROTATION.log_kernel(x[:, k], y[:, k], tau) for k in range(3)]
    close(THREE.log_kernel(x, y, tau), torch.stack(each).sum(0))
    each = [ROTATION.score(x[:, k], y[:, k], tau) for k in range(3)]
    close(THREE.score(x, y, tau), torch.stack(each, 1))
    close(THREE.entropy_gap(tau), 3 * ROTATION.entropy_gap(tau))


@pytest.mark.parametrize("space", [BOTH, THREE, power(BOTH, 2)], ids=["product", "power", "both"])
def test_draws_follow_the_kernel(space: HeatKernel) -> None:
    """The mean of log k - log(uniform density) over draws is the entropy gap."""
    rows, tau = 20_000, torch.tensor(0.5, dtype=torch.float64)
    x = space.uniform(rows, Generator(0), torch.float64, "cpu")
    y = space.diffuse(x, tau, Generator(1))
    value = space.log_kernel(x, y, tau) + space.log_volume
    error = value.std().item() / math.sqrt(rows)
    assert abs(value.mean().item() - space.entropy_gap(tau).item()) < 4 * error


def test_noise_of_a_row_follows_from_its_address() -> None:
    """A source whose draws belong to rows knows the rows, not the copies."""
    whole, layout, ids = torch.float64, Layout.ragged([1, 2]), torch.tensor([7, 8])
    x, tau = rotations(9).reshape(3, 3, 3, 3), torch.tensor([0.1, 0.2, 0.3], dtype=whole)
    for space, start in ((THREE, x), (BOTH, flat(x[:, 0], angles(3)))):
        both = space.diffuse(start, tau, Counter(0).scoped(layout=layout, ids=ids))
        source = Counter(0).scoped(layout=Layout.ragged([2]), ids=ids[1:])
        close(space.diffuse(start[1:], tau[1:], source), both[1:], 0.0)
        both = space.uniform(3, Counter(0).scoped(layout=layout, ids=ids), whole, "cpu")
        source = Counter(0).scoped(layout=Layout.ragged([2]), ids=ids[1:])
        close(space.uniform(2, source, whole, "cpu"), both[1:], 0.0)


def test_belongs_names_the_factor_and_the_copy() -> None:
    x = flat(rotations(4), angles(4))
    x[2, 10] = 4.0
    reason = BOTH.belongs(x).reason
    assert reason is not None
    assert reason.startswith("factor 1 (Torus): row 2: an angle is beyond [-pi, pi] by 0.858")
    copies = rotations(6).reshape(2, 3, 3, 3).clone()
    copies[1, 2] *= 2
    found = THREE.belongs(copies)
    assert found.inside.tolist() == [True, False]
    assert found.reason is not None
    assert found.reason.startswith("copy 2 of row 1, where copies are counted as rows: row 5: x^T")


def test_many_copies_cost_no_loop() -> None:
    """The same operations are called for 2 and for 500 copies."""

    def calls(copies: int) -> int:
        space = power(ROTATION, copies)
        x = space.origin(torch.float32, "cpu")[None]
        v = torch.zeros(1, *space.tangent)
        with torch.autograd.profiler.profile() as record:
            space.log(x, space.exp(x, v))
        return len(record.function_events)

    assert calls(500) == calls(2)


def test_rigid_motions() -> None:
    space, rotation = SE3(), rotations(5)
    translation = torch.randn(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = space.assemble(rotation, translation)
    assert x.shape == (5, 12)
    close(space.rotation(x), rotation, 0.0)
    close(space.translation(x), translation, 0.0)
    v = space.noise(x, Generator(1))
    y = space.exp(x, v)
    close(space.rotation(y), ROTATION.exp(rotation, v[:, :3]))
    close(space.translation(y), translation + v[:, 3:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import roma
    turn = roma.rotmat_geodesic_distance(space.rotation(y), rotation)
    move = (space.translation(y) - translation).norm(dim=1)
    close(space.distance(x, y), torch.hypot(turn, move), 1e-9)
