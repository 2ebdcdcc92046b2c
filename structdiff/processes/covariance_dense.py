r"""Covariances of the entries of a row as matrices, by their Cholesky factors.

References:
    Score-based Denoising Diffusion with Non-Isotropic Gaussian Noise Models (Voleti, Pal and
    Oberman, 2022). https://arxiv.org/abs/2210.12254
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.processes.covariance import (
    Constant,
    Factor,
    Source,
    axis_of,
    axis_size,
    given_mask,
    source,
)

__all__ = ["Cholesky"]


class Cholesky(Factor):
    """The Cholesky factor of a covariance of the entries of a row, or of those along one axis.

    Along one axis the covariance of a row is the Kronecker product with the identity.

    Arguments:
        covariance: Symmetric and positive definite, `(K, K)`; or read from the condition, one for
            each sample: noise of one that is not is NaN.
        axis: The axis of a row that has K entries; by default a row has K entries in all.

    Raises:
        ValueError: If a constant is no covariance.

    Example:
        >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        >>> factor = Cholesky(covariance).bind(Batch.of(torch.zeros(1, 2)))
        >>> factor.multiply(torch.tensor([[1.0, 0.0]]))
        tensor([[1.0000, 0.8000]])
    """

    mixes_entries = True
    root: Tensor

    def __init__(self, covariance: Tensor | Source, axis: int | None = None) -> None:
        super().__init__()
        if isinstance(covariance, Tensor):
            covariance = covariance.double()
            check_covariance(covariance)
            self.register_buffer("constant", torch.linalg.cholesky(covariance))
        self.source, self.axis = source(covariance), axis

    def check(self, event: Sequence[int]) -> None:
        """Refuse a constant of another size.

        Raises:
            ValueError: If the row, or its axis, has not as many entries as the covariance.
        """
        if isinstance(self.source, Constant):
            count = axis_size(event, self.axis)
            if self.source.value.shape[-1] != count:
                where = "a row" if self.axis is None else f"axis {self.axis} of a row"
                size = self.source.value.shape[-1]
                msg = f"covariance has {size} entries, but {where} {tuple(event)} has {count}"
                raise ValueError(msg)

    def bind(self, batch: Batch) -> Self:
        """Factor what was not factored yet: covariances of the condition, or of free entries."""
        (x,), mask = batch.leaves.values(), given_mask(batch)
        by_entry = mask is not None and mask.ndim > 1
        if isinstance(self.source, Constant) and not by_entry:
            return self.bound(root=self.constant.to(x))
        covariance = self.source.read(batch)
        if covariance.shape[0] > 1 and self.axis is not None:
            others = x[:1].numel() // max(1, x.shape[1:][self.axis])
            covariance = covariance.repeat_interleave(others, 0)
        if by_entry:
            free = self._fold((~mask).to(x.dtype))  # type: ignore[operator]
            block = free[:, :, None] * free[:, None, :]
            covariance = covariance * block + torch.diag_embed(1 - free)
        root, failed = torch.linalg.cholesky_ex(covariance)
        # No look at the device: what is no covariance becomes NaN, which samplers report.
        return self.bound(root=torch.where(failed[..., None, None] > 0, torch.nan, root))

    def _fold(self, x: Tensor) -> Tensor:
        """x as vectors, `(n, K)`."""
        if self.axis is None:
            return x.flatten(1) if x.ndim > 1 else x[:, None]
        along = x.movedim(axis_of(x, self.axis), -1)
        return along.reshape(-1, along.shape[-1])

    def _unfold(self, vectors: Tensor, x: Tensor) -> Tensor:
        """Vectors in the shape of x."""
        if self.axis is None:
            return vectors.reshape(x.shape)
        place = axis_of(x, self.axis)
        return vectors.reshape(x.movedim(place, -1).shape).movedim(-1, place)

    def _times(self, matrix: Tensor, x: Tensor) -> Tensor:
        vectors = self._fold(x)
        if matrix.ndim == 2:
            return self._unfold(vectors @ matrix.mT, x)
        return self._unfold((matrix @ vectors[..., None])[..., 0], x)

    def _divided(self, matrix: Tensor, x: Tensor, *, upper: bool) -> Tensor:
        vectors = self._fold(x)
        if matrix.ndim == 2:
            solved = torch.linalg.solve_triangular(matrix, vectors.mT, upper=upper).mT
        else:
            column = vectors[..., None]
            solved = torch.linalg.solve_triangular(matrix, column, upper=upper)[..., 0]
        return self._unfold(solved, x)

    def multiply(self, u: Tensor) -> Tensor:
        """L u."""
        return self._times(self.root, u)

    def solve(self, x: Tensor) -> Tensor:
        """L^{-1} x."""
        return self._divided(self.root, x, upper=False)

    def multiply_transpose(self, x: Tensor) -> Tensor:
        """L^T x."""
        return self._times(self.root.mT, x)

    def solve_transpose(self, u: Tensor) -> Tensor:
        """L^{-T} u."""
        return self._divided(self.root.mT, u, upper=True)

    def log_det(self, x: Tensor) -> Tensor:
        """Log of the diagonal of L."""
        return self._unfold(self.root.diagonal(dim1=-2, dim2=-1).log().expand_as(self._fold(x)), x)


def check_covariance(matrix: Tensor) -> None:
    """Refuse what is no covariance.

    Raises:
        ValueError: If the matrix is not square, symmetric and positive definite.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        msg = f"covariance must be (K, K), got {tuple(matrix.shape)}"
        raise ValueError(msg)
    if not torch.allclose(matrix, matrix.mT, rtol=1e-6, atol=1e-12):
        gap = float((matrix - matrix.mT).abs().max())
        msg = f"covariance must be symmetric, but differs from its transpose by {gap:.3g}"
        raise ValueError(msg)
    least = float(torch.linalg.eigvalsh(matrix)[0])
    if not least > 0:
        msg = f"covariance must be positive definite, but has the eigenvalue {least:.3g}"
        raise ValueError(msg)
