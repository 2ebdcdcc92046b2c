r"""The contract of a manifold.

A point is a tensor `(rows, *point)`, a tangent vector `(rows, *tangent)` in coordinates that the
space states: those of R^N where it is embedded isometrically, else those of an orthonormal frame
at the point. Either way the inner product is the sum of products of coordinates, and a standard
normal vector is the projection of one in the coordinates. The heat kernel at time tau is the law
of Brownian motion with generator Laplacian / 2 run for tau, so tau is the variance per tangent
direction. Densities are against the Riemannian volume.

All maps are right and finite with their first and second derivatives: at coincident points, at the
identity, where eigenvalues repeat, far away; at the cut locus `log` is one of the minimisers and
its gradient finite. They take float32 and float64 and never leave the given device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from structdiff.random import Randomness

__all__ = [
    "Belonging",
    "Compact",
    "Framed",
    "HeatKernel",
    "Isometry",
    "Manifold",
    "check_points",
    "judge",
]

Isometry = Callable[["Tensor"], "Tensor"]
"""A map of points `(rows, *point)` that keeps distances; differentiable."""


@dataclass(frozen=True)
class Belonging:
    """Whether rows are points of a space.

    Arguments:
        inside: By row, `(rows,)`.
        reason: What is wrong with the first row that is outside: its number, what it is, what it
            must be and how to mend it; None where all are inside.
    """

    inside: Tensor
    reason: str | None


class Manifold(ABC):
    """A space that can be walked on.

    Attributes:
        point: Shape of a point.
        tangent: Shape of a tangent vector.
        dimension: Dimension of the space.
        injectivity: The injectivity radius: geodesics no longer than that are shortest ones.
    """

    point: tuple[int, ...]
    tangent: tuple[int, ...]
    dimension: int
    injectivity: float

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """The point reached from `x` along the geodesic with velocity `v` after unit time."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """The shortest tangent vector at `x` whose `exp` is `y`; at the cut locus one of them."""

    @abstractmethod
    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of `v` from `x` to `y` along the shortest geodesic."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the space (mends rounding)."""

    @abstractmethod
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Orthogonal projection of `v`, of shape `(rows, *tangent)`, to the space at `x`."""

    @abstractmethod
    def frame(self, x: Tensor) -> Tensor:
        """An orthonormal basis of the tangent space at `x`, `(rows, dimension, *tangent)`."""

    @abstractmethod
    def log_jacobian(self, x: Tensor, v: Tensor) -> Tensor:
        """log |det d exp_x| at `v`, `(rows,)`: how `exp` stretches volume; -inf if conjugate."""

    @abstractmethod
    def origin(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """A distinguished point, of shape `point`."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Smooth coordinates of moderate size that tell points apart, `(rows, F)`, for nets."""

    @abstractmethod
    def belongs(self, x: Tensor, tolerance: float = 1e-4) -> Belonging:
        """Which rows of `x` are points, up to a tolerance, and what is wrong with the first not.

        Raises:
            ValueError: If `x` has not the shape `(rows, *point)`.
        """

    @abstractmethod
    def isometry(
        self, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Isometry:
        """A random isometry of the space."""

    @final
    def dot(self, v: Tensor, w: Tensor) -> Tensor:
        """Inner product of tangent vectors at one point, `(rows,)`."""
        return _sum(v * w)

    @final
    def norm2(self, v: Tensor) -> Tensor:
        """Squared length of each tangent vector, `(rows,)`."""
        return _sum(v.square())

    @final
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance, `(rows,)`; its gradient at coincident points is zero."""
        square = self.norm2(self.log(x, y))
        positive = square > 0
        return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)

    @final
    def noise(self, x: Tensor, random: Randomness) -> Tensor:
        """A standard normal tangent vector at each `x`."""
        return self.to_tangent(x, random.normal((len(x), *self.tangent), x.dtype, x.device))


class Framed(Manifold, ABC):
    """A manifold whose tangent coordinates are those of an orthonormal frame: any are right."""

    @final
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """`v` itself."""
        del x
        return v

    @final
    def frame(self, x: Tensor) -> Tensor:
        """The unit vectors."""
        unit = torch.eye(self.dimension, dtype=x.dtype, device=x.device)
        unit = unit.reshape(1, self.dimension, *self.tangent)
        return unit.expand(len(x), *(-1,) * (1 + len(self.tangent)))


class Compact(Manifold, ABC):
    """A manifold of finite volume."""

    @abstractmethod
    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Points drawn uniformly against the volume."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the total volume, in nats."""


class HeatKernel(Compact, ABC):
    """A compact manifold whose heat kernel is known in closed form or as a series."""

    @abstractmethod
    def diffuse(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """A draw from the heat kernel at time `tau`, `()` or `(rows,)`, started at each `x`."""

    @abstractmethod
    def log_kernel(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Log density at `y` of Brownian motion from `x` after time `tau`, `(rows,)`."""

    @abstractmethod
    def score(self, x: Tensor, y: Tensor, tau: Tensor) -> Tensor:
        """Gradient of `log_kernel` in `y`, a tangent vector at `y`."""

    @abstractmethod
    def entropy_gap(self, tau: Tensor) -> Tensor:
        """KL in nats of the heat kernel from the uniform law, of the shape of `tau`."""


def _sum(x: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def check_points(space: Manifold, x: Tensor) -> None:
    """Refuse a tensor that has not the shape of points.

    Raises:
        ValueError: If the shape is not `(rows, *point)`.
    """
    if x.shape[1:] != space.point:
        name = type(space).__name__
        msg = f"points of {name} must have shape (rows, *{space.point}), got {tuple(x.shape)}"
        raise ValueError(msg)


def judge(off: Tensor, tolerance: float, what: str, cure: str) -> Belonging:
    """Points are inside where `off`, `(rows,)`, how far they are off, is at most the tolerance.

    Arguments:
        off: By row; NaN is outside.
        tolerance: The most that passes.
        what: What is measured, for the reason: "its length differs from 1 by".
        cure: How to mend it.
    """
    inside = off <= tolerance
    if bool(inside.all()):
        return Belonging(inside, None)
    row = int((~inside).nonzero()[0, 0])
    return Belonging(
        inside,
        f"row {row}: {what} {float(off[row]):.3g}, at most {tolerance:g} is allowed: {cure}",
    )
