r"""The heat kernel of S^2 at the cost of a few polynomials.

The general kernel of `structdiff.spaces.sphere_kernel` integrates along a curve. Here functions of
the angle and the time that are smooth up to their ends are taken out of it and fitted once. With
v = 1 - exp(-tau), rho = 1 / v - 1 (1 / tau - 1 / 2 + ... for small tau, 0 in the end), a the
smaller of theta and pi - theta, and x = a^2,

    2 pi v K = exp(-rho x / 2) A(x, v)                               for theta up to pi / 2,
    2 pi v K = v^{-1/2} exp(-rho (pi^2 + x) / 2)
               (I_0(z) A(x, v) + kappa x I_1(z) / z B(x, v)),
               kappa = pi rho, z = kappa a                           beyond.

In front A is the correction to the flat kernel, (theta / sin theta)^{1/2} for small tau. Behind,
the shortest ways round either side of the sphere join at the antipode as Bessel functions do, and
A and B are what is smooth there. For tau to infinity A is 1/2 and B is 0, so A = 1/2 + (1 - v) P
and B = (1 - v) Q; P and Q are polynomials of degree 9 in x and 19 in v that minimise the squared
relative errors of K and of its slope against the general kernel, and these fade with the slope
itself. With kappa = 0 in front, both halves have one formula:

    d log K / dx = (kappa (kappa h A + B) / 2 + A' + kappa x h B') / (A + kappa x h B) - rho / 2,

with h = I_1(z) / (z I_0(z)), for which a rational function of (z - 4) / (z + 4) is fitted, right
to 1.3e-10 (`_TOP` and `_BOTTOM`: least squares at 500 Chebyshev nodes, weighted by the last
denominator and iterated).

For all theta and tau from 1e-6 upwards, float64 gives log K to 1e-9 max(1, |log K|) and its
derivative in theta to 1e-9 max(|derivative|, 1 / sqrt(tau)), and float32 gives 1e-5. The sphere
takes float32 points here; for float64 ones the general kernel keeps four more digits.
On a CPU rows are taken in blocks that stay in its cache.

References:
    Asymptotic Approximations of Integrals (Wong, 1989), chapter VII, for uniform expansions.
    https://doi.org/10.1137/1.9780898719260
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from structdiff.spaces.sphere_kernel import Angle, kernel_of
from structdiff.spaces.turns import choose, horner, mask_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Clock", "blocks", "log_kernel", "slope", "table"]

_POWERS = 10
_TIMES = 20
_SMALL = 1e-3
_FEW = 0.1
_BLOCK = 1 << 13
_END = math.pi**2 / 4


class Clock(NamedTuple):
    """What depends on the time alone."""

    v: Tensor
    rho: Tensor
    rows: Tensor  # coefficients of A in front, A and B behind, `(3, powers, *tau.shape)`


def blocks(rows: int, tau: Tensor) -> tuple[int, Iterator[Clock]]:
    """How many rows a block has, and what the time gives for each, tau being `()` or `(rows,)`."""
    size = _BLOCK if tau.device.type == "cpu" else max(rows, 1)
    if tau.ndim == 0:
        return size, repeat(_clock(tau), max(math.ceil(rows / size), 1))
    return size, map(_clock, torch.split(tau, size))


def log_kernel(angle: Angle, clock: Clock) -> Tensor:
    """log K."""
    x, _ = _arc(angle.gap)
    kappa = math.pi * clock.rho * angle.behind
    y = kappa.square() * x
    lift, flat = _bessel(y)
    a, b = _value(x, _near(clock, angle.behind)), _value(x, clock.rows[2])
    value = flat * torch.addcmul(a, kappa * x * _share(y), b)
    late = angle.behind * (clock.v.log() + math.pi**2 * clock.rho) + clock.rho * x
    return value.log() + lift - late / 2 - (2 * math.pi * clock.v).log()


def slope(angle: Angle, clock: Clock) -> Tensor:
    """The derivative of log K in cos(theta)."""
    x, factor = _arc(angle.gap)
    kappa = math.pi * clock.rho * angle.behind
    h = kappa * _share(kappa.square() * x)
    (a, a_slope), (b, b_slope) = _both(x, _near(clock, angle.behind)), _both(x, clock.rows[2])
    rise = kappa * torch.addcmul(b, h, a) + 2 * torch.addcmul(a_slope, x * h, b_slope)
    rise = rise / torch.addcmul(a, x * h, b) - clock.rho
    return (2 * angle.behind - 1) * factor * rise


def _arc(gap: Tensor) -> tuple[Tensor, Tensor]:
    """Of 1 - cos(a), a^2 and a / sin(a)."""
    square = gap * (2 - gap)
    small = mask_of(_SMALL - square)
    sine = choose(small, torch.ones_like(square), square).sqrt()
    factor = choose(small, horner(square, _ARCSINE), torch.atan2(sine, 1 - gap) / sine)
    return factor.square() * square, factor


def _bessel(y: Tensor) -> tuple[Tensor, Tensor]:
    """A number l and I_0(z) exp(-l), of y = z^2."""
    z, few, low = _root(y)
    return z * (1 - few), choose(few, horner(low, _EVEN), torch.special.i0e(z))


def _share(y: Tensor) -> Tensor:
    """h of y = z^2."""
    z, few, low = _root(y)
    t = (z - 4) / (z + 4)
    top, bottom = (torch.tensor(c, dtype=y.dtype, device=y.device) for c in (_TOP, _BOTTOM))
    far = _value(t, top) / (_value(t, bottom) * (1 + z))
    return choose(few, horner(low, _ODD) / horner(low, _EVEN), far)


def _root(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The root of y, 1 where y is small and the root another number, and y where it is small."""
    raised = y.clamp(min=_FEW)
    return raised.sqrt(), mask_of(raised - y), y.clamp(max=_FEW)


