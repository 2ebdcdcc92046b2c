r"""Draws from the heat kernel of the sphere.

A draw takes a standard normal vector in the tangent space. It keeps the direction; the length r
becomes the angle theta = Q(r, tau) whose rank under the law of the angle is that of r under the
law of such lengths. On S^1 that is sqrt(tau) r. On S^2 the angle is that of the third axis moved
by a Brownian rotation, since SO(3) covers S^2 with geodesic fibres: IGSO(3) has its own inversion.
For n >= 3 the ratio of theta to its flat value is smooth in r and in

    v = 1 - exp(-n tau / 4),    theta = 2 sqrt(v / n) r g(r, v),

and is interpolated by Chebyshev polynomials, fitted once per n. Where the rank is within 1e-9 of 0
or 1 the ratio is kept constant in r. The rank of theta is right to 1e-7.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from structdiff.spaces import igso3
from structdiff.spaces.sphere_kernel import Angle, kernel_of
from structdiff.spaces.turns import choose, components, mask_of

__all__ = ["draw", "normals"]

_LENGTHS = 40
_TIMES = 36
_PANELS = 64
_RANK = 1e-9


def normals(dimension: int) -> int:
    """How many standard normal numbers a draw takes."""
    return 4 if dimension == 2 else dimension


def draw(dimension: int, z: Tensor, tau: Tensor) -> Tensor:
    """A tangent vector in an orthonormal frame, `(rows, dimension)`, from `(rows, normals)`."""
    if dimension == 2:
        return _turned(igso3.draw(z, tau))
    positive = tau > 0
    safe = torch.where(positive, tau, 1.0)
    if dimension == 1:
        return (safe.sqrt() * positive)[..., None] * z
    flat = z.t().contiguous()
    ratio = _ratio(dimension, flat.square().sum(0), safe)
    scale = 2 * (-torch.expm1(-dimension / 4 * safe) / dimension).sqrt() * positive
    return (scale * ratio * flat).t()


def _turned(v: Tensor) -> Tensor:
    """From the third axis to its image under the rotation by the vector `v`."""
    a, b, c = components(v)
    aside = a * a + b * b
    square = aside + c * c
    tiny = torch.finfo(v.dtype).tiny
    r = (square + tiny).sqrt()
    sine, half = torch.sin(r) / r, torch.sin(r / 2) / r
    rise = 2 * half.square()
    p, q = sine * b + rise * a * c, rise * b * c - sine * a
    # |(p, q)| = sin(theta), and the length of the half chord is sqrt(aside) half.
    chord = half * (aside + tiny).sqrt()
    theta = 2 * torch.asin(chord.clamp(max=1))
    length = (p * p + q * q + tiny).sqrt()
    return torch.stack([theta / length * p, theta / length * q], 1)


def _ratio(dimension: int, square: Tensor, tau: Tensor) -> Tensor:
    """The ratio g, by Clenshaw's sum over both variables."""
    low, high, table = _table(dimension)
    coefficients = table.to(square)
    ends = 2 * (square.clamp(low, high) - low) / (high - low) - 1
    late = -2 * torch.exp(-dimension / 4 * tau) + 1
    times = _chebyshev(late, _TIMES)
    if tau.ndim == 0:
        return (_chebyshev(ends, _LENGTHS) * (coefficients @ times)[:, None]).sum(0)
    return (_chebyshev(ends, _LENGTHS) * (coefficients @ times)).sum(0)


def _chebyshev(x: Tensor, count: int) -> Tensor:
    """Chebyshev's polynomials of degree 0 to count - 1, along a new first axis."""
    values = [torch.ones_like(x), x]
    for _ in range(count - 2):
        values.append(2 * x * values[-1] - values[-2])
    return torch.stack(values)


# The fit.


@lru_cache(maxsize=8)
def _table(dimension: int) -> tuple[float, float, Tensor]:
    """The range of squared lengths, and the coefficients of g, `(lengths, times)`."""
    from scipy.special import gammainccinv, gammaincinv

    half = dimension / 2
    low, high = (
        2 * float(gammaincinv(half, _RANK)),
        2 * float(gammainccinv(half, _RANK)),
    )
    share = (_nodes(_TIMES) + 1) / 2
    times = -4 / dimension * np.log1p(-share)
    squares = low + (high - low) * (_nodes(_LENGTHS) + 1) / 2
    stretch = np.stack([_stretch(dimension, tau, squares) for tau in times], 1)
    ratio = stretch / (2 * np.sqrt(share / dimension))
    table = _transform(_LENGTHS) @ ratio @ _transform(_TIMES).T
    return low, high, torch.from_numpy(table)


def _nodes(count: int) -> np.ndarray:
    """Chebyshev's nodes."""
    return np.cos(math.pi * (np.arange(count) + 0.5) / count)


def _transform(count: int) -> np.ndarray:
    """The matrix from values at the nodes to coefficients."""
    degree = np.arange(count)[:, None]
    weight = np.where(degree == 0, 1, 2) / count
    return np.asarray(weight * np.cos(math.pi * degree * (np.arange(count) + 0.5) / count))


def _stretch(dimension: int, tau: float, squares: np.ndarray) -> np.ndarray:
    """theta / r at one time, for given r^2.

    The law of the angle is integrated from either end, panel by panel, so that both tails keep
    their digits; theta / r is then a smooth function of r^2.
    """
    from scipy.interpolate import make_interp_spline
    from scipy.special import gammainccinv, gammaincinv

    end = min(math.pi, math.sqrt(tau) * (math.sqrt(squares.max()) + 3))
    node, weight = np.polynomial.legendre.leggauss(5)
    width = end / _PANELS
    theta = width * (np.arange(_PANELS)[:, None] + (node + 1) / 2)
    log_law = _log_law(dimension, torch.from_numpy(theta.ravel()), tau).numpy()
    mass = (np.exp(log_law - log_law.max()).reshape(theta.shape) * weight).sum(1)
    below, above = np.cumsum(mass)[:-1], np.cumsum(mass[::-1])[::-1][1:]
    half, total = dimension / 2, mass.sum()
    square = 2 * np.where(
        below < above,
        gammaincinv(half, np.minimum(below / total, 0.6)),
        gammainccinv(half, np.minimum(above / total, 0.6)),
    )
    kept = np.minimum(below, above) > 1e-13 * total
    edge = width * np.arange(1, _PANELS)[kept]
    spline = make_interp_spline(square[kept], edge / np.sqrt(square[kept]), k=7)
    return np.asarray(spline(squares))


def _log_law(dimension: int, theta: Tensor, tau: float) -> Tensor:
    """Logarithm of the density of the angle, up to a constant."""
    behind = mask_of(theta - math.pi / 2)
    acute = choose(behind, math.pi - theta, theta)
    angle = Angle(2 * torch.sin(acute / 2).square(), behind)
    log_k, _ = kernel_of(dimension, angle, torch.tensor(tau, dtype=theta.dtype))
    return log_k + (dimension - 1) * torch.sin(acute).log()
