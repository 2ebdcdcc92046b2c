"""Geometry: linear subspaces, manifolds, and laws on them."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.spaces.base import Belonging, Compact, Framed, HeatKernel, Manifold
from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.laws import (
    HeatLaw,
    Law,
    PowerLaw,
    ProductLaw,
    UniformLaw,
    WrappedNormal,
    natural_law,
)
from structdiff.spaces.powers import power
from structdiff.spaces.products import product
from structdiff.spaces.so3 import SO3
from structdiff.spaces.sphere import Sphere
from structdiff.spaces.subspace import Span, Subspace, Whole, ZeroCentre
from structdiff.spaces.torus import Torus

if TYPE_CHECKING:
    from structdiff.spaces.adapter import Geomstats
    from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
    from structdiff.spaces.se3 import SE3
    from structdiff.spaces.simplex import Simplex
    from structdiff.spaces.spd import SPD, LogEuclidean

__all__ = [
    "Belonging",
    "Compact",
    "Euclidean",
    "Framed",
    "Geomstats",
    "HeatKernel",
    "HeatLaw",
    "Hyperbolic",
    "Law",
    "LogEuclidean",
    "Manifold",
    "PoincareBall",
    "PowerLaw",
    "ProductLaw",
    "SE3",
    "SO3",
    "SPD",
    "Simplex",
    "Span",
    "Sphere",
    "Subspace",
    "Torus",
    "UniformLaw",
    "Whole",
    "WrappedNormal",
    "ZeroCentre",
    "natural_law",
    "power",
    "product",
]

__getattr__ = later(
    __name__,
    {
        "Geomstats": "adapter",
        "Hyperbolic": "hyperbolic",
        "LogEuclidean": "spd",
        "PoincareBall": "hyperbolic",
        "SE3": "se3",
        "SPD": "spd",
        "Simplex": "simplex",
    },
)
