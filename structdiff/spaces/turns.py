r"""Rotation matrices entry by entry: the turn from one to another, exponential, nearest rotation.

Matrices are lists of their entries, so that a batch is nine long vectors and no small matrix
product; every formula is finite with its derivatives at the identity and at half turns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.spaces.lean import lean

__all__ = [
    "Turn",
    "across",
    "assemble",
    "choose",
    "column",
    "components",
    "cross",
    "dot",
    "entries",
    "half_sine",
    "half_turn",
    "horner",
    "largest_root",
    "mask_of",
    "matrix",
    "relative",
    "stack",
    "turn_of",
    "vector",
]

_SMALL = 1e-3
_TINY = 1e-30

Triple = tuple[Tensor, Tensor, Tensor]
Entries = list[list[Tensor]]


def entries(x: Tensor) -> Entries:
    """The nine entries of `(rows, 3, 3)`."""
    parts = x.permute(1, 2, 0).contiguous().unbind(0)
    return [list(row.unbind(0)) for row in parts]


def assemble(m: Entries) -> Tensor:
    """The inverse of `entries`."""
    flat = torch.stack([entry for row in m for entry in row])
    return flat.reshape(3, 3, flat.shape[1]).permute(2, 0, 1).contiguous()


def components(v: Tensor) -> Triple:
    """The three components of `(rows, 3)`."""
    a, b, c = across(v).unbind(0)
    return a, b, c


def across(v: Tensor) -> Tensor:
    """`(rows, n)` turned to `(n, rows)`, or back, in contiguous memory.

    Through a view of three axes: torch copies a turned view of two axes three times more slowly.
    """
    return v[None].permute(2, 0, 1).contiguous()[:, 0]


def stack(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The inverse of `components`."""
    return across(torch.stack([a, b, c]))


def vector(scale: Tensor, v: Triple) -> Tensor:
    """`scale` times `v`, `(rows, 3)`."""
    return stack(scale * v[0], scale * v[1], scale * v[2])


def column(m: Entries, j: int) -> list[Tensor]:
    """Column `j`."""
    return [row[j] for row in m]


def dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two vectors."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def cross(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Vector product."""
    pairs = ((1, 2), (2, 0), (0, 1))
    return [torch.addcmul(a[i] * b[j], a[j], b[i], value=-1) for i, j in pairs]


def mask_of(x: Tensor) -> Tensor:
    """1 where `x` is positive, else 0."""
    return x.detach().sign().clamp(min=0)


