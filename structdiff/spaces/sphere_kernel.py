r"""The heat kernel of the sphere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.spaces import igso3
from structdiff.spaces.torus import Torus
from structdiff.spaces.turns import choose, components, mask_of, stack, turn_of

__all__ = ["Angle", "angle_of", "draw", "draws", "entropy", "log_density", "slope"]

_NODES = 24
_GRID = 256


class Angle(NamedTuple):
    """The angle between two points, by rows."""

    cosine: Tensor
    sine2: Tensor


def angle_of(cosine: Tensor, sine2: Tensor) -> Angle:
    """The angle with the given cosine and squared sine."""
    return Angle(cosine.reshape(-1), sine2.reshape(-1))


def log_density(dimension: int, angle: Angle, tau: Tensor) -> Tensor:
    """Logarithm of the kernel against the volume."""
    if dimension == 1:
        theta = torch.atan2((angle.sine2 + 1e-36).sqrt(), angle.cosine)[:, None]
        return Torus(1).log_kernel(torch.zeros_like(theta), theta, tau)
    log_f, _, reach, _ = _fibre(angle, tau)
    total = torch.logsumexp(log_f, -1) - math.log(_NODES)
    return total + reach.log() - math.log(2 * math.pi**2)


def slope(dimension: int, angle: Angle, tau: Tensor) -> Tensor:
    """Derivative of `log_density` in theta over sin(theta)."""
    if dimension == 1:
        sine = (angle.sine2 + 1e-36).sqrt()
        theta = torch.atan2(sine, angle.cosine)[:, None]
        return Torus(1).score(torch.zeros_like(theta), theta, tau)[:, 0] / sine
    log_f, steep, _, half = _fibre(angle, tau)
    return (torch.softmax(log_f, -1) * steep).sum(-1) / (2 * half)


def _fibre(angle: Angle, tau: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """IGSO(3) on the circle of rotations that take one point to the other."""
    plus = choose(
        mask_of(-angle.cosine), angle.sine2 / (1 + angle.cosine.abs()), 1 + angle.cosine
    )
    half2 = plus.clamp(min=1e-20) / 2
    half = half2.sqrt()
    reach = (6 * (tau / half).sqrt()).clamp(max=math.pi / 2)
    node = (torch.arange(_NODES, dtype=half.dtype, device=half.device) + 0.5) / _NODES
    alpha = reach[:, None] * node
    cosine = half[:, None] * torch.cos(alpha)
    sine2 = (1 - half2)[:, None] + half2[:, None] * torch.sin(alpha).square()
    zero = torch.zeros_like(cosine)
    turn = turn_of(cosine, (sine2.sqrt(), zero, zero))
    t = tau[..., None]
    log_f = igso3.log_density(turn, t)
    steep = igso3.score_over_sine(turn, t) * torch.cos(alpha)
    return log_f, steep, reach, half


def draws(dimension: int) -> int:
    """How many normal numbers a draw takes."""
    return 1 if dimension == 1 else 4


def draw(dimension: int, z: Tensor, tau: Tensor) -> Tensor:
    """A tangent vector at the origin, in coordinates."""
    if dimension == 1:
        positive = tau > 0
        return (torch.where(positive, tau, 1.0).sqrt() * positive)[..., None] * z
    # A Brownian rotation moves a point by a Brownian motion of the sphere.
    turn = igso3.draw(z, tau)
    return _moved(turn)


def _moved(v: Tensor) -> Tensor:
    """The vector from the third axis to its image under the rotation by `v`, in the plane."""
    a, b, c = components(v)
    square = a * a + b * b + c * c
    small = mask_of(1e-3 - square)
    r = choose(small, torch.ones_like(square), square).sqrt()
    sinc = choose(small, 1 - square / 6 + square * square / 120, torch.sin(r) / r)
    haver = choose(small, 0.5 - square / 24 + square * square / 720, (1 - torch.cos(r)) / (r * r))
    p, q = sinc * b + haver * a * c, haver * b * c - sinc * a
    s2 = p * p + q * q
    cosine = 1 - haver * (a * a + b * b)
    tiny = mask_of(1e-6 - s2) * mask_of(cosine)
    sine = choose(tiny, torch.ones_like(s2), s2).sqrt()
    factor = choose(tiny, 1 + s2 / 6 + 3 * s2 * s2 / 40, torch.atan2(sine, cosine) / sine)
    return stack(factor * p, factor * q, 0 * p)[:, :2]


def entropy(dimension: int, tau: Tensor) -> Tensor:
    """The integral of k log(V k), by the midpoint rule."""
    half = (dimension + 1) / 2
    volume = math.log(2) + half * math.log(math.pi) - math.lgamma(half)
    below = math.log(2) + dimension / 2 * math.log(math.pi) - math.lgamma(dimension / 2)
    t = tau.reshape(-1, 1)
    end = (12 * t.sqrt()).clamp(max=math.pi)
    node = (torch.arange(_GRID, dtype=t.dtype, device=t.device) + 0.5) / _GRID
    theta = (end * node).reshape(-1)
    angle = angle_of(torch.cos(theta), torch.sin(theta).square())
    times = t.expand(-1, _GRID).reshape(-1)
    log_k = log_density(dimension, angle, times).reshape(-1, _GRID)
    weight = math.exp(below) * torch.sin(end * node) ** (dimension - 1)
    gap = (log_k.exp() * (log_k + volume) * weight).mean(-1) * end[:, 0]
    return gap.reshape(tau.shape)
