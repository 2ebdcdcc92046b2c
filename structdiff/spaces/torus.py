r"""The flat torus T^d.

A point is d angles in [-pi, pi) radians, a tangent vector d numbers in the same coordinates, so
exp is addition and log subtraction, both modulo 2 pi. The heat kernel (generator Laplacian / 2, so
tau is the variance per coordinate) is a product over coordinates of the wrapped normal of the
angle a from x to y,

    k(a) = (2 pi tau)^{-1/2} sum_k exp(-(a + 2 pi k)^2 / (2 tau))                              (1)
         = (1 + 2 sum_{n >= 1} exp(-n^2 tau / 2) cos(n a)) / (2 pi).                           (2)

The terms of (2) cancel in the tail of small tau. For |a| <= pi the four nearest images of (1) are
exact to rounding where tau <= 3/2, and seven terms of (2) where tau >= 3/2.

References:
    Directional Statistics (Mardia and Jupp, 2000), section 3.5.7.
    https://doi.org/10.1002/9780470316979
    Torsional Diffusion for Molecular Conformer Generation (Jing et al., 2022).
    https://arxiv.org/abs/2206.01729
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from structdiff.spaces.base import (
    Belonging,
    Framed,
    HeatKernel,
    Isometry,
    check_points,
    judge,
)
from structdiff.spaces.turns import across

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["Torus"]

_SWITCH = 1.5
_DEGREE = 7
_GRID = 128
# pi less its nearest number of the dtype.
_BELOW_PI = {
    dtype: float(torch.nextafter(torch.tensor(math.pi, dtype=dtype), torch.zeros((), dtype=dtype)))
    for dtype in (torch.float32, torch.float64)
}
_REST_OF_PI = {torch.float32: -8.742278000372475e-08, torch.float64: 1.2246467991473532e-16}


class Torus(Framed, HeatKernel):
    """`dimensions` angles, `(rows, dimensions)`.

    Opposite angles are joined by two shortest tangent vectors; `log` returns -pi.

    Arguments:
        dimensions: Number of angles, at least 1.

    Raises:
        ValueError: If there is no angle.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space = Torus(2)
        >>> x = torch.tensor([[3.0, 0.5]])
        >>> y = space.exp(x, torch.tensor([[1.0, 1.0]]))
        >>> y
        tensor([[-2.2832,  1.5000]])
        >>> space.log(x, y)
        tensor([[1.0000, 1.0000]])
    """

    def __init__(self, dimensions: int) -> None:
        if dimensions < 1:
            message = f"dimensions is {dimensions}, must be at least 1: give the number of angles"
            raise ValueError(message)
        self.point = (dimensions,)
        self.tangent = (dimensions,)
        self.dimension = dimensions
        self.injectivity = math.pi

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The angles x + v modulo 2 pi."""
        return _wrap(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The differences y - x modulo 2 pi, in [-pi, pi)."""
        return _wrap(y - x)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` itself: the torus is flat."""
        del x, y
        return v

    def project(self, x: Tensor) -> Tensor:
        """The angles modulo 2 pi."""
        return _wrap(x)

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """Zero: the torus is flat."""
        del x
        return v.new_zeros(len(v))

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """All angles zero."""
        return torch.zeros(self.point, dtype=dtype, device=device)

    def features(self, x: Tensor) -> Tensor:
        """Cosines, then sines."""
        return torch.cat([torch.cos(x), torch.sin(x)], -1)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Angles are in [-pi, pi]."""
        check_points(self, x)
        off = (x.abs() - math.pi).clamp(min=0).amax(-1)
        return judge(off, tolerance, "an angle is beyond [-pi, pi] by", "wrap angles by project")

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """Angles turned, and turned about."""
        shift = 2 * math.pi * random.uniform((1, self.dimension), dtype, device)
        sign = random.normal((1, self.dimension), dtype, device).sign()
        return lambda x: _wrap(sign * x + shift)

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Independent uniform angles."""
        share = random.uniform((rows, self.dimension), dtype, device)
        return _wrap(2 * math.pi * share - math.pi)

    @property
    def log_volume(self) -> float:
        """The logarithm of (2 pi)^d."""
        return self.dimension * math.log(2 * math.pi)

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """The angles x + sqrt(tau) z modulo 2 pi; differentiable in `x` and in `tau`."""
        t = tau.to(x)[..., None]
        positive = t > 0
        spread = torch.where(positive, t, 1.0).sqrt() * positive
        return _wrap(x + spread * self.noise(x, random))

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Sum over coordinates of the logarithm of (1) or (2)."""
        a = across(self.log(x, y))
        return _log_density(a, tau.to(x)).sum(0) - self.log_volume

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Derivative of the logarithm of (1) or (2) in each coordinate."""
        a = across(self.log(x, y))
        return across(_score(a, tau.to(x)))

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """The number of angles times the integral of k log(2 pi k), by the midpoint rule.

        The integrand is periodic, and even about 0 and pi, so the rule converges exponentially.
        """
        t = tau.double()[..., None]
        end = (12 * t.sqrt()).clamp(max=math.pi)
        node = (torch.arange(_GRID, dtype=t.dtype, device=t.device) + 0.5) / _GRID
        log_f = _log_density(end * node, t)
        gap = (log_f.exp() * log_f).mean(-1) * end[..., 0] / math.pi
        return (self.dimension * gap).to(tau.dtype)


def _wrap(a: Tensor) -> Tensor:
    """`a` modulo 2 pi in [-pi, pi), unchanged where it is there already."""
    turns = a.detach().add(math.pi).mul_(1 / (2 * math.pi)).floor_()
    a = torch.add(a, turns, alpha=-2 * math.pi)
    # Rounding leaves numbers one rounding beyond the ends; mended unseen by autograd, of slope 1.
    a.detach().clamp_(-math.pi, _BELOW_PI.get(a.dtype, math.pi))
    return a


def _mask(x: Tensor) -> Tensor:
    """1 where `x` is positive, else 0."""
    return x.detach().sign().clamp(min=0)


def _choose(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `mask` is 1, `b` where it is 0; many times faster than `where` on a CPU."""
    return torch.lerp(b, a, mask)


# Angles are `(dimensions, rows)` below: so times broadcast over contiguous memory.


def _log_density(a: Tensor, tau: Tensor) -> Tensor:
    """The logarithm of 2 pi k."""
    excess, _ = _series(a, tau.clamp(min=_SWITCH))
    images = _images(a, tau.clamp(max=_SWITCH))
    return _choose(_mask(tau - _SWITCH), torch.log1p(excess), images)


def _score(a: Tensor, tau: Tensor) -> Tensor:
    """The derivative of log k."""
    excess, slope = _series(a, tau.clamp(min=_SWITCH))
    images = _images_slope(a, tau.clamp(max=_SWITCH))
    return _choose(_mask(tau - _SWITCH), slope / (1 + excess), images)


def _series(a: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """By (2), 2 pi k - 1 and its derivative, by Clenshaw's recurrence."""
    twice = 2 * torch.cos(a)
    base = torch.exp(-tau / 2)
    weights = [2 * base ** (n * n) for n in range(1, _DEGREE + 1)]
    last = high = slope = high_slope = torch.zeros_like(a)
    for n in range(_DEGREE, 0, -1):
        weight = weights[n - 1]
        slope, high_slope = torch.addcmul(n * weight - high_slope, twice, slope), slope
        last, high = torch.addcmul(weight - high, twice, last), last
    return last * twice / 2 - high, -torch.sin(a) * slope


def _fold(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sign of `a`, |a| and pi - |a|; smooth at 0 in even functions, unlike `abs`."""
    sign = torch.ones_like(a).copysign(a.detach())
    length = sign * a
    return sign, length, (math.pi - length) + _REST_OF_PI.get(a.dtype, 0.0)


def _decay(exponent: Tensor) -> Tensor:
    """exp(-exponent), not below 2e-35: subnormal numbers are slow and nothing depends on them."""
    return torch.exp(-exponent.clamp(max=80))


def _far(length: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Weights, against the nearest image, of the ones at |a| + 2 pi and |a| - 4 pi."""
    rate = 2 * math.pi / tau
    return _decay(rate * (math.pi + length)), _decay(2 * rate * (2 * math.pi - length))


def _images(a: Tensor, tau: Tensor) -> Tensor:
    """The logarithm of 2 pi k by (1)."""
    _, length, rest = _fold(a)
    behind, second = _far(length, tau)
    odds = -2 * math.pi / tau * rest
    share = (behind + second) * torch.sigmoid(-odds)
    bell = 0.5 * (math.log(2 * math.pi) - tau.log()) - length.square() / (2 * tau)
    return bell + softplus(odds) + torch.log1p(share)


def _images_slope(a: Tensor, tau: Tensor) -> Tensor:
    """The derivative of log k by (1): one form up to a quarter turn, one beyond it."""
    sign, length, rest = _fold(a)
    behind, second = _far(length, tau)
    rate = 2 * math.pi / tau
    near = _decay(rate * rest.clamp(min=0))
    total = 1 + near + behind + second
    ahead = -near * torch.expm1(-2 * rate * length) + 2 * second
    low = length - 2 * math.pi * ahead / total
    # Around pi the two nearest images cancel: in the supplement they do so before rounding.
    pair = 3 * math.pi * (behind - second) - rest * (behind + second)
    mean = (math.pi * torch.tanh(rate * rest / 2) - rest) * (1 + near)
    high = (mean + pair) / total
    return -sign / tau * _choose(_mask(length - math.pi / 2), high, low)
