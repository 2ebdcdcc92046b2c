r"""Volumes of homogeneous spaces, as logarithms in nats.

O(n) has the metric in which the skew matrices with one entry 1 and one -1 are orthonormal, so that
a rotation's distance from the identity in a plane is its angle, and fibres over the unit sphere
S^{n-1} with fibre O(n - 1):

    vol O(n) = prod_{k=1}^{n} vol S^{k-1},    vol S^k = 2 pi^{(k+1)/2} / Gamma((k+1)/2).

Quotients have the quotient metric.

References:
    The Geometry of Algorithms with Orthogonality Constraints (Edelman, Arias and Smith, 1998).
    https://arxiv.org/abs/physics/9806030
    Volumes of Orthogonal Groups and Unitary Groups (Zhang, 2015).
    https://arxiv.org/abs/1509.00537
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["grassmann", "known", "orthogonal", "sphere", "stiefel"]


def sphere(dimension: int) -> float:
    """The unit sphere S^dimension; of dimension 0 it is two points.

    Example:
        >>> math.exp(sphere(2)) / math.pi
        4.0
    """
    half = (dimension + 1) / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def orthogonal(n: int) -> float:
    """The orthogonal group O(n): both its halves.

    Example:
        >>> math.exp(orthogonal(3)) / (16 * math.pi**2)
        1.0
    """
    return sum(sphere(k) for k in range(n))


def stiefel(n: int, p: int) -> float:
    """Frames of p orthonormal vectors in R^n, O(n) / O(n - p)."""
    return orthogonal(n) - orthogonal(n - p)


def grassmann(n: int, p: int) -> float:
    """Subspaces of dimension p of R^n, O(n) / (O(p) O(n - p))."""
    return stiefel(n, p) - orthogonal(p)


def known(manifold: Any) -> float | None:
    """That of a manifold of geomstats with its default metric; None where it is not known here."""
    volume = _KNOWN.get(type(manifold).__name__)
    metric = getattr(manifold, "metric", None)
    if volume is None or type(metric) is not manifold.default_metric():
        return None
    return volume(manifold)


def _projectors(n: int, p: int) -> float:
    """Subspaces as projectors, in whose metric each direction counts twice."""
    return grassmann(n, p) + p * (n - p) / 2 * math.log(2)


_KNOWN: dict[str, Callable[[Any], float]] = {
    "Grassmannian": lambda manifold: _projectors(manifold.n, manifold.p),
    "Hypersphere": lambda manifold: sphere(manifold.dim),
    "PreShapeSpace": lambda manifold: sphere(manifold.dim),
    "Stiefel": lambda manifold: stiefel(manifold.n, manifold.p),
    "_SpecialOrthogonalMatrices": lambda manifold: orthogonal(manifold.n) - math.log(2),
}
