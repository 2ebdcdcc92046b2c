"""2 x 2 matrices of times, and what they do to pairs.

A matrix of times is `(*t, 2, 2)`; its `Entries` are shaped to broadcast against the two parts of
pairs `(rows, 2, *event)`, so that a product is four products of whole tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from structdiff.processes.leaf import expand

__all__ = [
    "Entries",
    "Matrix",
    "apply",
    "cholesky",
    "combination",
    "entries",
    "inverse",
    "rotation",
    "square_root",
    "whiten",
]

_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))

Matrix: TypeAlias = Sequence[Sequence[float]]
"""A matrix of plain numbers: no tensor has to be moved to where the times are."""

Entries: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""A matrix by rows."""


def entries(matrix: Tensor, u: Tensor) -> Entries:
    """A matrix in the dtype of pairs, against their parts."""
    a, b, c, d = matrix.to(u.device, u.dtype).flatten(-2).unbind(-1)
    x = u[:, 0]
    return expand(a, x), expand(b, x), expand(c, x), expand(d, x)


def combination(factors: Sequence[Tensor], matrices: Sequence[Matrix]) -> Tensor:
    """The sum of times' factors times matrices, `(*t, 2, 2)`."""
    a, b, c, d = (_weighted(factors, [m[i][j] for m in matrices]) for i, j in _PLACES)
    return _matrix(a, b, c, d)


def _weighted(factors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = factors[0] * weights[0]
    for factor, weight in zip(factors[1:], weights[1:], strict=True):
        if weight:
            total.add_(factor, alpha=weight)
    return total


def cholesky(covariance: Tensor) -> Tensor:
    """The lower factor, `(..., 2, 2)`; zeros where there is no variance."""
    x, xv, v = covariance[..., 0, 0], covariance[..., 1, 0], covariance[..., 1, 1]
    first = x.sqrt()
    second = torch.where(x > 0, xv / torch.where(x > 0, first, 1.0), 0.0)
    third = (v - second.square()).clamp(min=0).sqrt()
    return _matrix(first, torch.zeros_like(x), second, third)


def inverse(matrix: Tensor) -> Tensor:
    """The inverse, `(..., 2, 2)`; zeros where the determinant is zero."""
    a, b, c, d = matrix.flatten(-2).unbind(-1)
    det = a * d - b * c
    scale = torch.where(det == 0, 0.0, 1 / torch.where(det == 0, 1.0, det))
    return _matrix(d, -b, -c, a) * scale[..., None, None]


def rotation(angle: Tensor) -> Tensor:
    """rot(angle), `(..., 2, 2)`."""
    c, s = torch.cos(angle), torch.sin(angle)
    return _matrix(c, -s, s, c)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([a, b, c, d], -1).reshape(*a.shape, 2, 2)


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric root of a symmetric matrix that is not negative: Cayley and Hamilton's."""
    a, b, c, d = matrix.flatten(-2).unbind(-1)
    root = (a * d - b * c).clamp(min=0).sqrt()
    scale = (a + d + 2 * root).clamp(min=1e-300).rsqrt()
    unit = torch.eye(2, dtype=matrix.dtype, device=matrix.device)
    return (matrix + root[..., None, None] * unit) * scale[..., None, None]


def apply(m: Sequence[Tensor | float], u: Tensor) -> Tensor:
    """A matrix times pairs."""
    x, v = u.unbind(1)
    return torch.stack([m[0] * x + m[1] * v, m[2] * x + m[3] * v], 1)


def whiten(factor: Entries, u: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of a lower triangular matrix times pairs, in two parts; 1 stands for 0 in it."""
    x, v = u.unbind(1)
    first = x / torch.where(factor[0] == 0, 1.0, factor[0])
    return first, (v - factor[2] * first) / torch.where(factor[3] == 0, 1.0, factor[3])
