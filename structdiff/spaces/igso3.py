r"""IGSO(3): the heat kernel of the rotation group, its score and its draw.

The two forms (1) and (2) are derived at the head of `structdiff.spaces.so3`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from structdiff.spaces.turns import Turn, choose, dot, horner, mask_of, vector

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["draw", "log_density", "score_over_sine"]

_SWITCH = 1.0
_DEGREE = 8


def log_density(turn: Turn, tau: Tensor) -> Tensor:
    """The logarithm of f."""
    excess, _ = _series(turn, tau.clamp(min=_SWITCH))
    dual = _dual(turn, tau.clamp(max=_SWITCH))
    return choose(mask_of(tau - _SWITCH), torch.log1p(excess), dual)


def score_over_sine(turn: Turn, tau: Tensor) -> Tensor:
    """The derivative of log f over sin(w / 2), which is smooth at 0."""
    excess, slope = _series(turn, tau.clamp(min=_SWITCH))
    series = -2 * turn.cosine * slope / (1 + excess)
    dual = _dual_slope(turn, tau.clamp(max=_SWITCH))
    return choose(mask_of(tau - _SWITCH), series, dual)


def _weights(tau: Tensor) -> list[Tensor]:
    """(2 l + 1) exp(-l (l + 1) tau / 2), l = 1 to the last."""
    base = power = decay = torch.exp(-tau)
    weights = [3 * decay]
    for degree in range(2, _DEGREE + 1):
        power = power * base
        decay = decay * power
        weights.append((2 * degree + 1) * decay)
    return weights


def _series(turn: Turn, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Of (1), f - 1 and its derivative in cos w, by Clenshaw's recurrence."""
    twice = 2 - 4 * turn.sine2
    high = last = slope = high_slope = torch.zeros_like(twice)
    for weight in reversed(_weights(tau)):
        slope, high_slope = torch.addcmul(2 * last - high_slope, twice, slope), slope
        last, high = torch.addcmul(weight - high, twice, last), last
    slope, high_slope = torch.addcmul(2 * last - high_slope, twice, slope), slope
    return torch.addcmul(last - high, twice, last), slope + high_slope


