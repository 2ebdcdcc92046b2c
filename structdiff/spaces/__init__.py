"""Geometry: linear subspaces, manifolds, and laws on them."""

from typing import Any

from structdiff.spaces.base import Belonging, Compact, Framed, HeatKernel, Manifold
from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.hyperbolic import Hyperbolic, PoincareBall
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
from structdiff.spaces.se3 import SE3
from structdiff.spaces.simplex import Simplex
from structdiff.spaces.so3 import SO3
from structdiff.spaces.spd import SPD, LogEuclidean
from structdiff.spaces.sphere import Sphere
from structdiff.spaces.subspace import Subspace, Whole, ZeroCentre
from structdiff.spaces.torus import Torus

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


def __getattr__(name: str) -> Any:
    """`Geomstats`, whose library takes long to import and is an extra."""
    if name == "Geomstats":
        from structdiff.spaces.adapter import Geomstats

        return Geomstats
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
