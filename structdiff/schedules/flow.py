r"""Schedules with alpha + sigma = 1: straight paths, and the survival of a chain.

On R^n, `x_t = (1 - t) x_0 + t z` is the rectified flow. On classes a row survives with
probability alpha and is redrawn with probability sigma = 1 - alpha, so `log(alpha / sigma)` is
the chain's clock.

References:
    Flow Matching for Generative Modeling (Lipman et al., 2023). https://arxiv.org/abs/2210.02747
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021).
    https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule
from structdiff.schedules.preserving import check_preserving

__all__ = ["Flow", "Survival", "Window"]


class Flow(Schedule):
    """`alpha = 1 - t`, `sigma = t`.

    Example:
        >>> Flow().alpha(torch.tensor(0.25)).item()
        0.75
    """

    def log_alpha(self, t: Tensor) -> Tensor:
        """log(1 - t)."""
        return torch.log1p(-t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Log t."""
        return torch.log(t)


class Survival(Schedule):
    """alpha^2 of a variance-preserving schedule: the probability that a chain keeps a row.

    D3PM and multinomial diffusion state their betas so: the product of (1 - beta) is the
    probability of survival, where a Gaussian's alpha is its square root.

    Arguments:
        schedule: A schedule with alpha^2 + sigma^2 = 1.

    Raises:
        ValueError: If the schedule does not preserve the variance.

    Example:
        >>> from structdiff.schedules import Cosine
        >>> round(Survival(Cosine()).alpha(torch.tensor(0.5)).item(), 5)
        0.49384
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        check_preserving(schedule, "Flow needs no wrapper")
        self.schedule = schedule

    def log_alpha(self, t: Tensor) -> Tensor:
        """Log alpha^2."""
        return 2 * self.schedule.log_alpha(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """log(1 - alpha^2)."""
        return 2 * self.schedule.log_sigma(t)


class Window(Schedule):
    """A schedule that runs between two times only: clean before, pure noise after.

    Leaves of a record with different windows are noised one before the other.

    Arguments:
        schedule: What runs inside the window.
        start: Time up to which the leaf is clean, in [0, end).
        end: Time from which it is pure noise, in (start, 1].

    Raises:
        ValueError: If the window is empty or outside [0, 1].

    Example:
        >>> Window(Flow(), 0.5, 1.0).alpha(torch.tensor([0.25, 0.75])).tolist()
        [1.0, 0.5]
    """

    def __init__(self, schedule: Schedule, start: float, end: float) -> None:
        super().__init__()
        if not 0 <= start < end <= 1:
            msg = f"start and end must satisfy 0 <= start < end <= 1, got {start} and {end}"
            raise ValueError(msg)
        self.schedule, self.start, self.end = schedule, start, end

    def _inside(self, t: Tensor) -> Tensor:
        return ((t - self.start) / (self.end - self.start)).clamp(0, 1)

    def log_alpha(self, t: Tensor) -> Tensor:
        """That of the inner schedule at the place in the window."""
        return self.schedule.log_alpha(self._inside(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """That of the inner schedule at the place in the window."""
        return self.schedule.log_sigma(self._inside(t))