def _images(turn: Turn, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The angle's supplement and the weights of the images k = 1 and k = -1 against k = 0."""
    rest = 2 * torch.atan2(turn.cosine, turn.sine)
    rate = 2 * math.pi / tau
    return rest, _decay(rate * rest), _decay(rate * (math.pi + turn.angle))


def _decay(exponent: Tensor) -> Tensor:
    """exp(-exponent), not below 2e-35: subnormal numbers are slow and nothing depends on them."""
    return torch.exp(-exponent.clamp(max=80))


def _small_images(turn: Turn, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Relative share r of the images where the angle is small, and r' / w.

    r = Q (-2 cosh a + (8 pi^2 / tau) sinh(a) / a), Q = exp(-2 pi^2 / tau), a = 2 pi w / tau. Below
    tau = 1/4 it is lost in rounding, and the bound keeps a finite.
    """
    tau = tau.clamp(min=0.25)
    rate2 = (2 * math.pi / tau).square()
    a2 = rate2 * turn.factor.square() * turn.sine2
    weight, gain = torch.exp(-2 * math.pi**2 / tau), 8 * math.pi**2 / tau
    share = weight * (gain * horner(a2, _SINHC) - 2 * horner(a2, _COSH))
    slope = weight * rate2 * (gain * horner(a2, _SINHC_SLOPE) - 2 * horner(a2, _SINHC))
    return share, slope


_COSH = [1 / math.factorial(2 * n) for n in range(5)]
_SINHC = [1 / math.factorial(2 * n + 1) for n in range(5)]
_SINHC_SLOPE = [2 * n / math.factorial(2 * n + 1) for n in range(1, 6)]


def _dual(turn: Turn, tau: Tensor) -> Tensor:
    """The logarithm of f by (2)."""
    _, near, far = _images(turn, tau)
    share = 2 * math.pi * (near - far) / turn.angle - (near + far)
    share = choose(turn.small, _small_images(turn, tau)[0], share)
    square = turn.factor.square() * turn.sine2
    constant = tau / 8 + 0.5 * math.log(2 * math.pi) - 1.5 * tau.log()
    return constant - square / (2 * tau) + turn.factor.log() + torch.log1p(share)


def _dual_slope(turn: Turn, tau: Tensor) -> Tensor:
    """`score_over_sine` by (2): one form to a quarter turn, one beyond it, a series at 0."""
    rest, near, far = _images(turn, tau)
    w, cotangent = turn.angle, turn.cosine / turn.sine
    rate = 2 * math.pi / tau
    sum_, difference = near + far, near - far
    share = 2 * math.pi * difference / w - sum_
    share_slope = 2 * math.pi * (rate * sum_ - difference / w) / w - rate * difference
    low = 1 / w - w / tau - cotangent / 2 + share_slope / (1 + share)
    # Around pi the terms k = 0 and 1 cancel: in the supplement they do so before rounding.
    gone = -torch.expm1(-rate * rest)
    top = gone * (1 - (math.pi**2 + rest * rest) / tau) + rate * rest * (1 + near)
    top = top + far * ((2 * math.pi + w).square() / tau - 1)
    high = top / (w * (1 + share)) - cotangent / 2
    slope = choose(mask_of(turn.sine2 - 0.5), high, low) / turn.sine
    return choose(turn.small, _small_slope(turn, tau), slope)


def _small_slope(turn: Turn, tau: Tensor) -> Tensor:
    """`score_over_sine` by (2) where the angle is small."""
    share, share_slope = _small_images(turn, tau)
    square = turn.factor.square() * turn.sine2
    bend = horner(square, [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600])
    return turn.factor * (bend - 1 / tau + share_slope / (1 + share))


# The draw. Solving F(w) = u for the angle needs a start close to the root: a normal vector for
# small tau (the law of its length is Maxwell's) and an angular central Gaussian quaternion for
# large tau. Both come from the four normal numbers whose last three give the axis.


def draw(z: Tensor, tau: Tensor) -> Tensor:
    """A tangent vector from four standard normal numbers, `(rows, 4)`."""
    real, *rest = z.t().contiguous().unbind(0)
    length = (dot(rest, rest) + torch.finfo(z.dtype).tiny).sqrt()
    short = _radius(length, tau.clamp(max=_SWITCH))
    positive = tau > 0
    spread = torch.where(positive, tau, 1.0).sqrt() * positive
    wide = _angle(length, real.abs(), tau.clamp(min=_SWITCH))
    angle = choose(mask_of(tau - _SWITCH), wide, spread * short)
    return vector(angle / length, (rest[0], rest[1], rest[2]))


def _radius(length: Tensor, tau: Tensor) -> Tensor:
    r"""The m = w / sqrt(tau) whose rank under (2) is that of `length` under Maxwell's law.

    The term k = 0 of (2) has, for w up to 2 pi, where k = 1 is counted too, the law

        F(m) = erf(m / sqrt(2)) - sqrt(2 / pi) exp(-m^2 / 2) sum_j E_j m^{2j+1} / (2j+1)!!,
        E_j = exp(y) sum_{n >= j} (-y)^n / n!,  y = tau / 8,

    of which j = 0 is Maxwell's. What is left out, k = -1, weighs 3e-9 at tau = 1 and falls as
    exp(-2 pi^2 / tau).
    """
    terms = _corrections(tau / 8)
    target = _maxwell(length)
    half = tau.clamp(min=1e-12).sqrt() / 2
    rise = torch.exp(tau / 8) / half

    def improve(m: Tensor) -> Tensor:
        bell = math.sqrt(2 / math.pi) * torch.exp(-m * m / 2)
        law = _maxwell(m) - bell * m * _polynomial(m * m, terms)
        density = bell * rise * m * torch.sin(half * m)
        return m - (law - target) / (density + torch.finfo(m.dtype).tiny)

    return _newton(improve, length / (1 + tau / 12).sqrt(), 4)


def _angle(length: Tensor, real: Tensor, tau: Tensor) -> Tensor:
    """The w whose rank under (1) is the Haar measure's rank of the quaternion `(real, length)`.

    The start matches an angular central Gaussian to f(0) / f(pi).
    """
    weights = _weights(tau)
    peak = 1 + sum(((2 * n + 3) * a for n, a in enumerate(weights)), start=0 * tau)
    trough = 1 + sum(((-1) ** (n + 1) * a for n, a in enumerate(weights)), start=0 * tau)
    target = _haar(2 * torch.atan2(length, real))
    steps = [(a - b) / (n + 1) for n, (a, b) in enumerate(_neighbours(weights))]

    def improve(w: Tensor) -> Tensor:
        cosine, sine = torch.cos(w), torch.sin(w)
        law = _haar(w) + sine * _clenshaw(2 * cosine, steps)[0] / math.pi
        first, second = _clenshaw(2 * cosine, weights)
        density = (1 - cosine) * (1 + first + 2 * cosine * first - second) / math.pi
        return (w - (law - target) / (density + torch.finfo(w.dtype).tiny)).clamp(0, math.pi)

    return _newton(improve, 2 * torch.atan2(length, real * (peak / trough) ** 0.25), 5)


def _newton(improve: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Newton's method; the last step alone carries the exact gradient in the parameters."""
    with torch.no_grad():
        for _ in range(steps - 1):
            start = improve(start)
    return improve(start)


def _maxwell(m: Tensor) -> Tensor:
    """Distribution function of the length of a standard normal vector."""
    return torch.erf(m / math.sqrt(2)) - math.sqrt(2 / math.pi) * m * torch.exp(-m * m / 2)


def _haar(w: Tensor) -> Tensor:
    """Distribution function of the angle of a uniform rotation."""
    return (w - torch.sin(w)) / math.pi


def _corrections(y: Tensor) -> list[Tensor]:
    """E_j / (2j+1)!!, j = 1 to 10."""
    terms = [torch.exp(y)]
    for n in range(1, 11):
        terms.append(terms[-1] * y * (-1 / n))
    total, tails = torch.zeros_like(y), []
    for j in range(10, 0, -1):
        total = total + terms[j]
        tails.append(total / math.prod(range(1, 2 * j + 2, 2)))
    return tails[::-1]


def _polynomial(x: Tensor, coefficients: list[Tensor]) -> Tensor:
    """The polynomial without constant with the given coefficients, lowest first."""
    value = torch.zeros_like(x)
    for a in reversed(coefficients):
        value = (value + a) * x
    return value


def _neighbours(weights: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each weight and the one before it, with a zero at either end."""
    zero = torch.zeros_like(weights[0])
    return list(zip([*weights, zero], [zero, *weights], strict=True))


def _clenshaw(twice: Tensor, coefficients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The last two values b_1, b_2 of b_l = a_l + 2 cos(w) b_{l+1} - b_{l+2}."""
    last = high = torch.zeros_like(twice)
    for a in reversed(coefficients):
        last, high = torch.addcmul(a - high, twice, last), last
    return last, high
