r"""Batches of symmetric matrices with the rows last: products, Cholesky factors, spectra.

A batch of n x n matrices is a tensor `(n, n, rows)`, so that every operation runs over contiguous
vectors of rows: for small n this is several times faster than batched products of `(rows, n, n)`,
it is symmetric to the last bit where the formula is, and autocast leaves it alone. Eigenvectors
are `(n, n, rows)` with the k-th one at index k.

Spectra of matrices up to 3 x 3 come from one-sided Jacobi rotations: the columns of B are rotated
in pairs until they are orthogonal; then B B^T has the eigenvalues |column|^2 and the columns'
directions as eigenvectors. Small eigenvalues of B B^T keep their digits, which they lose in the
product: the relative error of an eigenvalue is of the order of eps cond(B), not eps cond(B)^2.

References:
    Jacobi's method is more accurate than QR (Demmel and Veselic, 1992).
    https://doi.org/10.1137/0613074
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

__all__ = [
    "cholesky",
    "inward",
    "outward",
    "product",
    "rebuild",
    "root_spectrum",
    "solve",
    "spectrum",
    "symmetric",
    "turned",
]

_Decomposition = Callable[[Tensor], tuple[Tensor, Tensor]]

_CLOSED = 3
# A search for the worst triangular matrices, and the worst of spectrum [1, 3], found cosines
# between columns of at most 0.2 after three sweeps and of rounding after four.
_SWEEPS = 4


def inward(x: Tensor) -> Tensor:
    """`(rows, n, n)` with the rows last."""
    return x.permute(1, 2, 0).contiguous()


def outward(a: Tensor) -> Tensor:
    """The inverse of `inward`."""
    return a.permute(2, 0, 1).contiguous()


def symmetric(a: Tensor) -> Tensor:
    """The symmetric part."""
    return (a + a.transpose(0, 1)) / 2


def product(a: Tensor, b: Tensor) -> Tensor:
    """The matrix product a b."""
    total = a[:, 0, None] * b[0]
    for k in range(1, len(b)):
        total = torch.addcmul(total, a[:, k, None], b[k])
    return total


def turned(basis: Tensor, a: Tensor) -> Tensor:
    """basis a basis^T."""
    return product(product(basis, a), basis.transpose(0, 1))


def cholesky(a: Tensor) -> Tensor:
    """The lower triangular L with L L^T = a; NaN where `a` is not positive definite."""
    columns, rest = [], a
    for k in range(len(a)):
        column = rest[:, 0] * rest[0, 0].rsqrt()
        columns.append(torch.cat([column.new_zeros(k, a.shape[-1]), column]))
        tail = column[1:]
        rest = torch.addcmul(rest[1:, 1:], tail[:, None], tail, value=-1)
    return torch.stack(columns, 1)


def solve(lower: Tensor, b: Tensor) -> Tensor:
    """lower^{-1} b, by forward substitution."""
    lines, rest = [], b
    for k in range(len(b)):
        line = rest[0] / lower[k, k]
        lines.append(line)
        rest = torch.addcmul(rest[1:], lower[k + 1 :, k, None], line, value=-1)
    return torch.stack(lines)


def rebuild(values: Tensor, vectors: Tensor) -> Tensor:
    """The matrix with the given eigenvalues `(n, rows)` and eigenvectors."""
    total = values[0] * (vectors[0][:, None] * vectors[0])
    for value, vector in zip(values[1:], vectors[1:], strict=True):
        total = torch.addcmul(total, value, vector[:, None] * vector)
    return total


def spectrum(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, in no order, and eigenvectors of symmetric matrices; not differentiable.

    The error of an eigenvalue is of the order of eps times the norm of its matrix.
    """
    if len(a) > _CLOSED:
        return _lapack(a, torch.linalg.eigh)
    # Twice the norm is added, so that the least eigenvalue stays away from zero.
    size = a.square().sum((0, 1)).sqrt() + torch.finfo(a.dtype).tiny
    unit = torch.eye(len(a), dtype=a.dtype, device=a.device)
    _, vectors = _jacobi(a / size + 2 * unit[..., None])
    return (product(vectors, a) * vectors).sum(1), vectors


def root_spectrum(b: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, in no order, and eigenvectors of b b^T, b triangular; not differentiable."""
    if len(b) > _CLOSED:
        values, vectors = _lapack(b, _left_singular)
    else:
        values, vectors = _jacobi(b)
    return values.square(), vectors


def _jacobi(b: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths and directions of the columns of b once rotations have made them orthogonal."""
    columns = list(b.unbind(1))
    one = b.new_ones(())
    for _ in range(_SWEEPS):
        for i, j in combinations(range(len(columns)), 2):
            p, q = columns[i], columns[j]
            ratio = ((q - p) * (q + p)).sum(0) / (2 * (p * q).sum(0))
            length = torch.addcmul(one, ratio, ratio).sqrt()
            # 0 / 0 are columns that need no turn.
            tangent = (ratio + length.copysign(ratio)).reciprocal().nan_to_num(0.0)
            cosine = torch.addcmul(one, tangent, tangent).rsqrt()
            sine = tangent * cosine
            columns[i] = torch.addcmul(cosine * p, sine, q, value=-1)
            columns[j] = torch.addcmul(cosine * q, sine, p)
    stacked = torch.stack(columns)
    lengths = stacked.square().sum(1).sqrt()
    return lengths, stacked / lengths[:, None]


def _left_singular(b: Tensor) -> tuple[Tensor, Tensor]:
    vectors, values, _ = torch.linalg.svd(b)
    return values, vectors


def _lapack(a: Tensor, decompose: _Decomposition) -> tuple[Tensor, Tensor]:
    """By a batched routine; a matrix that is not finite gives NaN and does not stop the others."""
    finite = a.isfinite().all(0).all(0)
    values, vectors = decompose(outward(torch.where(finite, a, 0.0)))
    nan = torch.where(finite, 0.0, torch.nan).to(a.dtype)
    return values.t() + nan, vectors.permute(2, 1, 0) + nan
