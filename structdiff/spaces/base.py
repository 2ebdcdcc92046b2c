r"""The contract of a manifold.

A point is a tensor `(rows, *point)`, a tangent vector `(rows, *tangent)` in the coordinates that
the space states, orthonormal in its metric. The heat kernel at time tau is the law of Brownian
motion with generator Laplacian / 2 run for tau, so tau is the variance per tangent coordinate.
Densities are against the Riemannian volume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from structdiff.random import Randomness

__all__ = ["HeatKernel", "Manifold"]


class Manifold(ABC):
    """A space that can be walked on.

    Attributes:
        point: Shape of a point.
        tangent: Shape of a tangent vector.
        dimension: Dimension of the space.
    """

    point: tuple[int, ...]
    tangent: tuple[int, ...]
    dimension: int

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
    def norm2(self, v: Tensor) -> Tensor:
        """Squared length of each tangent vector, `(rows,)`."""

    @abstractmethod
    def noise(self, x: Tensor, random: Randomness) -> Tensor:
        """A standard normal tangent vector at each `x`."""

    @abstractmethod
    def uniform(
        self, rows: int, random: Randomness, dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Points drawn uniformly against the volume (compact spaces)."""

    @property
    @abstractmethod
    def log_volume(self) -> float:
        """Logarithm of the total volume, in nats."""


class HeatKernel(Manifold, ABC):
    """A manifold whose heat kernel is known in closed form or as a series."""

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
