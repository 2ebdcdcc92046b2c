r"""Hyperbolic space H^n of curvature -1, in two models.

Lorentz's model (the hyperboloid) has the points x = (x_0, x') of R^{1+n}, x_0 = sqrt(1 + |x'|^2),
with the inner product -x_0 y_0 + x' . y'. The boost

    B_x (a, u) = (x_0 a + x' . u,  u + x' (a + x' . u / (1 + x_0)))

is the isometry that carries the origin (1, 0) to x along the geodesic. A tangent vector v in R^n
at x has the coordinates of the frame B_x (0, e_i), so

    exp(x, v) = B_x (cosh |v|, sinh(|v|) v / |v|),                                              (1)
    log(x, y) = arsinh(|w|) w / |w|,   w = the part in R^n of B_{-x} y,                         (2)

and parallel transport from x to y is the rotation (Wigner's) in the plane of x' and y' by the
area of the geodesic triangle of the origin, x and y,

    tan(area / 2) = |x' ^ y'| / (1 + x_0 + y_0 + cosh d(x, y)).                                 (3)

Poincare's ball has the points p = x' / (1 + x_0), |p| < 1, of the same space, in the same frame:
v is 2 / (1 - |p|^2) times the ball's own coordinates of the vector. Both models share all maps.

Where x' . u < 0 and x is far from the origin the terms of B_x u cancel. There, with
a = x' . u / |x'|^2 and c = u - a x', which is orthogonal to x',

    B_x u = c + x' (1 - a^2 + |c|^2) / (u_0 - x_0 a)                                            (4)

loses nothing. No map computes a distance from its hyperbolic cosine.

What the number format allows. Lorentz: a point at distance R from the origin is known up to
eps sinh(R) across the radius (0.1 in float32 at 15, 0.001 in float64 at 30) and eps along it, and
all maps are right to about that; squares of coordinates overflow from R = 44 in float32 and from
354 in float64. The ball: up to eps cosh(R) in all directions, and its outermost points, to which
farther ones are drawn in, lie at R = 15.2 in float32 and 35.3 in float64.

References:
    Foundations of Hyperbolic Manifolds (Ratcliffe, 2019), chapters 3 and 4.
    https://doi.org/10.1007/978-3-030-31597-9
    The hyperbolic derivative in the Poincare ball model of hyperbolic geometry (Birman and
    Ungar, 2001), for the rotation (gyration). https://doi.org/10.1006/jmaa.2000.7280
    Learning Continuous Hierarchies in the Lorentz Model of Hyperbolic Geometry (Nickel and Kiela,
    2018). https://arxiv.org/abs/1806.03417
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from structdiff.spaces.base import Belonging, Framed, Isometry, check_points, judge
from structdiff.spaces.boosts import (
    arsinhc,
    boost,
    dot,
    height,
    log_sinhc,
    rotated,
    sinhc,
    transpose,
)

if TYPE_CHECKING:
    from structdiff.random import Randomness

__all__ = ["Hyperbolic", "HyperbolicModel", "PoincareBall", "from_ball", "to_ball"]

_SHORT = 10  # coordinates, above which rows are left as they are
_MARGIN = 4  # of the ball, in roundings


class HyperbolicModel(Framed, ABC):
    """What the models of H^n share: everything but how a point is written.

    Arguments:
        dimension: n, at least 1.

    Raises:
        ValueError: If the dimension is not positive.
    """

    injectivity = math.inf

    def __init__(self, dimension: int) -> None:
        if dimension < 1:
            message = f"dimension is {dimension}, must be at least 1: Hyperbolic(2) is the plane"
            raise ValueError(message)
        self.dimension = dimension
        self.tangent = (dimension,)
        self.axis = 0 if dimension <= _SHORT else 1

    @abstractmethod
    def read(self, x: Tensor) -> Tensor:
        """The part x' of each point, coordinates along `axis`."""

    @abstractmethod
    def write(self, place: Tensor) -> Tensor:
        """The points whose parts x' are `place`."""

    @final
    def turned(self, x: Tensor) -> Tensor:
        """`(rows, n)` with coordinates along `axis`, or back."""
        return x if self.axis else transpose(x)

    @final
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """(1)."""
        way = self.turned(v)
        u = sinhc(dot(way, way, self.axis)) * way
        return self.write(boost(self.read(x), u, self.axis))

    @final
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """(2)."""
        return self._from_origin(boost(-self.read(x), self.read(y), self.axis))

    @final
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """`v` turned by (3)."""
        moved = rotated(self.read(x), self.read(y), self.turned(v), self.axis)
        return self.turned(moved)

    @final
    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """(n - 1) log(sinh r / r) with r = |v|."""
        del x
        return (self.dimension - 1) * log_sinhc(self.norm2(v))

    @final
    def features(self, x: Tensor) -> Tensor:
        """`log` of the point at the origin."""
        return self._from_origin(self.read(x))

    def _from_origin(self, w: Tensor) -> Tensor:
        """arsinh(|w|) w / |w|."""
        return self.turned(arsinhc(dot(w, w, self.axis)) * w)

    @final
    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """Boosted, then turned about the origin (and perhaps mirrored)."""
        n = self.dimension
        shift = self.turned(random.normal((1, n), dtype, device))
        turn = torch.linalg.qr(random.normal((n, n), dtype, device))[0]

        def move(x: Tensor) -> Tensor:
            place = self.turned(boost(shift, self.read(x), self.axis))
            return self.write(self.turned(place @ turn))

        return move