def choose(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `mask` is 1, `b` where it is 0; many times faster than `where` on a CPU."""
    return torch.lerp(b, a, mask)


def horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """The polynomial with the given coefficients, lowest first."""
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


# Rotations and quaternions.


def half_turn(v: Tensor) -> tuple[Tensor, Triple]:
    """The unit quaternion of the rotation by the vector `v`."""
    a, b, c = components(v)
    cosine, factor = half_sine(a * a + b * b + c * c)
    return cosine, (factor * a, factor * b, factor * c)


def _half_sine(square: Tensor) -> tuple[Tensor, Tensor]:
    """With series at 0."""
    small = mask_of(_SMALL - square)
    half = choose(small, torch.ones_like(square), square).sqrt() / 2
    cosine = choose(small, horner(square, _COS_HALF), torch.cos(half))
    return cosine, choose(small, horner(square, _SINC_HALF), torch.sin(half) / (2 * half))


def _half_sine_value(square: Tensor) -> tuple[Tensor, Tensor]:
    half = (square / 4).clamp_(min=_TINY).sqrt_()
    return torch.cos(half), torch.sin(half).div_(half + half)


half_sine = lean(_half_sine_value, _half_sine)
"""cos(r / 2) and sin(r / 2) / r of r^2."""

_COS_HALF = [(-0.25) ** n / math.factorial(2 * n) for n in range(5)]
_SINC_HALF = [0.5 * (-0.25) ** n / math.factorial(2 * n + 1) for n in range(5)]


def matrix(w: Tensor, axis: Triple) -> Entries:
    """The rotation matrix of a unit quaternion."""
    x, y, z = axis
    dx, dy, dz = 2 * x, 2 * y, 2 * z
    xx, yy, zz = dx * x, dy * y, dz * z
    xy, xz, yz = dx * y, dx * z, dy * z
    wx, wy, wz = dx * w, dy * w, dz * w
    return [
        [1 - (yy + zz), xy - wz, xz + wy],
        [xy + wz, 1 - (xx + zz), yz - wx],
        [xz - wy, yz + wx, 1 - (xx + yy)],
    ]


class Turn(NamedTuple):
    """A rotation by w in [0, pi]; what is singular at w = 0 is replaced where `small` is 1."""

    axis: Triple  # sin(w / 2) n
    cosine: Tensor  # cos(w / 2), not negative
    sine2: Tensor  # sin(w / 2)^2
    factor: Tensor  # w / sin(w / 2)
    small: Tensor
    sine: Tensor  # sin(w / 2), 1 where small
    angle: Tensor  # w, another number where small


def turn_of(cosine: Tensor, axis: Triple) -> Turn:
    """The angle of a unit quaternion with cosine >= 0."""
    x, y, z = axis
    sine2 = x * x + y * y + z * z
    small = mask_of(_SMALL - sine2)
    sine = choose(small, torch.ones_like(sine2), sine2).sqrt()
    angle = 2 * torch.atan2(sine, cosine)
    factor = choose(small, horner(sine2, _ARCSINE), angle / sine)
    return Turn(axis, cosine, sine2, factor, small, sine, angle)


_ARCSINE = [2 * math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in range(6)]


def relative(x: Tensor, y: Tensor) -> Turn:
    """The rotation x^T y.

    Its quaternion is proportional to each row of the matrix 4 q q^T, which is linear in the
    rotation; the first row is taken where the angle is below 2 pi / 3, else the one with the
    largest diagonal entry.

    References:
        Quaternion from rotation matrix (Shepperd, 1978).
        https://doi.org/10.2514/3.55767b
    """
    a, b = entries(x), entries(y)
    r = [[dot(column(a, i), column(b, j)) for j in range(3)] for i in range(3)]
    sx, sy, sz = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    xy, xz, yz = r[0][1] + r[1][0], r[0][2] + r[2][0], r[1][2] + r[2][1]
    plus, minus = r[0][0] + r[1][1], r[0][0] - r[1][1]
    w2, x2 = 1 + (plus + r[2][2]), 1 + (minus - r[2][2])
    y2, z2 = 1 - (minus + r[2][2]), 1 - (plus - r[2][2])
    one = mask_of(y2 - x2)
    row = [choose(one, q, p) for p, q in zip((sx, x2, xy, xz), (sy, xy, y2, yz), strict=True)]
    one = mask_of(z2 - torch.maximum(x2, y2))
    row = [choose(one, q, p) for p, q in zip(row, (sz, xz, yz, z2), strict=True)]
    one = mask_of(w2 - 1)
    row = [choose(one, q, p) for p, q in zip(row, (w2, sx, sy, sz), strict=True)]
    length = (row[0] * row[0] + dot(row[1:], row[1:])).rsqrt()
    # A zero of either sign counts as positive, so that the choice at angle pi is as documented.
    scale = length.copysign(row[0].detach() + 0.0)
    return turn_of(row[0] * scale, (row[1] * scale, row[2] * scale, row[3] * scale))


def largest_root(size: Tensor, det: Tensor, minors: Tensor) -> Tensor:
    """The sum of the singular values, the last signed by det, from its quartic.

    Newton's method: the start is an upper bound and all roots are real, so it descends.
    """
    constant = size * size - 4 * minors
    top = (3 * size).sqrt()
    for _ in range(12):
        value = ((top * top - 2 * size) * top - 8 * det) * top + constant
        slope = 4 * ((top * top - size) * top - 2 * det)
        top = top - value / slope
    return top


# The heat kernel.