_ARCSINE = [math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in range(5)]
_EVEN = [1 / (4**n * math.factorial(n) ** 2) for n in range(6)]
_ODD = [0.5 / (4**n * math.factorial(n) * math.factorial(n + 1)) for n in range(6)]
_TOP = [
    1.0794032638692352,
    -1.1243790718396751,
    3.9394642288599315,
    -1.142969056578629,
    4.513874549983581,
    1.458789129562769,
    1.9937186134883442,
    1.797424269707167,
    0.2529823853107158,
    0.29609559962344034,
    0.003343206189782488,
]
_BOTTOM = [
    1.0,
    -0.997864538948894,
    3.80911338733426,
    -1.566712260579059,
    5.860533053663676,
    -0.9891402891120854,
    4.863606514282709,
    -0.37637589665882765,
    1.4425703147378108,
    -0.03385883158277733,
    0.05587566644653579,
]


# Polynomials in x whose coefficients depend on the time.


def _clock(tau: Tensor) -> Clock:
    rest, v = torch.exp(-tau), -torch.expm1(-tau)
    late = 1 - 2 * rest
    times = [torch.ones_like(v), late]
    for _ in range(_TIMES - 2):
        times.append(torch.addcmul(-times[-2], 2 * late, times[-1]))
    rows = torch.from_numpy(table()).to(tau) @ (rest * torch.stack(times))
    return Clock(v, rest / v, rows.reshape(3, _POWERS, *tau.shape))


def _near(clock: Clock, behind: Tensor) -> list[Tensor]:
    """The coefficients of A in each row's half."""
    halves = zip(clock.rows[0].unbind(0), clock.rows[1].unbind(0), strict=True)
    first, *others = (torch.addcmul(front, behind, back - front) for front, back in halves)
    return [first + 0.5, *others]


def _value(x: Tensor, coefficients: list[Tensor] | Tensor) -> Tensor:
    """The polynomial with the given coefficients, lowest first."""
    *rest, value = coefficients
    for c in reversed(rest):
        value = torch.addcmul(c, value, x)
    return value


