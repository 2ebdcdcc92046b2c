r"""What a network predicts on a manifold, decoded to a tangent vector at x_t.

The estimate is sigma^2 times a score for Brownian noise, and the way to the denoised point for a
flow, sigma (= t) times minus the velocity. Either way it is of the size of sigma, so that a
network's output of unit size is one of

    ScaledScore:  estimate =  sigma v      (sigma times the score; the way back per unit of time)
    Velocity:     estimate = -sigma v      (the velocity of a flow)
    CleanPoint:   the estimate that is right when x_0 is the predicted point,

where v is the output's projection to the tangent space.

References:
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022).
    https://arxiv.org/abs/2202.02763
    SE(3) diffusion model with application to protein backbone generation (Yim et al., 2023),
    section 3.2: the score through a predicted frame. https://arxiv.org/abs/2302.02277
    Flow Matching on General Geometries (Chen and Lipman, 2024). https://arxiv.org/abs/2302.03660
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from structdiff.spaces import Manifold

__all__ = ["CleanPoint", "ScaledScore", "TangentParameterisation", "TangentVelocity"]


class TangentParameterisation(ABC):
    """A network's output to an estimate."""

    @abstractmethod
    def outputs(self, manifold: Manifold) -> tuple[int, ...]:
        """Shape of a row of the output."""

    @abstractmethod
    def decode(
        self,
        output: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        manifold: Manifold,
        towards: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The estimate, a tangent vector at x_t.

        Arguments:
            output: What the network says, `(rows, *outputs)`.
            x_t: Noisy points.
            sigma: Noise level, `()` or `(rows,)`.
            manifold: The space.
            towards: Clean points to the estimates that they would be right for.
        """


class ScaledScore(TangentParameterisation):
    """sigma times the score."""

    def outputs(self, manifold: Manifold) -> tuple[int, ...]:
        """A tangent vector."""
        return manifold.tangent

    def decode(
        self,
        output: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        manifold: Manifold,
        towards: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """sigma v."""
        del towards
        return manifold.to_tangent(x_t, output) * _beside(sigma, manifold)


class TangentVelocity(TangentParameterisation):
    """The velocity of a flow, towards noise."""

    def outputs(self, manifold: Manifold) -> tuple[int, ...]:
        """A tangent vector."""
        return manifold.tangent

    def decode(
        self,
        output: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        manifold: Manifold,
        towards: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """-sigma v."""
        del towards
        return -manifold.to_tangent(x_t, output) * _beside(sigma, manifold)


class CleanPoint(TangentParameterisation):
    """A clean point, as any tensor of its shape: it is projected to the space."""

    def outputs(self, manifold: Manifold) -> tuple[int, ...]:
        """A point."""
        return manifold.point

    def decode(
        self,
        output: Tensor,
        x_t: Tensor,
        sigma: Tensor,
        manifold: Manifold,
        towards: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The oracle at the predicted point."""
        del x_t, sigma
        return towards(manifold.project(output))


def _beside(sigma: Tensor, manifold: Manifold) -> Tensor:
    """sigma, shaped to multiply tangent vectors."""
    return sigma.reshape(*sigma.shape, *(1,) * len(manifold.tangent)) if sigma.ndim else sigma
