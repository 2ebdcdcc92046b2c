r"""Boosts of hyperbolic space, and the functions of lengths that its maps are made of.

A point is its part x' in R^n, as in `structdiff.spaces.hyperbolic`, whose equation (4) is meant.
Coordinates lie along an axis that is handed in: the first, `(n, rows)`, makes sums over few of
them several times faster, the second, `(rows, n)`, sums over many. Numbers, one a row, are
`(1, rows)` or `(rows, 1)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.spaces.lean import lean

__all__ = ["arsinhc", "boost", "dot", "height", "log_sinhc", "rotated", "sinhc", "transpose"]

_SMALL = 1e-6
_TINY = 1e-30


def transpose(x: Tensor) -> Tensor:
    """Contiguous; such a copy is three times faster than `contiguous`."""
    turned = torch.empty_like(x.t(), memory_format=torch.contiguous_format)
    turned.t().copy_(x)
    return turned


def dot(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Inner product along the axis, which is kept."""
    return (x * y).sum(axis, keepdim=True)


# Numbers are added as vectors of ones: torch makes a tensor of a Python number at every call.


def height(square: Tensor) -> Tensor:
    """x_0."""
    return (torch.ones_like(square) + square).sqrt()


def _share(x2: Tensor, xu: Tensor) -> Tensor:
    """The number a of (4), where it is negative; not below -max(1, |x' . u|)."""
    flat = xu.detach()
    full = flat / x2.detach().clamp(min=_TINY)
    return torch.maximum(full, flat.clamp(max=-1)).clamp(max=0)


def _boost(x: Tensor, u: Tensor, axis: int) -> Tensor:
    """(4) with the terms in x' . c, so that it holds, with its derivatives, for any constant a."""
    x2, xu = dot(x, x, axis), dot(x, u, axis)
    one = torch.ones_like(x2)
    x0, u0 = (one + x2).sqrt(), (one + dot(u, u, axis)).sqrt()
    a = _share(x2, xu)
    c = torch.addcmul(u, a, x, value=-1)
    xc = dot(x, c, axis)
    top = torch.addcmul(torch.addcmul(one + dot(c, c, axis), a, a, value=-1), a, xc, value=2)
    slope = torch.addcdiv(top / torch.addcmul(u0, a, x0, value=-1), xc, one + x0)
    return torch.addcmul(c, slope, x)


def _boost_value(x: Tensor, u: Tensor, axis: int) -> Tensor:
    """The same in place."""
    x2, xu = dot(x, x, axis), dot(x, u, axis)
    one = torch.ones_like(x2)
    x0, u0 = (one + x2).sqrt_(), dot(u, u, axis).add_(one).sqrt_()
    a = torch.maximum(xu / x2.clamp_(min=_TINY), xu.clamp(max=-1)).clamp_(max=0)
    c = torch.addcmul(u, a, x, value=-1)
    xc = dot(x, c, axis)
    top = dot(c, c, axis).add_(one).addcmul_(a, a, value=-1).addcmul_(a, xc, value=2)
    slope = top.div_(u0.addcmul_(a, x0, value=-1)).addcdiv_(xc, x0.add_(one))
    return c.addcmul_(slope, x)


boost = lean(_boost_value, _boost)
"""The part in R^n of B_x u for a point u, both given by theirs, along an axis."""


# Functions of s = r^2, smooth at 0: f(max(s, S)), and below S = _SMALL Taylor's series around S,
# which is 1e-18 off at 0.


def _sinhc(s: Tensor) -> Tensor:
    """1 + s / 6 + s^2 / 120 + s^3 / 5040 + ..."""
    large = s.clamp(min=_SMALL)
    r = large.sqrt()
    below = (s - _SMALL).clamp(max=0)
    far = torch.add(torch.sinh(r) / r, below, alpha=1 / 6 + _SMALL / 60)
    return torch.addcmul(far, below, below, value=1 / 120)


def _sinhc_value(s: Tensor) -> Tensor:
    r = s.clamp(min=_TINY).sqrt_()
    return torch.sinh(r).div_(r)


sinhc = lean(_sinhc_value, _sinhc)
"""sinh(r) / r of s."""


def log_sinhc(s: Tensor) -> Tensor:
    """The logarithm of sinh(r) / r, s / 6 - s^2 / 180 + s^3 / 2835 - ..."""
    large = s.clamp(min=_SMALL)
    r = large.sqrt()
    below = (s - _SMALL).clamp(max=0)
    far = r + torch.log(-torch.expm1(-2 * r) / (2 * r))
    far = torch.add(far, below, alpha=1 / 6 - _SMALL / 90)
    return torch.addcmul(far, below, below, value=-1 / 180)


def _arsinhc(s: Tensor) -> Tensor:
    """1 - s / 6 + 3 s^2 / 40 - ..., as a multiple of it at S: it may be tiny."""
    large = s.clamp(min=_SMALL)
    r = large.sqrt()
    below = (s - _SMALL).clamp(max=0)
    far = torch.log1p(torch.addcdiv(r, large, torch.ones_like(r) + height(large))) / r
    share = torch.addcmul(_SLOPE * below, below, below, value=3 / 40)
    return torch.addcmul(far, far, share)


def _arsinhc_value(s: Tensor) -> Tensor:
    r = s.clamp(min=_TINY).sqrt_()
    one = torch.ones_like(r)
    return torch.addcdiv(r, r * r, one + torch.addcmul(one, r, r).sqrt_()).log1p_().div_(r)


arsinhc = lean(_arsinhc_value, _arsinhc)
"""arsinh(r) / r of s."""

_SLOPE = -1 / 6 + _SMALL * (3 / 20 - 1 / 36)


def rotated(x: Tensor, y: Tensor, v: Tensor, axis: int) -> Tensor:
    """`v` transported from x to y: the rotor is 1 + a ^ b with a along x' in the plane of y'."""
    x2, xy = dot(x, x, axis), dot(x, y, axis)
    x0, y0 = height(x2), height(dot(y, y, axis))
    w = boost(-x, y, axis)
    # Orthogonal to x' where they may be nearly parallel, so that |a ^ b| is |a| |b|.
    c = torch.addcmul(y, _share(x2, -xy), x)
    a = x / (1 + x0)
    b = c * ((1 + x0) / (1 + x0 + y0 + height(dot(w, w, axis))))
    ab, a2, b2 = dot(a, b, axis), dot(a, a, axis), dot(b, b, axis)
    av, bv = dot(a, v, axis), dot(b, v, axis)
    scale = 2 / (1 + a2 * b2 - ab * ab)
    along = scale * (bv * (1 + ab) - b2 * av)
    beside = scale * (av * (1 - ab) + a2 * bv)
    return v + along * a - beside * b
