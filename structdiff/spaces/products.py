r"""Products of manifolds.

A point of `product(M_1, ..., M_m)` is the points of the factors, flattened and one after another;
a tangent vector likewise. The metric is the sum of the factors' metrics, so every map acts on each
factor alone; squared distances, the logarithms of volumes, kernels and Jacobians, and relative
entropies add. What is made is as capable as its factors: `Compact` if all are, `HeatKernel` if all
are. Many copies of one factor are faster as a `power`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from structdiff.spaces.base import (
    Belonging,
    Compact,
    HeatKernel,
    Isometry,
    Manifold,
    check_points,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from structdiff.random import Randomness

__all__ = ["CompactProduct", "HeatProduct", "ProductSpace", "product"]


def product(*spaces: Manifold) -> ProductSpace:
    """The product of manifolds: points `(rows, sum of sizes)`.

    Arguments:
        spaces: The factors, at least one.

    Raises:
        ValueError: If there is no factor.

    Example:
        >>> import torch
        >>> from structdiff.spaces import SO3, Torus
        >>> space = product(SO3(), Torus(2))
        >>> space.point, space.tangent, space.dimension
        ((11,), (5,), 5)
        >>> x = space.origin(torch.float32, "cpu")[None]
        >>> y = space.exp(x, torch.tensor([[0.0, 0.0, 3.0, 0.0, 4.0]]))
        >>> space.log(x, y)
        tensor([[ 0.0000,  0.0000,  3.0000,  0.0000, -2.2832]])
    """
    kernels = [space for space in spaces if isinstance(space, HeatKernel)]
    if len(kernels) == len(spaces):
        return HeatProduct(*kernels)
    compact = [space for space in spaces if isinstance(space, Compact)]
    return CompactProduct(*compact) if len(compact) == len(spaces) else ProductSpace(*spaces)


class ProductSpace(Manifold):
    """Points of several manifolds side by side; made by `product`.

    Arguments:
        spaces: The factors, at least one.

    Raises:
        ValueError: If there is no factor.
    """

    def __init__(self, *spaces: Manifold) -> None:
        if not spaces:
            message = "there is no factor, must be at least one: product(SO3(), Torus(2))"
            raise ValueError(message)
        self.spaces: tuple[Manifold, ...] = spaces
        self.sizes = [math.prod(space.point) for space in spaces]
        self.lengths = [math.prod(space.tangent) for space in spaces]
        self.point, self.tangent = (sum(self.sizes),), (sum(self.lengths),)
        self.dimension = sum(space.dimension for space in spaces)
        self.injectivity = min(space.injectivity for space in spaces)

    def parts(self, x: Tensor) -> list[Tensor]:
        """The factors' points, `(rows, *point)` each."""
        pieces = torch.split(x, self.sizes, 1)
        return [p.reshape(len(x), *s.point) for p, s in zip(pieces, self.spaces, strict=True)]

    def vectors(self, v: Tensor) -> list[Tensor]:
        """The factors' tangent vectors, `(rows, *tangent)` each."""
        pieces = torch.split(v, self.lengths, 1)
        return [p.reshape(len(v), *s.tangent) for p, s in zip(pieces, self.spaces, strict=True)]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The point of the factors' points, or the tangent vector of their vectors."""
        flat = [part.reshape(len(part), math.prod(part.shape[1:])) for part in parts]
        return torch.cat(flat, 1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """In each factor."""
        pieces = zip(self.spaces, self.parts(x), self.vectors(v), strict=True)
        return self.join([space.exp(p, w) for space, p, w in pieces])

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """In each factor."""
        pieces = zip(self.spaces, self.parts(x), self.parts(y), strict=True)
        return self.join([space.log(p, q) for space, p, q in pieces])

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """In each factor."""
        pieces = zip(self.spaces, self.parts(x), self.parts(y), self.vectors(v), strict=True)
        return self.join([space.transport(p, q, w) for space, p, q, w in pieces])

    def project(self, x: Tensor) -> Tensor:
        """In each factor."""
        pieces = zip(self.spaces, self.parts(x), strict=True)
        return self.join([space.project(p) for space, p in pieces])

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """In each factor."""
        pieces = zip(self.spaces, self.parts(x), self.vectors(v), strict=True)
        return self.join([space.to_tangent(p, w) for space, p, w in pieces])

    def frame(self, x: Tensor) -> Tensor:
        """The frames of the factors, in blocks."""
        blocks, before = [], 0
        for space, p, length in zip(self.spaces, self.parts(x), self.lengths, strict=True):
            after = sum(self.lengths) - before - length
            block = space.frame(p).reshape(len(x), space.dimension, length)
            blocks.append(pad(block, (before, after)))
            before += length
        return torch.cat(blocks, 1)

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """The sum over factors."""
        pieces = zip(self.spaces, self.parts(x), self.vectors(v), strict=True)
        return _total([space.log_jacobian(p, w) for space, p, w in pieces])

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Of each factor."""
        return torch.cat([space.origin(dtype, device).flatten() for space in self.spaces])

    def features(self, x: Tensor) -> Tensor:
        """Those of all factors."""
        pieces = zip(self.spaces, self.parts(x), strict=True)
        return torch.cat([space.features(p) for space, p in pieces], 1)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Whether all factors' points are; the reason names the factor."""
        check_points(self, x)
        pieces = zip(self.spaces, self.parts(x), strict=True)
        found = [space.belongs(p, tolerance) for space, p in pieces]
        names = [type(space).__name__ for space in self.spaces]
        reasons = [
            f"factor {i} ({name}): {each.reason}"
            for i, (name, each) in enumerate(zip(names, found, strict=True))
            if each.reason is not None
        ]
        inside = torch.stack([each.inside for each in found]).all(0)
        return Belonging(inside, reasons[0] if reasons else None)

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """One of each factor."""
        moves = [space.isometry(random, dtype, device) for space in self.spaces]

        def move(x: Tensor) -> Tensor:
            return self.join([each(p) for each, p in zip(moves, self.parts(x), strict=True)])

        return move


class CompactProduct(ProductSpace, Compact):
    """A product of compact manifolds; made by `product`.

    Arguments:
        spaces: The factors, at least one.

    Raises:
        ValueError: If there is no factor.
    """

    def __init__(self, *spaces: Compact) -> None:
        super().__init__(*spaces)
        self.compact: tuple[Compact, ...] = spaces

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent uniform points of the factors."""
        return self.join([space.uniform(rows, random, dtype, device) for space in self.compact])

    @property
    def log_volume(self) -> float:
        """The sum over factors."""
        return sum(space.log_volume for space in self.compact)


class HeatProduct(CompactProduct, HeatKernel):
    """A product of manifolds with heat kernels; made by `product`.

    Arguments:
        spaces: The factors, at least one.

    Raises:
        ValueError: If there is no factor.
    """

    def __init__(self, *spaces: HeatKernel) -> None:
        super().__init__(*spaces)
        self.kernels: tuple[HeatKernel, ...] = spaces

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """Independent draws of the factors."""
        pieces = zip(self.kernels, self.parts(x), strict=True)
        return self.join([space.diffuse(p, tau, random) for space, p in pieces])

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """The sum over factors."""
        pieces = zip(self.kernels, self.parts(x), self.parts(y), strict=True)
        return _total([space.log_kernel(p, q, tau) for space, p, q in pieces])

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Those of the factors."""
        pieces = zip(self.kernels, self.parts(x), self.parts(y), strict=True)
        return self.join([space.score(p, q, tau) for space, p, q in pieces])

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """The sum over factors."""
        return _total([space.entropy_gap(tau) for space in self.kernels])


def _total(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum(0)
