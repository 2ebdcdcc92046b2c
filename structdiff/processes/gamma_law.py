r"""Gamma laws as their shape changes: quantiles, and the flow from one law to the other.

The increasing map between the laws of two shapes keeps F_k(g) = u. Along it

    dg/dk = D(k, g) = -(dF_k(g) / dk) / p_k(g) > 0,    d D / dg = psi(k) - log g - D ((k-1)/g - 1),

the second by the continuity equation of p_k. The derivative in k is a central difference of the
incomplete gamma function, from the nearer tail. From k = 1000 on everything follows Cornish and
Fisher's expansion in the normal score z of u,

    g = k + sqrt(k) z + (z^2 - 1) / 3 + (z^3 - 7 z) / (36 sqrt(k)),

whose next term is below 1e-4 of the deviation for |z| < 5. All in float64.

References:
    Numerical Recipes (Press et al., 2007), section 6.2.1: quantiles by Halley's method.
    Moments and Cumulants in the Specification of Distributions (Cornish and Fisher, 1938).
    https://doi.org/10.2307/1400905
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gamma_quantile", "rate", "rate_inverse", "reshaped"]

_ROUNDS = 10
"""Of Halley's method; most numbers are found in 3."""

_LARGE = 1000.0
_TINY = 1e-300


def gamma_quantile(shape: Tensor, u: Tensor) -> Tensor:
    """The x at which the distribution function of Gamma(shape) is u: Halley's method.

    It begins at Wilson and Hilferty's approximation, or at the leading power where the shape is
    small.

    Arguments:
        shape: Shapes, at least 0; of 0 the quantile is 0.
        u: Probabilities in [0, 1), of the same size.

    Returns:
        float64; u is met to 1e-9 for shapes from 0.1 to 1e8. Of smaller shapes, numbers below
        1e-300 are not told apart.

    Example:
        >>> gamma_quantile(torch.tensor([1.0]), torch.tensor([0.5]))  # log 2
        tensor([0.6931], dtype=torch.float64)
    """
    k = torch.where(shape > 0, shape, 1.0).double()
    u = u.double().clamp(_TINY, 1 - 2**-53)
    cube = 1 - 1 / (9 * k) + torch.special.ndtri(u) / (3 * k.sqrt())
    power = torch.exp((u.log() + torch.lgamma(k + 1)) / k)
    x = torch.where((k < 1) | (cube < 0.3), power, k * cube.clamp(min=0.3) ** 3)
    # Where the leading power is too long, the tail is exponential.
    x = torch.where((k < 1) & (u > 0.6), 1 - torch.log1p(-(u - 0.6) / 0.4), x)
    x = x.clamp(min=_TINY)
    for _ in range(_ROUNDS):
        step = (torch.special.gammainc(k, x) - u) / _density(k, x)
        bend = (step * ((k - 1) / x - 1)).clamp(max=1.0)
        x = torch.maximum(x - step / (1 - 0.5 * bend), 0.1 * x)
    return torch.where(shape > 0, x, 0.0)


def _density(k: Tensor, x: Tensor) -> Tensor:
    return torch.exp((k - 1) * x.log() - x - torch.lgamma(k)).clamp(min=_TINY)


def _expanded(k: Tensor, z: Tensor) -> Tensor:
    """Cornish and Fisher's g."""
    root = k.sqrt()
    return k + root * z + (z * z - 1) / 3 + (z**3 - 7 * z) / (36 * root)


def _score(k: Tensor, g: Tensor) -> Tensor:
    """The z of its g, by iteration."""
    root = k.sqrt()
    z = (g - k) / root
    for _ in range(4):
        z = (g - k - (z * z - 1) / 3 - (z**3 - 7 * z) / (36 * root)) / root
    return z


def rate(k: Tensor, g: Tensor) -> Tensor:
    """D(k, g).

    Arguments:
        k: Shapes, positive.
        g: Numbers, positive, of the same size.
    """
    small = k.clamp(max=_LARGE)
    x = g.clamp(min=_TINY)
    h = 1e-4 * torch.minimum(small, small.sqrt())
    shapes, twice = torch.stack([small + h, small - h]), x.expand(2, *x.shape)
    above, below = (f(shapes, twice) for f in (torch.special.gammaincc, torch.special.gammainc))
    fall = torch.where(x > small, above[0] - above[1], below[1] - below[0])
    exact = (fall / (2 * h) / _density(small, x)).clamp(min=_TINY)
    large = k.clamp(min=_LARGE)
    z = _score(large, g)
    expanded = 1 + z / (2 * large.sqrt()) - (z**3 - 7 * z) / (72 * large**1.5)
    return torch.where(k > _LARGE, expanded, exact)


def rate_inverse(k: Tensor, speed: Tensor) -> Tensor:
    """The g with D(k, g) = speed: Newton's method for log D in log g.

    Arguments:
        k: Shapes, positive.
        speed: What D is to be, of the same size; what is not positive has a g near 0.
    """
    small, aim = k.clamp(max=_LARGE), speed.clamp(min=1e-12)
    z = (2 * small.sqrt() * (aim - 1)).clamp(-4, 4)
    x = torch.maximum(_expanded(small, z), 0.05 * small)
    for _ in range(_ROUNDS):
        now = rate(small, x)
        slope = torch.special.digamma(small) - x.log() - now * ((small - 1) / x - 1)
        move = (aim / now).log() * now / (x * slope).clamp(min=1e-12)
        x = x * torch.exp(move.clamp(-9, 2))
        x = x.clamp(min=_TINY)
    large = k.clamp(min=_LARGE)
    first = 2 * large.sqrt() * (speed - 1)
    second = first + (first**3 - 7 * first) / (36 * large)
    return torch.where(k > _LARGE, _expanded(large, second), x)


def reshaped(far: Tensor, near: Tensor, g: Tensor) -> Tensor:
    """Where the increasing map takes numbers of Gamma(far): to Gamma(near).

    Arguments:
        far: Shapes that they have, at least 0; of 0 the median is taken.
        near: Shapes that they get, at least 0.
        g: The numbers, of the same size.
    """
    known = far > 0
    shape, x = torch.where(known, far, 1.0), g.clamp(min=_TINY)
    below, above = torch.special.gammainc(shape, x), torch.special.gammaincc(shape, x)
    u = torch.where(known, torch.where(x > shape, 1 - above, below), 0.5)
    exact = gamma_quantile(near, u)
    z = torch.where(known, _score(shape.clamp(min=_LARGE), g), 0.0)
    both = (shape > _LARGE) & (near > _LARGE)
    moved = torch.where(both, _expanded(near.clamp(min=_LARGE), z), exact)
    return torch.where(far == near, g, moved)
