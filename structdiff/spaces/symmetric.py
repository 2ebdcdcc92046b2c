r"""Functions of symmetric matrices, with derivatives that do not mind repeated eigenvalues.

With A = V diag(l) V^T, f(A) = V diag(f(l)) V^T, where l and V jump about when eigenvalues meet but
f(A) is smooth. Its derivatives in directions E and H are the formulas of Daleckii and Krein: with
E' = V^T E V and H' = V^T H V,

    D f(A)[E]      = V (f[l_i, l_j] E'_ij) V^T,
    D^2 f(A)[E, H] = V (sum_k f[l_i, l_k, l_j] (E'_ik H'_kj + H'_ik E'_kj)) V^T,

whose divided differences divide by no gap. Both are their own adjoints, so that they are what
backward passes compute, once and twice; a third derivative is refused.

Functions of positive definite matrices take a root: a lower triangular B with A = B B^T. With eps
the rounding of the dtype, errors relative to the largest entry are of the order of eps times

    exp(A): the norm of A;    log(B B^T), roots: cond(B) = cond(A)^{1/2},

and the Cholesky factor of a matrix that is given by its entries adds cond(A), as the rounding of
the entries does already. Beyond cond(A) of about 1 / (n eps) there is no factor, and the result is
NaN: 1e6 in float32 and 1e15 in float64.

References:
    Integration and differentiation of functions of Hermitian operators and applications to the
    theory of perturbations (Daleckii and Krein, 1965). https://doi.org/10.1090/trans2/047/01
    Functions of Matrices: Theory and Computation (Higham, 2008), theorem 3.11.
    https://doi.org/10.1137/1.9780898717778
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from structdiff.spaces.decompositions import (
    cholesky,
    inward,
    outward,
    product,
    rebuild,
    root_spectrum,
    spectrum,
    symmetric,
    turned,
)
from structdiff.spaces.divided import EXP, INVERSE_ROOT, LOG, ROOT, Scalar

__all__ = [
    "exp_of",
    "exponential",
    "inverse_root_of",
    "inverse_square_root",
    "log_of",
    "logarithm",
    "square_root",
]


def exponential(x: Tensor) -> Tensor:
    """exp of symmetric matrices `(rows, n, n)`.

    Example:
        >>> exponential(torch.zeros(1, 2, 2))
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    return outward(exp_of(symmetric(inward(x))))


def logarithm(x: Tensor) -> Tensor:
    """The symmetric logarithm of positive definite matrices `(rows, n, n)`.

    Example:
        >>> logarithm(torch.eye(2)[None])
        tensor([[[0., 0.],
                 [0., 0.]]])
    """
    return outward(log_of(cholesky(symmetric(inward(x)))))


def square_root(x: Tensor) -> Tensor:
    """The positive definite square root of positive definite matrices `(rows, n, n)`.

    Example:
        >>> square_root(4 * torch.eye(2)[None])
        tensor([[[2., 0.],
                 [0., 2.]]])
    """
    return outward(_of_root(cholesky(symmetric(inward(x))), ROOT))


def inverse_square_root(x: Tensor) -> Tensor:
    """The inverse of the square root of positive definite matrices `(rows, n, n)`.

    Example:
        >>> inverse_square_root(4 * torch.eye(2)[None])
        tensor([[[0.5000, 0.0000],
                 [0.0000, 0.5000]]])
    """
    return outward(inverse_root_of(cholesky(symmetric(inward(x)))))


# Rows last below: `(n, n, rows)`.


def exp_of(a: Tensor) -> Tensor:
    """exp(a) for symmetric a."""
    return _apply(a, *spectrum(a.detach()), EXP)


def log_of(b: Tensor) -> Tensor:
    """log(b b^T) for invertible lower triangular b."""
    return _of_root(b, LOG)


def inverse_root_of(b: Tensor) -> Tensor:
    """(b b^T)^{-1/2} for invertible lower triangular b."""
    return _of_root(b, INVERSE_ROOT)


def _of_root(b: Tensor, scalar: Scalar) -> Tensor:
    return _apply(product(b, b.transpose(0, 1)), *root_spectrum(b.detach()), scalar)


def _apply(a: Tensor, values: Tensor, vectors: Tensor, scalar: Scalar) -> Tensor:
    result: Tensor = _Value.apply(a, values, vectors, scalar)  # type: ignore[no-untyped-call]
    return result


class _Value(torch.autograd.Function):
    """f(a), from the spectrum of a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, values: Tensor, vectors: Tensor, scalar: Scalar) -> Tensor:
        ctx.save_for_backward(a, values, vectors)
        ctx.scalar = scalar
        return rebuild(scalar.value(values), vectors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        a, values, vectors = ctx.saved_tensors
        slope = _Slope.apply(a, symmetric(grads[0]), values, vectors, ctx.scalar)  # type: ignore[no-untyped-call]
        return slope, None, None, None


class _Slope(torch.autograd.Function):
    """D f(a)[e] for symmetric e."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, e: Tensor, values: Tensor, vectors: Tensor, scalar: Scalar
    ) -> Tensor:
        first = scalar.first(values[:, None], values)
        inner = turned(vectors, e)
        ctx.save_for_backward(inner, first, values, vectors)
        ctx.scalar = scalar
        return turned(vectors.transpose(0, 1), first * inner)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        inner, first, values, vectors = ctx.saved_tensors
        other = turned(vectors, symmetric(grads[0]))
        back = vectors.transpose(0, 1)
        second = ctx.scalar.second(values[:, None, None], values[:, None], values)
        half = (second * inner[:, :, None] * other).sum(1)
        bend = turned(back, half + half.transpose(0, 1))
        return bend, turned(back, first * other), None, None, None
