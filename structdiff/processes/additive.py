"""What processes of additive noise on R^n that is not Gaussian share.

x_t = alpha_t x_0 + sigma_t z with a z of mean 0 and variance 1 of another law. The estimate is the
posterior mean of x_0, or of the point that Gaussian noise with the same rate would come from,
decoded as for Gaussian noise. So the probability flow is that of `Gaussian` at this estimate,

    dx/dt = (d log alpha / dt) x_t - (d clock / dt) (x_t - alpha estimate).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from structdiff.parameterisations import Data, Parameterisation
from structdiff.processes.base import Conditional, Estimate, Flowing
from structdiff.processes.leaf import Leaf, expand, sum_event
from structdiff.processes.means import past_sum, tilted_sum
from structdiff.schedules import Schedule
from structdiff.spaces import Euclidean

__all__ = ["AdditiveLeaf"]


class AdditiveLeaf(Leaf, Conditional, Flowing, ABC):
    """A process of one leaf, x_t = alpha x_0 + sigma z.

    Arguments:
        schedule: Time to noise level; alpha must stay positive.
        parameterisation: What the network predicts; x_0 by default.
        event: Shape of one row.

    Raises:
        ValueError: If nothing is left of the data at the schedule's last time.
    """

    def __init__(
        self,
        schedule: Schedule,
        parameterisation: Parameterisation | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, event)
        self.parameterisation = parameterisation or Data()
        if float(schedule.alpha(torch.ones((), dtype=torch.float64))) < 1e-6:
            name = type(schedule).__name__
            must = f"alpha of schedule {name} must stay above 1e-6"
            msg = f"{must}: use Linear(), Geometric(), or a schedule that ends before pure noise"
            raise ValueError(msg)

    @final
    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    @final
    def ratio(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma / alpha, float64, against x; 1 and 0 at `CLEAN`."""
        level = self.exact_level(t, x)
        return level.alpha, level.sigma / level.alpha

    @final
    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The parameterisation's input."""
        level = self.level(t, x_t)
        return self.parameterisation.encode(x_t, level.alpha, level.sigma)

    @final
    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The posterior mean that the output stands for."""
        level = self.level(t, x_t)
        x_0 = self.parameterisation.decode(output, x_t, level.alpha, level.sigma)
        return Estimate(self.hold(x_0))

    @property
    @final
    def geometry(self) -> Euclidean:
        """Flat space."""
        return Euclidean(*self.event)

    @final
    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """That of Gaussian noise at this estimate."""
        slope, decay = (
            expand(rate(t).to(x_t.device, x_t.dtype), x_t)
            for rate in (self.schedule.slope, self.schedule.decay)
        )
        residual = x_t - self.level(t, x_t).alpha * estimate.value
        return self.tangent(x_t, decay * x_t + slope * residual)

    @final
    def tangent(self, x_t: Tensor, v: Tensor) -> Tensor:
        """Zero at given entries."""
        del x_t
        return self.free(v)

    @final
    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the points."""
        return Estimate(self.pool(estimates.value, weights, rows))

    @final
    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared error of the estimate, summed over the event."""
        truth = self.oracle(x_0, x_t, t).value
        return sum_event(self.free((estimate.value - truth) ** 2))

    @final
    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the means."""
        del x_t
        return past_sum(history, weights)

    @final
    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the means."""
        return tilted_sum(estimates, weights)

    @final
    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Times sqrt(alpha^2 + sigma^2)."""
        level = self.level(t, x_t)
        return x_t * torch.sqrt(level.alpha**2 + level.sigma**2)

    @final
    def measured(self, density: Tensor, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log densities of entries to those of rows; where an entry is clean, of a point."""
        clean = expand(t < 0, x_t).expand_as(x_t)
        point = torch.where(x_t == x_0, 0.0, -torch.inf).to(density)
        each = torch.where(clean, point, density)
        return sum_event(self.free(each)).to(x_t.dtype)
