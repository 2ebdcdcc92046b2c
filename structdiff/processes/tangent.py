r"""What the processes of a leaf on a manifold share.

The estimate is a tangent vector at x_t that points to the denoised point, so that all steps are

    x_s = exp_{x_t}(drift estimate + noise z).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from structdiff.parameterisations.tangent import ScaledScore, TangentParameterisation
from structdiff.processes.base import Estimate, Flowing
from structdiff.processes.leaf import Leaf, expand
from structdiff.processes.means import tilted_sum
from structdiff.random import Randomness
from structdiff.schedules import Schedule
from structdiff.spaces import Manifold

__all__ = ["TangentLeaf", "TangentStep", "check_whole"]


class TangentStep(NamedTuple):
    """x_s = exp_{x_t}(drift estimate + noise z)."""

    drift: Tensor
    noise: Tensor
    stochastic: bool


def check_whole(held: Tensor) -> None:
    """Refuse a mask of single entries: a point is held whole."""
    if held.ndim > 1:
        msg = f"held must be (rows,) on a manifold, got {tuple(held.shape)}: hold whole rows"
        raise ValueError(msg)


class TangentLeaf(Leaf, Flowing, ABC):
    """A process of one leaf on a manifold.

    Arguments:
        schedule: Time to noise level.
        manifold: The space.
        parameterisation: What the network predicts; `ScaledScore` by default.
    """

    def __init__(
        self,
        schedule: Schedule,
        manifold: Manifold,
        parameterisation: TangentParameterisation | None = None,
    ) -> None:
        super().__init__(schedule, manifold.point)
        self.manifold = manifold
        self.parameterisation = parameterisation or ScaledScore()

    @abstractmethod
    def towards(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate when x_0 is known, at rows that are clean too."""

    @property
    @final
    def geometry(self) -> Manifold:
        """The space."""
        return self.manifold

    @final
    def sigma(self, t: Tensor, x: Tensor) -> Tensor:
        """sigma_t, `()` or `(rows,)`, in the dtype of x.

        Raises:
            ValueError: If single entries of a row are given: a point is held whole.
        """
        if t.ndim > 1:
            shape = f"times of a manifold leaf must be () or (rows,), got {tuple(t.shape)}"
            msg = f"{shape}: give whole rows"
            raise ValueError(msg)
        return self.schedule.forward(t).sigma.to(x.device, x.dtype)

    @final
    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    @final
    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The point."""
        del t
        return x_t

    @final
    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """What the parameterisation makes of the output."""
        value = self.parameterisation.decode(
            output, x_t, self.sigma(t, x_t), self.manifold, lambda x_0: self.towards(x_0, x_t, t)
        )
        return Estimate(self.free(value))

    @final
    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The estimate when x_0 is known; zero at given rows."""
        return Estimate(self.free(self.towards(x_0, x_t, t)))

    @final
    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the tangent vectors."""
        return Estimate(self.pool(estimates.value, weights, rows))

    @final
    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared length of the error, which in flat space is that of x_0."""
        truth = self.oracle(x_0, x_t, t).value
        return self.free(self.manifold.norm2(estimate.value - truth))

    @final
    def tangent(self, x_t: Tensor, v: Tensor) -> Tensor:
        """Projection to the tangent space; zero at given rows."""
        return self.free(self.manifold.to_tangent(x_t, v))

    @final
    def steps_of(self, drift: Tensor, noise: Tensor) -> list[TangentStep]:
        """Coefficients by step from those of a grid, `(steps,)` or `(steps, rows)`."""
        axes = 1 + len(self.manifold.tangent)
        return [TangentStep(*row) for row in self.per_step(axes, drift, noise)]

    @final
    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the denoised points seen from x_t: log_{x_t}(x) + moved estimate."""
        if len(weights) == 1:
            return history[0][1]
        total = torch.zeros_like(history[0][1].value)
        for weight, (x, past) in zip(weights, history, strict=False):
            if x is x_t:
                total = total + weight * past.value
            else:
                moved = self.manifold.transport(x, x_t, past.value)
                total = total + weight * (self.manifold.log(x_t, x) + moved)
        return Estimate(total)

    @final
    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the tangent vectors."""
        return tilted_sum(estimates, weights)

    @final
    def standard(self) -> TangentLeaf:
        """Itself: a manifold has no units."""
        return self

    @final
    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    @final
    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known points as they are."""
        check_whole(held)
        return torch.where(expand(held, x_t), known, x_t)

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: TangentStep, random: Randomness
    ) -> Tensor:
        """One geodesic step."""
        v = coefficients.drift * estimate.value
        if coefficients.stochastic:
            v = v + coefficients.noise * self.manifold.noise(x_t, random)
        return self.manifold.project(self.manifold.exp(x_t, v))
