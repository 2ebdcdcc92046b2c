r"""Orthonormal tangent coordinates of any metric that geomstats gives to an embedded space.

Let P be the projection of an ambient vector to the tangent space at x, and G the metric. Then

    B = P^T G P + (I - P)^T (I - P) = L L^T                                                    (1)

is positive definite, equals the metric on tangent vectors, and keeps them orthogonal to what P
drops. The coordinates of a tangent vector u are w = L^T u, of the shape of a point: their inner
product is the sum of products, and L, a Cholesky factor, is as smooth in x as P and G are. Where
the ambient space induces the metric, B = I and w = u. In coordinates the projection to the tangent
space is L^T P L^{-T}, which is symmetric since P is self-adjoint for B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from structdiff.random import Generator

__all__ = ["Orthonormal"]

_EXACT = 1e-9


class Orthonormal:
    """Coordinates of the tangent vectors of a manifold of geomstats; all in float64 on the CPU.

    Of a quotient whose points are those of the total space (shapes), the tangent vectors are the
    horizontal ones.

    Arguments:
        manifold: With a metric.
        x: Some points, `(rows, *point)`, at which the metric is compared with the ambient one.

    Raises:
        ValueError: If the manifold's `to_tangent` is no projection, or its metric is not positive.
    """

    def __init__(self, manifold: Any, x: Tensor) -> None:
        self.manifold, self.metric = manifold, manifold.metric
        self.point = tuple(x.shape[1:])
        self.size = math.prod(self.point)
        total = getattr(self.metric, "_total_space", None)
        self.bundle = (
            getattr(total, "fiber_bundle", None) if type(total) is type(manifold) else None
        )
        kept = self.projections(x)
        if float((kept @ kept - kept).abs().max()) > 1e-6:
            msg = (
                f"to_tangent of {type(manifold).__name__} must be a linear projection, and is not"
            )
            raise ValueError(msg)
        self.dimension = round(float(kept[0].trace()))
        gram = self.gram(x)
        if not bool((torch.linalg.eigvalsh(gram) > 0).all()):
            msg = (
                f"metric {type(self.metric).__name__} must be positive definite, and is not near "
                f"the origin: give another metric or another origin"
            )
            raise ValueError(msg)
        gap = gram - torch.eye(self.size, dtype=torch.float64)
        self.induced = float(gap.abs().max()) < _EXACT

    def tangent(self, x: Tensor, u: Tensor) -> Tensor:
        """P u."""
        inside: Tensor = self.manifold.to_tangent(u, x)
        if self.bundle is None:
            return inside
        horizontal: Tensor = self.bundle.horizontal_projection(inside, x)
        return horizontal

    def projections(self, x: Tensor) -> Tensor:
        """P e_i for each ambient unit vector e_i, `(rows, i, size)`."""
        units = torch.eye(self.size, dtype=x.dtype).reshape(self.size, *self.point)
        many = units.repeat(len(x), *(1,) * len(self.point))
        kept = self.tangent(x.repeat_interleave(self.size, 0), many)
        return kept.reshape(len(x), self.size, self.size)

    def gram(self, x: Tensor) -> Tensor:
        """B of (1), `(rows, size, size)`; G by differentiating geomstats' inner product."""
        graph = torch.is_grad_enabled()
        kept = self.projections(x)
        many = (len(x) * self.size, *self.point)
        with torch.enable_grad():
            probe = kept.detach().reshape(many).requires_grad_()
            base = x.repeat_interleave(self.size, 0)
            product = self.metric.inner_product(probe, kept.reshape(many), base).sum()
            (lowered,) = torch.autograd.grad(product, probe, create_graph=graph)
        dropped = torch.eye(self.size, dtype=x.dtype) - kept
        gram = kept @ lowered.reshape(kept.shape).mT + dropped @ dropped.mT
        return (gram + gram.mT) / 2

    def root(self, x: Tensor) -> Tensor:
        """L of (1)."""
        factor: Tensor = torch.linalg.cholesky(self.gram(x))
        return factor

    def vector(self, x: Tensor, w: Tensor) -> Tensor:
        """The tangent vector L^{-T} w, as geomstats writes it."""
        if self.induced:
            return w
        return _raised(self.root(x), w)

    def coordinates(self, x: Tensor, u: Tensor) -> Tensor:
        """The coordinates L^T u of a tangent vector as geomstats writes it."""
        if self.induced:
            return u
        return (self.root(x).mT @ u.flatten(1)[..., None]).reshape(u.shape)

    def lowered(self, x: Tensor, w: Tensor) -> Tensor:
        """L w of `(rows, many, *point)`: its product with u is that of w with L^T u."""
        if self.induced:
            return w
        return (w.flatten(2) @ self.root(x).mT).reshape(w.shape)

    def project(self, x: Tensor, w: Tensor) -> Tensor:
        """Orthogonal projection of coordinates to those of tangent vectors."""
        if self.induced:
            return self.tangent(x, w)
        root = self.root(x)
        inside = self.tangent(x, _raised(root, w))
        return (root.mT @ inside.flatten(1)[..., None]).reshape(w.shape)

    def frame(self, x: Tensor) -> Tensor:
        """Fixed vectors, projected and made orthonormal, `(rows, dimension, *point)`."""
        count = self.dimension
        fixed = torch.eye(self.size, dtype=x.dtype)
        if count < self.size:
            fixed = Generator(0).normal((count, self.size), x.dtype, "cpu")
        many = fixed.reshape(count, *self.point).repeat(len(x), *(1,) * len(self.point))
        kept = self.project(x.repeat_interleave(count, 0), many).reshape(len(x), count, self.size)
        basis: Tensor = torch.linalg.qr(kept.mT)[0].mT
        return basis.reshape(len(x), count, *self.point)


def _raised(root: Tensor, w: Tensor) -> Tensor:
    """L^{-T} w."""
    flat: Tensor = torch.linalg.solve_triangular(root.mT, w.flatten(1)[..., None], upper=True)
    return flat.reshape(w.shape)
