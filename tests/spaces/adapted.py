"""Manifolds of geomstats of many kinds, and what the adapter makes of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff.random import Generator
from structdiff.spaces.adapter import Geomstats
from tests.spaces.oracle import geomstats

with geomstats():
    from geomstats.geometry.full_rank_correlation_matrices import FullRankCorrelationMatrices
    from geomstats.geometry.grassmannian import Grassmannian
    from geomstats.geometry.hyperboloid import Hyperboloid
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.poincare_half_space import PoincareHalfSpace
    from geomstats.geometry.pre_shape import PreShapeSpace
    from geomstats.geometry.product_manifold import ProductManifold
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
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
every = pytest.mark.parametrize("name", MANIFOLDS)


def points(space: Geomstats, rows: int, seed: int = 0) -> Tensor:
    """Points near the origin."""
    start = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(start, 0.15 * space.noise(start, Generator(seed)))


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