class Hyperbolic(HyperbolicModel):
    """Lorentz's model: points `(rows, n + 1)`, x_0 first.

    Maps read x' alone, as x_0 follows from it.

    Arguments:
        dimension: n, at least 1.

    Raises:
        ValueError: If the dimension is not positive.

    References:
        See the head of the module.

    Example:
        >>> space = Hyperbolic(2)
        >>> x = space.origin(torch.float32, "cpu")[None]
        >>> y = space.exp(x, torch.tensor([[0.0, 2.0]]))
        >>> y
        tensor([[3.7622, 0.0000, 3.6269]])
        >>> space.log(x, y)
        tensor([[0., 2.]])
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.point = (dimension + 1,)

    def read(self, x: Tensor) -> Tensor:
        """All but the first coordinate."""
        return self.turned(x[:, 1:])

    def write(self, place: Tensor) -> Tensor:
        """With x_0 = sqrt(1 + |x'|^2)."""
        x0 = height(dot(place, place, self.axis))
        return self.turned(torch.cat([x0, place], self.axis))

    def project(self, x: Tensor) -> Tensor:
        """The point with the same x': the nearest up to rounding, for points off by rounding."""
        return self.write(self.read(x))

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """(1, 0, ..., 0)."""
        return torch.eye(1, self.dimension + 1, dtype=dtype, device=device)[0]

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """x_0 = sqrt(1 + |x'|^2), relative to it."""
        check_points(self, x)
        x0 = height(x[:, 1:].square().sum(1))
        what = "x_0 differs from sqrt(1 + |x'|^2), relative to it, by"
        cure = "give points of the hyperboloid with x_0 first, or mend x_0 by project"
        return judge((x[:, 0] - x0).abs() / x0, tolerance, what, cure)


class PoincareBall(HyperbolicModel):
    """Poincare's model: points `(rows, n)` of the open unit ball.

    Arguments:
        dimension: n, at least 1.

    Raises:
        ValueError: If the dimension is not positive.

    References:
        See the head of the module.

    Example:
        >>> space = PoincareBall(2)
        >>> space.exp(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([[0.0000, 0.7616]])
        >>> space.distance(torch.tensor([[0.0, 0.5]]), torch.tensor([[0.0, -0.5]]))
        tensor([2.1972])
    """

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.point = (dimension,)

    def read(self, x: Tensor) -> Tensor:
        """2 p / (1 - |p|^2)."""
        p = self.turned(x)
        least = 2 * _MARGIN * torch.finfo(p.dtype).eps
        return p * (2 / (1 - dot(p, p, self.axis)).clamp(min=least))

    def write(self, place: Tensor) -> Tensor:
        """x' / (1 + x_0), inside the ball after rounding."""
        x0 = height(dot(place, place, self.axis))
        inside = 1 + _MARGIN * torch.finfo(place.dtype).eps
        return self.turned(place / torch.maximum(1 + x0, inside * x0))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the ball that all maps tell from the boundary."""
        length = x.square().sum(1, keepdim=True).clamp(min=0.25).sqrt()
        most = 1 - _MARGIN * torch.finfo(x.dtype).eps
        return x * (most / length).clamp(max=1)

    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The centre."""
        return torch.zeros(self.point, dtype=dtype, device=device)

    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """|p| is at most 1."""
        check_points(self, x)
        off = (x.square().sum(1).sqrt() - 1).clamp(min=0)
        cure = "give points of the unit ball, or the nearest by project"
        return judge(off, tolerance, "|p| is above 1 by", cure)


def to_ball(x: Tensor) -> Tensor:
    """The points of `PoincareBall` that points of `Hyperbolic` are; tangent vectors stay."""
    return PoincareBall(x.shape[1] - 1).write(Hyperbolic(x.shape[1] - 1).read(x))


def from_ball(p: Tensor) -> Tensor:
    """The points of `Hyperbolic` that points of `PoincareBall` are; tangent vectors stay."""
    return Hyperbolic(p.shape[1]).write(PoincareBall(p.shape[1]).read(p))
