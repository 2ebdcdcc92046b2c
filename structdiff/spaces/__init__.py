"""Geometry: Euclidean subspaces and manifolds."""

from structdiff.spaces.base import HeatKernel, Manifold
from structdiff.spaces.euclidean import Euclidean, Subspace, ZeroCentre
from structdiff.spaces.so3 import SO3
from structdiff.spaces.torus import Torus

__all__ = ["SO3", "Euclidean", "HeatKernel", "Manifold", "Subspace", "Torus", "ZeroCentre"]
