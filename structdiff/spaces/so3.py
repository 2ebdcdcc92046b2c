r"""The rotation group SO(3).

A point is a rotation matrix, a tangent vector v in R^3 the velocity in the body frame:
exp(x, v) = x expm([v]_x), where [v]_x u is the vector product of v and u. The length of a geodesic
is its angle, the volume is 8 pi^2, the eigenvalues of the Laplacian are -l (l + 1). With
q = (cos(w / 2), sin(w / 2) n), w in [0, pi], the unit quaternion of x^T y:

    log(x, y) = w n,
    transport of v from x to y = v rotated by -log(x, y) / 2,

the latter since nabla_X Y = [X, Y] / 2 for left-invariant fields. The heat kernel (generator
Laplacian / 2, so tau is the variance per coordinate) is f(w) / (8 pi^2),

    f(w) = sum_{l >= 0} (2 l + 1) exp(-l (l + 1) tau / 2) sin((l + 1/2) w) / sin(w / 2)         (1)
         = sqrt(2 pi) exp(tau / 8) / (tau^{3/2} sin(w / 2))
           sum_k (-1)^k (w - 2 pi k) exp(-(w - 2 pi k)^2 / (2 tau)).                            (2)

(2) is (1) after Poisson summation over the half-integers l + 1/2. The terms of (1) cancel in the
tail of small tau, those of (2) do not. (2) serves tau <= 1, where k = -1, 0, 1 are exact to
rounding, and (1) serves tau >= 1, where l <= 8 are. The literature also writes sigma^2 = tau and
sigma^2 = tau / 2: here the exponent is l (l + 1) tau / 2.

References:
    Normal distribution on the rotation group SO(3) (Nikolayev and Savyolova, 1997), for (1).
    https://doi.org/10.1155/TSM.29.201
    SE(3) diffusion model with application to protein backbone generation (Yim et al., 2023).
    https://arxiv.org/abs/2302.02277
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022).
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from structdiff.spaces.base import HeatKernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from structdiff.random import Randomness

__all__ = ["SO3"]

_SWITCH = 1.0
_DEGREE = 8
_SMALL = 1e-3
_GRID = 96

Triple = tuple[Tensor, Tensor, Tensor]
Entries = list[list[Tensor]]


class SO3(HeatKernel):
    """Rotations of space, `(rows, 3, 3)`, with tangent vectors `(rows, 3)` in the body frame.

    At a rotation by pi there are two shortest tangent vectors; `log` returns the one whose largest
    component (the first among equals) is positive.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space, x = SO3(), torch.eye(3)[None]
        >>> y = space.exp(x, torch.tensor([[0.0, 0.0, 1.0]]))
        >>> space.log(x, y)
        tensor([[0., 0., 1.]])
        >>> space.log_kernel(x, y, torch.tensor(0.5))
        tensor([-2.6126])
    """

    point = (3, 3)
    tangent = (3,)
    dimension = 3

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The rotation `x expm([v]_x)`."""
        turn = _matrix(*_half_turn(v))
        start = _entries(x)
        return _assemble([[_dot(row, _column(turn, j)) for j in range(3)] for row in start])

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The vector of angle times axis of `x^T y`; its length is at most pi."""
        turn = _relative(x, y)
        return _vector(turn.factor, turn.axis)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` turned by minus half of `log(x, y)`."""
        turn = _relative(x, y)
        (a, b, c), (p, q, r) = turn.axis, _components(v)
        along = (a * p + b * q + c * r) / (1 + turn.cosine)
        return _stack(
            turn.cosine * p + (c * q - b * r) + along * a,
            turn.cosine * q + (a * r - c * p) + along * b,
            turn.cosine * r + (b * p - a * q) + along * c,
        )

    def project(self, x: Tensor) -> Tensor:
        """The nearest rotation in the Frobenius norm, for any matrix where it is unique.

        References:
            Attitude determination using vector observations: a fast optimal matrix algorithm
            (Markley, 1993), equations 14 to 17.
            https://ntrs.nasa.gov/citations/19930015542
        """
        m = _entries(x)
        adjugate = [_cross(m[(i + 1) % 3], m[(i + 2) % 3]) for i in range(3)]
        det = _dot(m[0], adjugate[0])
        size = _dot(m[0], m[0]) + _dot(m[1], m[1]) + _dot(m[2], m[2])
        minors = sum((_dot(row, row) for row in adjugate), start=torch.zeros_like(det))
        top = _largest_root(size, det, minors)
        kappa = (top * top - size) / 2
        scale = 1 / (kappa * top - det)
        gram = [[_dot(m[i], m[j]) for j in range(3)] for i in range(3)]
        mended = [
            [
                ((kappa + size) * m[i][j] + top * adjugate[i][j] - _dot(gram[i], _column(m, j)))
                * scale
                for j in range(3)
            ]
            for i in range(3)
        ]
        return _assemble(mended)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """`v` itself: every vector of R^3 is a tangent vector."""
        del x
        return v

    def norm2(self, v: Tensor) -> Tensor:
        """The squared angle of `exp(x, v)`'s rotation, unwrapped."""
        return v.square().sum(-1)

    def noise(self, x: Tensor, random: Randomness) -> Tensor:
        """Standard normal coordinates."""
        return random.normal((len(x), 3), x.dtype, x.device)

    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Rotations of the Haar measure: a normal quaternion has a uniform direction."""
        z = random.normal((rows, 4), dtype, device)
        a, b, c, d = (z / z.norm(dim=-1, keepdim=True)).unbind(-1)
        return _assemble(_matrix(a, (b, c, d)))

    @property
    def log_volume(self) -> float:
        """log(8 pi^2)."""
        return math.log(8 * math.pi**2)

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """An exact draw: a normal quaternion's axis, its angle moved to the law of the kernel.

        Differentiable in `x` and in `tau`.
        """
        z = random.normal((len(x), 4), x.dtype, x.device)
        return self.exp(x, _draw(z.double(), tau.to(x.device, torch.float64)).to(x.dtype))

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Logarithm of (1) or (2), less the logarithm of the volume."""
        return _log_density(_relative(x, y), tau.to(x)) - self.log_volume

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """The derivative of `log f` in the angle, along the axis."""
        turn = _relative(x, y)
        return _vector(_score_over_sine(turn, tau.to(x)), turn.axis)

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """The integral of f log f against (1 - cos w) / pi, by the midpoint rule.

        The integrand is even about 0 and about pi, so the rule converges exponentially.
        """
        t = tau.double()[..., None]
        end = (12 * t.sqrt()).clamp(max=math.pi)
        node = (torch.arange(_GRID, dtype=t.dtype, device=t.device) + 0.5) / _GRID
        w = end * node
        sine, cosine = torch.sin(w / 2), torch.cos(w / 2)
        log_f = _log_density(_turn(cosine, (sine, 0 * w, 0 * w)), t)
        gap = (log_f.exp() * log_f * sine.square()).mean(-1) * end[..., 0] * (2 / math.pi)
        return gap.to(tau.dtype)


