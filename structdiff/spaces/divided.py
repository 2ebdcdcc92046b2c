r"""Divided differences of exp, log and roots, free of cancellation.

For a function f and numbers a, b, c (eigenvalues, in any order, equal or not)

    f[a, b] = (f(a) - f(b)) / (a - b),        f[a, a] = f'(a),
    f[a, b, c] = (f[a, b] - f[b, c]) / (a - c),    f[a, a, a] = f''(a) / 2.

They are symmetric, and smooth where f is. Roots have closed forms. For exp, the first is
exp(a) (1 - exp(b - a)) / (a - b); the second is the quotient where the numbers are far apart and

    exp[a, b, c] = exp(m) sum_k h_k(a - m, b - m, c - m) / (k + 2)!

elsewhere, h_k the complete homogeneous polynomial and m the mean. The inverse of a function has

    g[f(p), f(q)] = 1 / f[p, q],    g[f(p), f(q), f(r)] = -f[p, q, r] / (f[p, q] f[q, r] f[p, r]),

which gives log from exp.

References:
    Functions of Matrices: Theory and Computation (Higham, 2008), appendix B.16.
    https://doi.org/10.1137/1.9780898717778
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["EXP", "INVERSE_ROOT", "LOG", "ROOT", "Scalar"]

_TERMS = 16


class Scalar(NamedTuple):
    """A function of numbers with its divided differences; arguments broadcast.

    Arguments:
        value: f(a).
        first: f[a, b].
        second: f[a, b, c].
    """

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor, Tensor, Tensor], Tensor]


def _exp_first(a: Tensor, b: Tensor) -> Tensor:
    top, gap = torch.maximum(a, b), (a - b).abs()
    apart = gap > 0
    return top.exp() * torch.where(apart, -torch.expm1(-gap) / torch.where(apart, gap, 1.0), 1.0)


def _exp_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    level = torch.zeros_like(a + b + c)
    ordered = torch.stack([a + level, b + level, c + level]).sort(0)[0]
    top = ordered[2]
    below = ordered - top
    low, middle, high = below.unbind(0)
    spread = high - low
    apart = spread > 1
    quotient = (_exp_first(middle, high) - _exp_first(low, middle)) / torch.where(
        apart, spread, 1.0
    )
    series = _exp_close(torch.where(apart, 0.0, below))
    return top.exp() * torch.where(apart, quotient, series)


def _exp_close(numbers: Tensor) -> Tensor:
    """exp[a, b, c] by the series; numbers `(3, ...)` within about 1 of each other."""
    mean = numbers.mean(0)
    d, e, f = (numbers - mean).unbind(0)
    pairs, triple = d * e + e * f + d * f, d * e * f
    total = torch.full_like(mean, 0.5)
    first, second, third = torch.ones_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
    for k in range(1, _TERMS):
        first, second, third = triple * third - pairs * second, first, second
        total = total + first / math.factorial(k + 2)
    return mean.exp() * total


def _log_first(a: Tensor, b: Tensor) -> Tensor:
    top = torch.maximum(a, b)
    return 1 / (top * _exp_first((a / top).log(), (b / top).log()))


def _log_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    top = torch.maximum(torch.maximum(a, b), c)
    p, q, r = ((x / top).log() for x in (a, b, c))
    slopes = _exp_first(p, q) * _exp_first(q, r) * _exp_first(p, r)
    return -_exp_second(p, q, r) / (slopes * top * top)


def _root_first(a: Tensor, b: Tensor) -> Tensor:
    return 1 / (a.sqrt() + b.sqrt())


def _root_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p, q, r = a.sqrt(), b.sqrt(), c.sqrt()
    return -1 / ((p + q) * (q + r) * (p + r))


def _inverse_root_first(a: Tensor, b: Tensor) -> Tensor:
    p, q = a.sqrt(), b.sqrt()
    return -1 / (p * q * (p + q))


def _inverse_root_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    p, q, r = a.sqrt(), b.sqrt(), c.sqrt()
    return (p + q + r) / (p * q * r * (p + q) * (q + r) * (p + r))


EXP = Scalar(torch.exp, _exp_first, _exp_second)
LOG = Scalar(torch.log, _log_first, _log_second)
ROOT = Scalar(torch.sqrt, _root_first, _root_second)
INVERSE_ROOT = Scalar(torch.rsqrt, _inverse_root_first, _inverse_root_second)
