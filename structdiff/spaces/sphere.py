r"""The unit sphere S^n in R^{n+1}.

A point is a unit vector, a tangent vector v at x one of R^{n+1} with <x, v> = 0, in the same
coordinates. With r = |v|, and theta in [0, pi] the angle between x and y,

    exp(x, v) = cos(r) x + sin(r) / r v,
    log(x, y) = theta / sin(theta) u,    u = y - cos(theta) x,
    transport of v from x to y = v - <y, v> / (1 + cos(theta)) (x + y).

u is computed from the shorter of y - x and y + x, so it keeps its digits near x and near -x.
Vectors of up to 4 components are lists of their components, each a vector over rows: on a CPU
this is several times faster than sums over a short last axis. The heat kernel is described in
`structdiff.spaces.sphere_kernel` and, for float32 points of
S^2, in `structdiff.spaces.s2_kernel`.

References:
    Optimization Algorithms on Matrix Manifolds (Absil, Mahony and Sepulchre, 2008).
    https://press.princeton.edu/absil
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022).
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from structdiff.spaces import s2_kernel, sphere_values
from structdiff.spaces.base import Belonging, HeatKernel
from structdiff.spaces.lean import lean
from structdiff.spaces.sphere_draw import draw, normals
from structdiff.spaces.sphere_kernel import Angle, entropy, kernel_of, log_volume
from structdiff.spaces.torus import Torus
from structdiff.spaces.turns import choose, horner, mask_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from structdiff.random import Randomness
    from structdiff.spaces.base import Isometry
    from structdiff.spaces.s2_kernel import Clock

__all__ = ["Sphere"]

_SMALL = 1e-3
_SHORT = 4

Parts = list[Tensor]


class Sphere(HeatKernel):
    """Unit vectors of R^{n+1}, `(rows, n + 1)`, with tangent vectors in the same coordinates.

    Opposite points are joined by many shortest tangent vectors; `log` returns pi times the first
    vector of `frame(x)`, with a finite gradient.

    Arguments:
        dimension: n, from 1 to 127.

    Raises:
        ValueError: If the dimension is out of range.

    References:
        See the head of the module.

    Example:
        >>> import torch
        >>> space, x = Sphere(2), torch.tensor([[1.0, 0.0, 0.0]])
        >>> y = space.exp(x, torch.tensor([[0.0, 0.0, 1.0]]))
        >>> space.log(x, y)
        tensor([[0., 0., 1.]])
        >>> space.log_kernel(x, y, torch.tensor(0.5))
        tensor([-1.9726])
    """

    injectivity = math.pi

    def __init__(self, dimension: int) -> None:
        if not 1 <= dimension <= 127:
            message = (
                f"dimension is {dimension}, must be from 1 to 127: give n of S^n, one less than "
                "the number of coordinates"
            )
            raise ValueError(message)
        self.point = (dimension + 1,)
        self.tangent = (dimension + 1,)
        self.dimension = dimension
        if dimension == 2:
            s2_kernel.table()

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point cos(r) x + sin(r) / r v."""
        return _exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The vector theta / sin(theta) u; its length is at most pi."""
        return _log(x, y)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` turned with the plane of `x` and `y`; opposite points are joined as by `log`."""
        start, b = _split(x), _split(v)
        arc = _arc(_way(start, _split(y)), start)
        along = _dot(arc.direction, b)
        down, back = -along * arc.inside, -along * arc.bend
        return _join(
            [
                torch.addcmul(torch.addcmul(q, down, p), back, u)
                for p, q, u in zip(start, b, arc.direction, strict=True)
            ]
        )

    def project(self, x: Tensor) -> Tensor:
        """The direction of `x`."""
        a = _split(x)
        scale = _dot(a, a).rsqrt()
        return _join([scale * p for p in a])

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """The vector v - <x, v> x."""
        return torch.addcmul(v, (x * v).sum(1, keepdim=True), x, value=-1)

    def frame(self, x: Tensor) -> Tensor:
        """The images of the coordinate axes 1 to n under the reflection of axis 0 to x or -x."""
        size = self.dimension + 1
        sign = torch.ones_like(x[:, :1]).copysign(x.detach()[:, :1] + 0.0)
        axes = torch.eye(size, dtype=x.dtype, device=x.device)
        mirror = (x + sign * axes[0]) / (1 + sign * x[:, :1])
        return axes[1:] - x[:, 1:, None] * mirror[:, None, :]

    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """(n - 1) log |sin(r) / r|."""
        b = _split(v)
        square = _dot(b, b).reshape(len(x))
        r, small = _root(square)
        stretch = choose(small, horner(square, _SINC), torch.sin(r) / r)
        return (self.dimension - 1) * stretch.abs().log()

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The first coordinate axis."""
        return torch.eye(self.dimension + 1, dtype=dtype, device=device)[0]

    def features(self, x: Tensor) -> Tensor:
        """The coordinates."""
        return x

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Whether the length of each row is 1 up to the tolerance."""
        if x.ndim != 2 or x.shape[1:] != self.point:
            message = (
                f"x has the shape {tuple(x.shape)}, must be (rows, {self.dimension + 1}) on "
                f"S^{self.dimension}: give one unit vector a row"
            )
            raise ValueError(message)
        length = torch.linalg.vector_norm(x.double(), dim=1)
        inside = (length - 1).abs() <= tolerance
        if bool(inside.all()):
            return Belonging(inside, None)
        row = int((~inside).nonzero()[0])
        reason = (
            f"row {row} has length {length[row].item():.6g}, must be 1 within {tolerance:g}: "
            "divide each row by its length (Sphere.project)"
        )
        return Belonging(inside, reason)

    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """Multiplication by a Haar orthogonal matrix, from the QR decomposition of a normal one.

        References:
            How to generate random matrices from the classical compact groups (Mezzadri, 2007).
            https://arxiv.org/abs/math-ph/0609050
        """
        size = self.dimension + 1
        q, r = torch.linalg.qr(random.normal((size, size), dtype, device))
        turn: Tensor = q * torch.ones_like(r[0]).copysign(r.diagonal())

        def move(x: Tensor) -> Tensor:
            return torch.matmul(x, turn.T)

        return move

    def uniform(
        self,
        rows: int,
        random: Randomness,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Tensor:
        """Directions of standard normal vectors."""
        return self.project(random.normal((rows, self.dimension + 1), dtype, device))

    @property
    def log_volume(self) -> float:
        """log(2 pi^{(n+1)/2} / Gamma((n+1)/2))."""
        return log_volume(self.dimension)

    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """A draw by inversion of the law of theta, along the direction of a normal vector.

        Differentiable in `x` and in `tau`.
        """
        z = random.normal((len(x), normals(self.dimension)), x.dtype, x.device)
        v = draw(self.dimension, z.double(), tau.to(x.device, torch.float64)).to(x.dtype)
        return self.exp(x, _lift(x, v))

    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Logarithm of the heat kernel; the wrapped normal on S^1."""
        if self.dimension == 1:
            return _CIRCLE.log_kernel(torch.zeros_like(x[:, :1]), _signed(x, y), tau)
        if self.dimension == 2 and x.dtype == torch.float32:
            return _blocks(_log_kernel, x, y, tau)
        angle = _angle(_way(_split(x), _split(y)))
        return kernel_of(self.dimension, angle, tau.to(angle.gap))[0].to(x.dtype)

    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """The derivative of `log_kernel` in cos(theta), times x - cos(theta) y."""
        if self.dimension == 1:
            steep = _CIRCLE.score(torch.zeros_like(x[:, :1]), _signed(x, y), tau)
            return steep * torch.stack([-y[:, 1], y[:, 0]], 1)
        if self.dimension == 2 and x.dtype == torch.float32:
            return _blocks(_score, x, y, tau)
        way = _way(_split(y), _split(x))
        angle = _angle(way)
        _, rise = kernel_of(self.dimension, angle, tau.to(angle.gap))
        rise = rise.to(x.dtype).reshape(way.gap.shape)
        return _join([rise * p for p in way.chord])

    def entropy_gap(self, tau: Tensor) -> Tensor:
        """KL of the heat kernel from the uniform law, by Gauss's rule in theta."""
        if self.dimension == 1:
            return _CIRCLE.entropy_gap(tau)
        return entropy(self.dimension, tau.double()).to(tau.dtype)


_CIRCLE = Torus(1)


def _lift(x: Tensor, w: Tensor) -> Tensor:
    """The tangent vector with the coordinates `w` in `frame(x)`, without the frame."""
    sign = torch.ones_like(x[:, :1]).copysign(x.detach()[:, :1] + 0.0)
    share = (x[:, 1:] * w).sum(1, keepdim=True) / (1 + sign * x[:, :1])
    return torch.cat([-share * (x[:, :1] + sign), w - share * x[:, 1:]], 1)


def _signed(x: Tensor, y: Tensor) -> Tensor:
    """The angle from `x` to `y` on the circle, `(rows, 1)`."""
    (a, b), (p, q) = _split(x), _split(y)
    return torch.atan2(a * q - b * p, a * p + b * q)[:, None]


# The kernel of S^2.


def _blocks(
    part: Callable[[Tensor, Tensor, Clock], Tensor], x: Tensor, y: Tensor, tau: Tensor
) -> Tensor:
    """`part`, block by block of rows."""
    size, clocks = s2_kernel.blocks(len(x), tau.to(x))
    return torch.cat(
        [
            part(*pair)
            for pair in zip(torch.split(x, size), torch.split(y, size), clocks, strict=True)
        ]
    )


def _log_kernel(x: Tensor, y: Tensor, clock: Clock) -> Tensor:
    way = _way(_split(x), _split(y))
    return s2_kernel.log_kernel(Angle(way.gap, way.behind), clock)


def _score(x: Tensor, y: Tensor, clock: Clock) -> Tensor:
    way = _way(_split(y), _split(x))
    rise = s2_kernel.slope(Angle(way.gap, way.behind), clock)
    return _join([rise * p for p in way.chord])


# The geometry of two points.


class Way(NamedTuple):
    """From one point to another."""

    chord: Parts  # u
    gap: Tensor  # 1 - |cos theta|
    side: Tensor  # the sign of cos theta
    behind: Tensor  # 1 where that is negative


class Arc(NamedTuple):
    """The direction of a way, defined also between opposite points."""

    direction: Parts
    factor: Tensor  # theta over the length of the direction
    bend: Tensor  # (1 - cos theta) over its square
    inside: Tensor  # 0 at opposite points, else 1


def _way(x: Parts, y: Parts) -> Way:
    """The vector u and the angle."""
    cosine = _dot(x, y)
    side = torch.ones_like(cosine).copysign(cosine.detach())
    step = [torch.addcmul(q, side, p, value=-1) for p, q in zip(x, y, strict=True)]
    gap = _dot(step, step) / 2
    lift = side * gap
    chord = [torch.addcmul(w, lift, p) for w, p in zip(step, x, strict=True)]
    return Way(chord, gap, side, mask_of(-side))


def _angle(way: Way) -> Angle:
    """The angle for the kernel, in float64."""
    return Angle(way.gap.reshape(-1).double(), way.behind.reshape(-1).double())


def _arc(way: Way, x: Parts) -> Arc:
    """The direction and its lengths.

    At opposite points, up to rounding, the direction is the first vector of `frame(x)`.
    """
    gap, behind = way.gap, way.behind
    lost = behind * mask_of(8 * torch.finfo(gap.dtype).eps ** 2 - gap)
    sine2 = gap * (2 - gap)
    sine, small = _root(sine2)
    small = small * (1 - behind)
    length = choose(behind, (sine2 + lost).clamp(min=1e-36).sqrt(), sine)
    acute = torch.atan2(length * (1 - lost), 1 - gap)
    factor = choose(small, horner(sine2, _ARCSINE), (math.pi * behind + way.side * acute) / length)
    bend = choose(behind, (2 - gap) / length.square(), 1 / (2 - gap))
    return Arc(_mend(way.chord, x, lost), factor, bend, 1 - lost)


def _mend(chord: Parts, x: Parts, lost: Tensor) -> Parts:
    """The chord, and where it is lost the first vector of `frame(x)`."""
    first, second = (x[0], x[1]) if len(x) > 1 else (x[0][:, :1], x[0][:, 1:2])
    sign = torch.ones_like(first).copysign(first.detach() + 0.0)
    share = lost * second / (1 + sign * first)
    mended = [torch.addcmul(u, share, p, value=-1) for u, p in zip(chord, x, strict=True)]
    if len(x) > 1:
        return [mended[0] - share * sign, mended[1] + lost, *mended[2:]]
    (whole,) = mended
    start = [whole[:, :1] - share * sign, whole[:, 1:2] + lost]
    return [torch.cat([*start, whole[:, 2:]], 1)]


def _safe_exp(x: Tensor, v: Tensor) -> Tensor:
    """With series at v = 0."""
    a, b = _split(x), _split(v)
    square = _dot(b, b)
    r, small = _root(square)
    along = choose(small, horner(square, _COS), torch.cos(r))
    aside = choose(small, horner(square, _SINC), torch.sin(r) / r)
    return _join([torch.addcmul(along * p, aside, q) for p, q in zip(a, b, strict=True)])


def _safe_log(x: Tensor, y: Tensor) -> Tensor:
    """With series at y = x and without the direction's derivative at -x."""
    start = _split(x)
    arc = _arc(_way(start, _split(y)), start)
    return _join([arc.factor * p for p in arc.direction])


_exp = lean(sphere_values.exp, _safe_exp)
_log = lean(sphere_values.log, _safe_log)


# Arithmetic on components: a list of vectors over rows, or of one matrix where they are many.


def _split(x: Tensor) -> Parts:
    return [p.contiguous() for p in x.unbind(1)] if x.shape[1] <= _SHORT else [x]


def _join(parts: Parts) -> Tensor:
    return torch.stack(parts, 1) if len(parts) > 1 else parts[0]


def _dot(a: Parts, b: Parts) -> Tensor:
    if len(a) == 1:
        return (a[0] * b[0]).sum(1, keepdim=True)
    total = a[0] * b[0]
    for p, q in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, p, q)
    return total


def _root(square: Tensor) -> tuple[Tensor, Tensor]:
    """The root of `square`, and 1 where that is small and the root another number."""
    raised = square.clamp(min=_SMALL)
    return raised.sqrt(), (raised - square).detach().sign()


_COS = [(-1) ** n / math.factorial(2 * n) for n in range(4)]
_SINC = [(-1) ** n / math.factorial(2 * n + 1) for n in range(4)]
_ARCSINE = [math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in range(5)]
