r"""How the exponential map of SPD matrices stretches volume.

For a symmetric W with eigenvalues l, the spectral function

    s(W) = sum_{i<j} g(l_i - l_j),    g(x) = log(sinh(x / 2) / (x / 2)),

is smooth because g is smooth and even. With q = g' and h_i = sum_k q(l_i - l_k),

    D s(W)[E] = sum_i h_i E'_ii,    E' = V^T E V,
    gradient G(W) = V diag(h) V^T,
    D G(W)[E] = V (d_ij E'_ij for i != j, sum_k J_ik E'_kk for i = j) V^T,

where J is the Jacobian of h and d_ij = (h_i - h_j) / (l_i - l_j) = sum_k of the mean of q' between
l_i - l_k and l_j - l_k, which Gauss's rule gives where l_i and l_j are close.

References:
    Twice Differentiable Spectral Functions (Lewis and Sendov, 2001).
    https://doi.org/10.1137/S089547980036838X
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from structdiff.spaces.decompositions import rebuild, spectrum, symmetric, turned

__all__ = ["stretch"]

_BERNOULLI = [1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510]
_BERNOULLI += [43867 / 798, -174611 / 330]
_SERIES = [b / math.factorial(2 * k) for k, b in enumerate(_BERNOULLI, 1)]
_NODES = [((1 + x) / 2, w / 2) for x, w in zip(*np.polynomial.legendre.leggauss(6), strict=True)]


def stretch(w: Tensor) -> Tensor:
    """s of symmetric matrices `(n, n, rows)`, with first and second derivatives."""
    result: Tensor = _Stretch.apply(w, *spectrum(w.detach()))  # type: ignore[no-untyped-call]
    return result


def _series(square: Tensor, weights: list[float]) -> Tensor:
    total = torch.zeros_like(square)
    for c, weight in zip(reversed(_SERIES), reversed(weights), strict=True):
        total = total * square + c * weight
    return total


def _value(x: Tensor) -> Tensor:
    """g."""
    size = x.abs()
    far = size.clamp(min=1)
    series = x * x * _series((x * x).clamp(max=1), [1 / (2 * k) for k in range(1, 11)])
    return torch.where(size > 1, far / 2 + torch.log(-torch.expm1(-far) / far), series)


def _slope(x: Tensor) -> Tensor:
    """q = g'."""
    far = x.abs().clamp(min=1)
    formula = (0.5 / torch.tanh(far / 2) - 1 / far).copysign(x)
    return torch.where(x.abs() > 1, formula, x * _series((x * x).clamp(max=1), [1.0] * 10))


def _bend(x: Tensor) -> Tensor:
    """q'."""
    far = x.abs().clamp(min=1)
    formula = far**-2 - (2 * torch.sinh(far / 2)) ** -2
    series = _series((x * x).clamp(max=1), [2.0 * k - 1 for k in range(1, 11)])
    return torch.where(x.abs() > 1, formula, series)


def _gaps(values: Tensor) -> Tensor:
    """l_i - l_k, `(n, n, rows)`."""
    return values[:, None] - values


class _Stretch(torch.autograd.Function):
    """s, from the spectrum of w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(w, values, vectors)
        return _value(_gaps(values)).sum((0, 1)) / 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        gradient: Tensor = _Gradient.apply(*ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return grads[0] * gradient, None, None


class _Gradient(torch.autograd.Function):
    """The gradient of s."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
        del w
        ctx.save_for_backward(values, vectors)
        return rebuild(_slope(_gaps(values)).sum(1), vectors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, vectors = ctx.saved_tensors
        inner = turned(vectors, symmetric(grads[0]))
        own = inner.diagonal().t()
        pairs = _bend(_gaps(values))
        diagonal = pairs.sum(1) * own - (pairs * own).sum(1)
        unit = torch.eye(len(values), dtype=own.dtype, device=own.device)[..., None]
        bent = _secants(values) * inner * (1 - unit) + diagonal * unit
        return turned(vectors.transpose(0, 1), bent), None, None


def _secants(values: Tensor) -> Tensor:
    """d_ij; the diagonal is not used."""
    gap, slopes = _gaps(values), _slope(_gaps(values)).sum(1)
    apart = gap.abs() > 1
    quotient = _gaps(slopes) / torch.where(apart, gap, 1.0)
    below = _gaps(values)[None]
    step = torch.where(apart, 0.0, gap)[:, :, None]
    mean = torch.stack([w * _bend(below + t * step) for t, w in _NODES]).sum(0).sum(2)
    return torch.where(apart, quotient, mean)