# Arithmetic on components. Each entry is a contiguous vector over rows: on small matrices this is
# several times faster than batched products, and autocast leaves it alone.


def _entries(x: Tensor) -> Entries:
    """The nine entries of `(rows, 3, 3)`."""
    parts = x.permute(1, 2, 0).contiguous().unbind(0)
    return [list(row.unbind(0)) for row in parts]


def _assemble(m: Entries) -> Tensor:
    """The inverse of `_entries`."""
    flat = torch.stack([entry for row in m for entry in row])
    return flat.reshape(3, 3, flat.shape[1]).permute(2, 0, 1).contiguous()


def _components(v: Tensor) -> Triple:
    """The three components of `(rows, 3)`."""
    a, b, c = v.t().contiguous().unbind(0)
    return a, b, c


def _stack(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The inverse of `_components`."""
    return torch.stack([a, b, c]).t().contiguous()


def _vector(scale: Tensor, v: Triple) -> Tensor:
    """`scale` times `v`, `(rows, 3)`."""
    return _stack(scale * v[0], scale * v[1], scale * v[2])


def _column(m: Entries, j: int) -> list[Tensor]:
    """Column `j`."""
    return [row[j] for row in m]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Inner product of two vectors."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def _cross(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    """Vector product."""
    pairs = ((1, 2), (2, 0), (0, 1))
    return [torch.addcmul(a[i] * b[j], a[j], b[i], value=-1) for i, j in pairs]


def _mask(x: Tensor) -> Tensor:
    """1 where `x` is positive, else 0."""
    return x.detach().sign().clamp(min=0)


def _choose(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where `mask` is 1, `b` where it is 0; many times faster than `where` on a CPU."""
    return torch.lerp(b, a, mask)


def _horner(x: Tensor, coefficients: list[float]) -> Tensor:
    """The polynomial with the given coefficients, lowest first."""
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


# Rotations and quaternions.


def _half_turn(v: Tensor) -> tuple[Tensor, Triple]:
    """The unit quaternion of the rotation by the vector `v`."""
    a, b, c = _components(v)
    square = a * a + b * b + c * c
    small = _mask(_SMALL - square)
    half = _choose(small, torch.ones_like(square), square).sqrt() / 2
    cosine = _choose(small, _horner(square, _COS_HALF), torch.cos(half))
    factor = _choose(small, _horner(square, _SINC_HALF), torch.sin(half) / (2 * half))
    return cosine, (factor * a, factor * b, factor * c)


_COS_HALF = [(-0.25) ** n / math.factorial(2 * n) for n in range(5)]
_SINC_HALF = [0.5 * (-0.25) ** n / math.factorial(2 * n + 1) for n in range(5)]


def _matrix(w: Tensor, axis: Triple) -> Entries:
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


class _Turn(NamedTuple):
    """A rotation by w in [0, pi]; what is singular at w = 0 is replaced where `small` is 1."""

    axis: Triple  # sin(w / 2) n
    cosine: Tensor  # cos(w / 2), not negative
    sine2: Tensor  # sin(w / 2)^2
    factor: Tensor  # w / sin(w / 2)
    small: Tensor
    sine: Tensor  # sin(w / 2), 1 where small
    angle: Tensor  # w, another number where small


def _turn(cosine: Tensor, axis: Triple) -> _Turn:
    """The angle of a unit quaternion with cosine >= 0."""
    x, y, z = axis
    sine2 = x * x + y * y + z * z
    small = _mask(_SMALL - sine2)
    sine = _choose(small, torch.ones_like(sine2), sine2).sqrt()
    angle = 2 * torch.atan2(sine, cosine)
    factor = _choose(small, _horner(sine2, _ARCSINE), angle / sine)
    return _Turn(axis, cosine, sine2, factor, small, sine, angle)


_ARCSINE = [2 * math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in range(6)]


def _relative(x: Tensor, y: Tensor) -> _Turn:
    """The rotation x^T y.

    Its quaternion is proportional to each row of the matrix 4 q q^T, which is linear in the
    rotation; the first row is taken where the angle is below 2 pi / 3, else the one with the
    largest diagonal entry.

    References:
        Quaternion from rotation matrix (Shepperd, 1978).
        https://doi.org/10.2514/3.55767b
    """
    a, b = _entries(x), _entries(y)
    r = [[_dot(_column(a, i), _column(b, j)) for j in range(3)] for i in range(3)]
    sx, sy, sz = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    xy, xz, yz = r[0][1] + r[1][0], r[0][2] + r[2][0], r[1][2] + r[2][1]
    plus, minus = r[0][0] + r[1][1], r[0][0] - r[1][1]
    w2, x2 = 1 + (plus + r[2][2]), 1 + (minus - r[2][2])
    y2, z2 = 1 - (minus + r[2][2]), 1 - (plus - r[2][2])
    one = _mask(y2 - x2)
    row = [_choose(one, q, p) for p, q in zip((sx, x2, xy, xz), (sy, xy, y2, yz), strict=True)]
    one = _mask(z2 - torch.maximum(x2, y2))
    row = [_choose(one, q, p) for p, q in zip(row, (sz, xz, yz, z2), strict=True)]
    one = _mask(w2 - 1)
    row = [_choose(one, q, p) for p, q in zip(row, (w2, sx, sy, sz), strict=True)]
    length = (row[0] * row[0] + _dot(row[1:], row[1:])).rsqrt()
    # A zero of either sign counts as positive, so that the choice at angle pi is as documented.
    scale = length.copysign(row[0].detach() + 0.0)
    return _turn(row[0] * scale, (row[1] * scale, row[2] * scale, row[3] * scale))


def _largest_root(size: Tensor, det: Tensor, minors: Tensor) -> Tensor:
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


def _log_density(turn: _Turn, tau: Tensor) -> Tensor:
    """The logarithm of f."""
    excess, _ = _series(turn, tau.clamp(min=_SWITCH))
    dual = _dual(turn, tau.clamp(max=_SWITCH))
    return _choose(_mask(tau - _SWITCH), torch.log1p(excess), dual)


def _score_over_sine(turn: _Turn, tau: Tensor) -> Tensor:
    """The derivative of log f over sin(w / 2), which is smooth at 0."""
    excess, slope = _series(turn, tau.clamp(min=_SWITCH))
    series = -2 * turn.cosine * slope / (1 + excess)
    dual = _dual_slope(turn, tau.clamp(max=_SWITCH))
    return _choose(_mask(tau - _SWITCH), series, dual)


def _weights(tau: Tensor) -> list[Tensor]:
    """(2 l + 1) exp(-l (l + 1) tau / 2), l = 1 to the last."""
    base = power = decay = torch.exp(-tau)
    weights = [3 * decay]
    for degree in range(2, _DEGREE + 1):
        power = power * base
        decay = decay * power
        weights.append((2 * degree + 1) * decay)
    return weights


def _series(turn: _Turn, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Of (1), f - 1 and its derivative in cos w, by Clenshaw's recurrence."""
    twice = 2 - 4 * turn.sine2
    high = last = slope = high_slope = torch.zeros_like(twice)
    for weight in reversed(_weights(tau)):
        slope, high_slope = torch.addcmul(2 * last - high_slope, twice, slope), slope
        last, high = torch.addcmul(weight - high, twice, last), last
    slope, high_slope = torch.addcmul(2 * last - high_slope, twice, slope), slope
    return torch.addcmul(last - high, twice, last), slope + high_slope


def _images(turn: _Turn, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The angle's supplement and the weights of the images k = 1 and k = -1 against k = 0."""
    rest = 2 * torch.atan2(turn.cosine, turn.sine)
    rate = 2 * math.pi / tau
    return rest, _decay(rate * rest), _decay(rate * (math.pi + turn.angle))


def _decay(exponent: Tensor) -> Tensor:
    """exp(-exponent), not below 2e-35: subnormal numbers are slow and nothing depends on them."""
    return torch.exp(-exponent.clamp(max=80))


def _small_images(turn: _Turn, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Relative share r of the images where the angle is small, and r' / w.

    r = Q (-2 cosh a + (8 pi^2 / tau) sinh(a) / a), Q = exp(-2 pi^2 / tau), a = 2 pi w / tau. Below
    tau = 1/4 it is lost in rounding, and the bound keeps a finite.
    """
    tau = tau.clamp(min=0.25)
    rate2 = (2 * math.pi / tau).square()
    a2 = rate2 * turn.factor.square() * turn.sine2
    weight, gain = torch.exp(-2 * math.pi**2 / tau), 8 * math.pi**2 / tau
    share = weight * (gain * _horner(a2, _SINHC) - 2 * _horner(a2, _COSH))
    slope = weight * rate2 * (gain * _horner(a2, _SINHC_SLOPE) - 2 * _horner(a2, _SINHC))
    return share, slope


_COSH = [1 / math.factorial(2 * n) for n in range(5)]
_SINHC = [1 / math.factorial(2 * n + 1) for n in range(5)]
_SINHC_SLOPE = [2 * n / math.factorial(2 * n + 1) for n in range(1, 6)]


def _dual(turn: _Turn, tau: Tensor) -> Tensor:
    """The logarithm of f by (2)."""
    _, near, far = _images(turn, tau)
    share = 2 * math.pi * (near - far) / turn.angle - (near + far)
    share = _choose(turn.small, _small_images(turn, tau)[0], share)
    square = turn.factor.square() * turn.sine2
    constant = tau / 8 + 0.5 * math.log(2 * math.pi) - 1.5 * tau.log()
    return constant - square / (2 * tau) + turn.factor.log() + torch.log1p(share)


def _dual_slope(turn: _Turn, tau: Tensor) -> Tensor:
    """`_score_over_sine` by (2): one form to a quarter turn, one beyond it, a series at 0."""
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
    slope = _choose(_mask(turn.sine2 - 0.5), high, low) / turn.sine
    return _choose(turn.small, _small_slope(turn, tau), slope)


def _small_slope(turn: _Turn, tau: Tensor) -> Tensor:
    """`_score_over_sine` by (2) where the angle is small."""
    share, share_slope = _small_images(turn, tau)
    square = turn.factor.square() * turn.sine2
    bend = _horner(square, [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600])
    return turn.factor * (bend - 1 / tau + share_slope / (1 + share))


# The draw. Solving F(w) = u for the angle needs a start close to the root: a normal vector for
# small tau (the law of its length is Maxwell's) and an angular central Gaussian quaternion for
# large tau. Both come from the four normal numbers whose last three give the axis.


def _draw(z: Tensor, tau: Tensor) -> Tensor:
    """A tangent vector from four standard normal numbers, `(rows, 4)`."""
    real, *rest = z.t().contiguous().unbind(0)
    length = (_dot(rest, rest) + torch.finfo(z.dtype).tiny).sqrt()
    short = _radius(length, tau.clamp(max=_SWITCH))
    positive = tau > 0
    spread = torch.where(positive, tau, 1.0).sqrt() * positive
    wide = _angle(length, real.abs(), tau.clamp(min=_SWITCH))
    angle = _choose(_mask(tau - _SWITCH), wide, spread * short)
    return _vector(angle / length, (rest[0], rest[1], rest[2]))


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