def _both(x: Tensor, coefficients: list[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """The polynomial and its derivative."""
    *rest, value = coefficients
    change = torch.zeros_like(value)
    for c in reversed(rest):
        change = torch.addcmul(value, change, x)
        value = torch.addcmul(c, value, x)
    return value, change


# The fit.


@lru_cache(maxsize=1)
def table() -> np.ndarray:
    """The coefficients, `(3 powers, times)`: monomials in x, Chebyshev's in 2 v - 1."""
    share, v = (a.ravel() for a in np.meshgrid(_ends(28), _ends(36), indexing="ij"))
    v = v.clip(1e-7, 1 - 1e-12)
    share = share * (share + v) / (1 + v)  # dense where z is near 1
    solved = [_fit(share, v, behind=False), _fit(share, v, behind=True)]
    return np.ascontiguousarray(np.concatenate(solved))


class Sample(NamedTuple):
    """The kernel at points behind or in front; with these D = A even + x B odd = 1, if exact."""

    x: np.ndarray
    kappa: np.ndarray
    even: np.ndarray
    odd: np.ndarray
    steep: np.ndarray  # 2 D' / D
    weight: np.ndarray  # of an error of `steep`


def _sample(x: np.ndarray, v: np.ndarray, *, behind: bool) -> Sample:
    rho, tau = (1 - v) / v, torch.from_numpy(-np.log1p(-v))
    kappa = math.pi * rho * behind
    gap = 2 * np.sin(np.sqrt(x) / 2) ** 2
    there = torch.from_numpy(gap)
    log_k, rise = (a.numpy() for a in kernel_of(2, Angle(there, 0 * there + behind), tau))
    y = torch.from_numpy(kappa**2 * x)
    lift, flat = (a.numpy() for a in _bessel(y))
    late = behind * (np.log(v) + math.pi**2 * rho) + rho * x
    even = flat * np.exp(lift - late / 2 - log_k) / (2 * math.pi * v)
    score = np.abs(rise) * np.sqrt(gap * (2 - gap))
    steep = rho + (2 * behind - 1) * rise / _arc(there)[1].numpy()
    weight = np.sqrt(x) / np.maximum(score, tau.numpy() ** -0.5)
    return Sample(x, kappa, even, even * kappa * _share(y).numpy(), steep, weight)


def _fit(share: np.ndarray, v: np.ndarray, *, behind: bool) -> np.ndarray:
    """Least squares of the relative errors of K and of its slope."""
    x, kappa, even, odd, steep, weight = _sample(_END * share**2, v, behind=behind)
    times = np.polynomial.chebyshev.chebvander(2 * v - 1, _TIMES - 1) * (1 - v)[:, None]
    powers = np.vander(share**2, _POWERS, increasing=True)
    change = np.zeros_like(powers)
    change[:, 1:] = powers[:, :-1] * np.arange(1, _POWERS) / _END

    def terms(here: np.ndarray, slope: np.ndarray) -> np.ndarray:
        mixed = here[:, None] * powers + slope[:, None] * change
        return np.asarray((mixed[:, :, None] * times[:, None, :]).reshape(len(v), -1))

    a_bend = weight * (kappa * odd - steep * even)
    b_bend = weight * (kappa * even - steep * x * odd)
    values = [terms(even, 0 * x), terms(x * odd, 0 * x)]
    bends = [terms(a_bend, 2 * weight * even), terms(b_bend, 2 * weight * x * odd)]
    matrix = np.block([values, bends])[:, : (1 + behind) * _POWERS * _TIMES]
    right = np.concatenate([1 - even / 2, -a_bend / 2])
    solved = np.linalg.lstsq(matrix, right, rcond=1e-11)[0].reshape(-1, _POWERS, _TIMES)
    return np.asarray(solved / _END ** np.arange(_POWERS)[:, None]).reshape(-1, _TIMES)


def _ends(count: int) -> np.ndarray:
    """Chebyshev's points of [0, 1] with both ends."""
    return np.asarray((1 - np.cos(math.pi * np.arange(count) / (count - 1))) / 2)
