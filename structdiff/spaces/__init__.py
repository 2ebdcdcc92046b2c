"""Geometry: linear subspaces, manifolds, and laws on them."""

import importlib
from typing import TYPE_CHECKING, Any

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
from structdiff.spaces.subspace import Subspace, Whole, ZeroCentre
from structdiff.spaces.torus import Torus

if TYPE_CHECKING:
    from structdiff.spaces.adapter import Geomstats
    from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
    from structdiff.spaces.se3 import SE3
    from structdiff.spaces.simplex import Simplex
    from structdiff.spaces.spd import SPD, LogEuclidean

__all__ = [
    "SE3",
    "SO3",
    "SPD",
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
    "Simplex",
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


_LATER = {
    "Geomstats": "adapter",
    "Hyperbolic": "hyperbolic",
    "LogEuclidean": "spd",
    "PoincareBall": "hyperbolic",
    "SE3": "se3",
    "SPD": "spd",
    "Simplex": "simplex",
}
"""What is loaded when it is asked for, so that the core stays light to import."""


def __getattr__(name: str) -> Any:
    """A space that is loaded now."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"structdiff.spaces.{_LATER[name]}"), name)
