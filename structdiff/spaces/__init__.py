"""Geometry: linear subspaces, manifolds, and laws on them."""

from structdiff.spaces.base import Belonging, Compact, Framed, HeatKernel, Manifold
from structdiff.spaces.euclidean import Euclidean
from structdiff.spaces.laws import HeatLaw, Law, UniformLaw, WrappedNormal
from structdiff.spaces.so3 import SO3
from structdiff.spaces.subspace import Subspace, Whole, ZeroCentre
from structdiff.spaces.torus import Torus

__all__ = [
    "SO3",
    "Belonging",
    "Compact",
    "Euclidean",
    "Framed",
    "HeatKernel",
    "HeatLaw",
    "Law",
    "Manifold",
    "Subspace",
    "Torus",
    "UniformLaw",
    "Whole",
    "WrappedNormal",
    "ZeroCentre",
]
