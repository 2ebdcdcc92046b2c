r"""The heat kernel of the sphere S^n, n >= 2, and its derivative.

With c = cos(theta), nu = (n - 1) / 2, V the volume and C_l^nu Gegenbauer's polynomials, the kernel
(generator Laplacian / 2) is

    K(c, tau) = 1 / V sum_l (l + nu) / nu exp(-l (l + n - 1) tau / 2) C_l^nu(c)                (1)
              = exp(nu^2 tau / 2) (2 pi tau)^{-n / 2} Gamma(nu) / (2 pi i)
                int exp(-omega / (2 tau)) (D / tau)^{-nu} d omega / (-2 tau),                  (2)
    D = cos(sqrt(omega)) - c,

along a curve that comes from +infinity, goes round all the zeros (2 pi k +- theta)^2 of D and
returns: around the first zero it gives the flat kernel, around the others the images. (2) obeys
K_{n+2} = exp(n tau / 2) / (2 pi) dK_n / dc: it is a derivative of the theta function for odd n and
a half-integral one for even n. In omega = theta^2 - 2 tau z the integrand is exp(z) D^{-nu}, but
for a factor, and has one saddle on the real axis, z = nu for small tau. The curve crosses the
axis there (at that of a larger nu where nu is below 5) along a parabola close to steepest descent,
where nothing cancels: the midpoint rule with 20 nodes in the upper half serves every angle and
every tau below T = 2 log(n + 1) / n. Above it the terms of (1) do not cancel.

For float64 points log K is right to 1e-9 max(1, |log K|), and its derivative in theta to
1e-9 max(|derivative|, 1 / sqrt(tau)), for all theta in [0, pi], n from 2 to 127 and tau from
1e-6 upwards (against series in many digits it was 1e-12 for tau in [0.03 T, 1.5 T]). float32
points are computed with in float64, so their error is that of the points.

References:
    Parabolic and hyperbolic contours for computing the Bromwich integral (Weideman and
    Trefethen, 2007), for the rule. https://doi.org/10.1090/S0025-5718-07-01945-X
    On the heat kernel on spheres (Nowak, Sjogren and Szarek, 2018), for bounds that hold
    uniformly in theta. https://arxiv.org/abs/1802.04587
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from structdiff.spaces.turns import choose, horner, mask_of

__all__ = ["Angle", "entropy", "kernel_of", "log_volume"]

_NODES = 20
_END = 10.0
_LOW = 5.0
_BEND = 0.36
_NEWTON = 6
_SMALL = 1e-2
_GRID = 128


class Angle(NamedTuple):
    """The angle between points, by what keeps its digits at both ends; each `(rows,)`."""

    gap: Tensor  # 1 - |c|
    behind: Tensor  # 1 where c < 0, else 0


def log_volume(dimension: int) -> float:
    """Logarithm of the volume of S^n."""
    half = (dimension + 1) / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def switch(dimension: int) -> float:
    """T: the time from which (1) is used."""
    return 2 * math.log(dimension + 1) / dimension


def kernel_of(dimension: int, angle: Angle, tau: Tensor) -> tuple[Tensor, Tensor]:
    """log K and its derivative in c, for tau of shape `()` or that of the angle."""
    turn = switch(dimension)
    wide = _series(dimension, angle, tau.clamp(min=turn))
    short = _contour(dimension, angle, tau.clamp(max=turn))
    late = mask_of(tau - turn)
    return choose(late, wide[0], short[0]), choose(late, wide[1], short[1])


def _series(dimension: int, angle: Angle, tau: Tensor) -> tuple[Tensor, Tensor]:
    """By (1); the derivative of C_l^nu is 2 nu C_{l-1}^{nu+1}."""
    nu = (dimension - 1) / 2
    c = _side(angle) * (1 - angle.gap)
    last, value = torch.ones_like(c), 2 * nu * c
    below, slope = torch.zeros_like(c), torch.ones_like(c)
    excess = rise = torch.zeros_like(c)
    for degree in range(1, _degree(dimension) + 1):
        weight = (degree + nu) / nu * torch.exp(-degree * (degree + dimension - 1) / 2 * tau)
        excess = torch.addcmul(excess, weight, value)
        rise = torch.addcmul(rise, weight, slope, value=2 * nu)
        step = 2 * (degree + nu) / (degree + 1) * c * value
        value, last = step - (degree + 2 * nu - 1) / (degree + 1) * last, value
        step = 2 * (degree + nu) / degree * c * slope
        slope, below = step - (degree + 2 * nu) / degree * below, slope
    return torch.log1p(excess) - log_volume(dimension), rise / (1 + excess)


def _degree(dimension: int) -> int:
    """The first degree whose terms at time T are all below rounding."""
    degree, turn = 1, switch(dimension)
    while True:
        choices = math.lgamma(degree + dimension + 1) - math.lgamma(degree + 1)
        choices -= math.lgamma(dimension + 1)
        if choices - degree * (degree + dimension - 1) / 2 * turn < -40:
            return degree
        degree += 1


def _side(angle: Angle) -> Tensor:
    """The sign of c."""
    return 1 - 2 * angle.behind


class Curve(NamedTuple):
    """Where (2) crosses the real axis, and how far apart its nodes are."""

    acute: Tensor  # theta or pi - theta
    theta: Tensor
    start: Tensor  # z on the axis
    scale: Tensor  # width of the saddle in z


def _contour(dimension: int, angle: Angle, tau: Tensor) -> tuple[Tensor, Tensor]:
    """By (2). The integral does not depend on the curve, so D alone carries gradients in c."""
    nu = (dimension - 1) / 2
    curve = _curve(nu, angle, tau.detach())
    t = (torch.arange(_NODES, dtype=tau.dtype, device=tau.device)[:, None] + 0.5) * _END / _NODES
    real, imag = curve.start - _BEND * t * t, curve.scale * t
    d_real, d_imag, turn = _difference(angle, curve, tau, real, imag)
    square = d_real.square() + d_imag.square()
    size, phase = real - nu / 2 * square.log(), imag + nu * turn
    top = size.detach().amax(0)
    size = torch.exp(size - top)
    p, q = size * torch.cos(phase), size * torch.sin(phase)
    # Times dz / dt.
    p, q = -2 * _BEND * t * p - curve.scale * q, curve.scale * p - 2 * _BEND * t * q
    total = q.sum(0)
    log_k = torch.log(total * (_END / _NODES / math.pi)) + top + nu * torch.log(tau)
    log_k = log_k - curve.theta.square() / (2 * tau) + nu * nu / 2 * tau
    log_k = log_k - dimension / 2 * torch.log(2 * math.pi * tau) + math.lgamma(nu)
    # The conjugate of D at the conjugate of z: 1 / D(z) = (d_real + i d_imag) / square.
    return log_k, nu * ((q * d_real + p * d_imag) / square).sum(0) / total


def _difference(
    angle: Angle, curve: Curve, tau: Tensor, real: Tensor, imag: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """D at the conjugate of z, and its argument continued from the real axis.

    With p + i q the root of omega, b = (theta - p - i q) / 2 and D = 2 sin(b) sin(theta - b).
    """
    side, theta = _side(angle), curve.theta
    a, b = theta.square() - 2 * tau * real, 2 * tau * imag
    major = (((a.square() + b.square()).sqrt() + a.abs()) / 2).sqrt()
    minor = b / (2 * major)
    positive = mask_of(a)
    p, q = choose(positive, major, minor), choose(positive, minor, major)
    half = tau * (real * (theta + p) - imag * q) / ((theta + p).square() + q.square())
    rest = curve.acute - side * half
    sine, cosine = torch.sin(half), torch.cos(half)
    far_sine, far_cosine = torch.sin(rest), side * torch.cos(rest)
    grow, lift = torch.cosh(q / 2), torch.sinh(q / 2)
    d_real = 2 * (sine * far_sine * grow.square() + cosine * far_cosine * lift.square())
    d_imag = 2 * grow * lift * (sine * far_cosine - cosine * far_sine)
    d_real = d_real + side * (angle.gap - angle.gap.detach())
    # D e^{i root} is the product of two numbers to the right of the imaginary axis.
    c, s = torch.cos(p), torch.sin(p)
    return (
        d_real,
        d_imag,
        torch.atan2(d_imag * c + d_real * s, d_real * c - d_imag * s) - p,
    )


@torch.no_grad()
def _curve(nu: float, angle: Angle, tau: Tensor) -> Curve:
    """The saddle in z, nu dD / dz = D, by Newton's method."""
    nu = max(nu, min(nu + _LOW / 2, _LOW))
    gap = angle.gap
    acute = torch.atan2((gap * (2 - gap)).sqrt(), 1 - gap)
    theta = choose(angle.behind, math.pi - acute, acute)
    c = _side(angle) * (1 - gap)
    z = nu + 0 * (theta + tau)
    for _ in range(_NEWTON):
        cosine, sinc, bend = _circular(theta * theta - 2 * tau * z)
        d = cosine - c
        fall = 1 - d * bend / sinc.square()
        z = (z - (d / (tau * sinc) - nu) / fall.clamp(min=0.1)).clamp(min=nu / 4)
    cosine, sinc, bend = _circular(theta * theta - 2 * tau * z)
    d = cosine - c
    return Curve(acute, theta, z, d / (nu * (sinc.square() - d * bend)).sqrt() / tau)


def _circular(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the root r of w, of either sign, cos r, sin(r) / r and (sin(r) / r - cos r) / w."""
    small, positive = mask_of(_SMALL - w.abs()), mask_of(w)
    r = w.abs().clamp(min=_SMALL).sqrt()
    cosine = choose(positive, torch.cos(r), torch.cosh(r))
    sinc = choose(positive, torch.sin(r), torch.sinh(r)) / r
    cosine = choose(small, horner(w, _COS), cosine)
    sinc = choose(small, horner(w, _SINC), sinc)
    far = (sinc - cosine) / choose(small, torch.ones_like(w), w)
    return cosine, sinc, choose(small, horner(w, _FALL), far)


_COS = [(-1) ** n / math.factorial(2 * n) for n in range(5)]
_SINC = [(-1) ** n / math.factorial(2 * n + 1) for n in range(5)]
_FALL = [(-1) ** n * (2 * n + 2) / math.factorial(2 * n + 3) for n in range(5)]


def entropy(dimension: int, tau: Tensor) -> Tensor:
    """The integral of K log(V K) over theta, by Gauss's rule."""
    node, weight = (torch.tensor(a).to(tau) for a in _gauss())
    end = ((math.sqrt(dimension) + 9) * tau.reshape(-1).sqrt()).clamp(max=math.pi)
    theta = (end * node[:, None]).reshape(-1)
    behind = mask_of(theta - math.pi / 2)
    acute = choose(behind, math.pi - theta, theta)
    angle = Angle(2 * torch.sin(acute / 2).square(), behind)
    times = tau.reshape(1, -1).expand(_GRID, -1).reshape(-1)
    log_k, _ = kernel_of(dimension, angle, times)
    circle = log_volume(dimension - 1) + (dimension - 1) * torch.sin(acute).log()
    gap = torch.exp(log_k + circle) * (log_k + log_volume(dimension))
    return (weight @ gap.reshape(_GRID, -1) * end).reshape(tau.shape)


@lru_cache(maxsize=1)
def _gauss() -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1]."""
    node, weight = np.polynomial.legendre.leggauss(_GRID)
    return ((node + 1) / 2).tolist(), (weight / 2).tolist()
