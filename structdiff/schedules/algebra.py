r"""Schedules from a schedule: its clock between other ends, its time run at another pace.

A change of pace, s = warp(t), moves no noise level, only when it is reached: the continuous bound
stays as it is, what grids and training times see of it changes. A change of the clock's ends is
another model of the data.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 5.1: invariance to the pace.
    https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.schedules.base import Schedule, check_fixed, check_one_level

__all__ = ["Rescaled", "Warped"]


class Rescaled(Schedule):
    """alpha^2 + sigma^2 = 1 with the clock stretched to run between two given values.

    Arguments:
        schedule: A schedule whose clock is finite at both ends.
        first: log(alpha / sigma) at t = 0.
        last: That at t = 1, smaller.

    Raises:
        ValueError: If the ends are not in order, or the schedule's own are infinite, or it is
            learned or has levels by entry.

    Example:
        >>> from structdiff.schedules import Geometric
        >>> Rescaled(Geometric(), 5.0, -5.0).log_snr(torch.tensor([0.0, 1.0]))
        tensor([ 10., -10.], dtype=torch.float64)
    """

    def __init__(self, schedule: Schedule, first: float, last: float) -> None:
        super().__init__()
        if not -math.inf < last < first < math.inf:
            msg = f"last must be below first, both finite, got {last} and {first}"
            raise ValueError(msg)
        check_one_level(schedule)
        check_fixed(schedule)
        ends = schedule(torch.tensor([0.0, 1.0], dtype=torch.float64)).clock.tolist()
        if not (math.isfinite(ends[0]) and math.isfinite(ends[1])):
            name = type(schedule).__name__
            has = f"the clock of {name} runs from {ends[0]} to {ends[1]}"
            msg = f"{has}, infinite ends cannot be moved: use Shifted, or a Geometric schedule"
            raise ValueError(msg)
        self.schedule, self.ends, self.span = schedule, (ends[0], ends[1]), (first, last)

    def _log_snr(self, t: Tensor) -> Tensor:
        clock = self.schedule.log_alpha(t) - self.schedule.log_sigma(t)
        share = (clock - self.ends[0]) / (self.ends[1] - self.ends[0])
        log_snr: Tensor = 2 * (self.span[0] + share * (self.span[1] - self.span[0]))
        return log_snr

    def log_alpha(self, t: Tensor) -> Tensor:
        """Log sigmoid of the log-SNR, halved."""
        return 0.5 * F.logsigmoid(self._log_snr(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Log sigmoid of minus the log-SNR, halved."""
        return 0.5 * F.logsigmoid(-self._log_snr(t))


class Warped(Schedule):
    """The schedule at warp(t).

    Arguments:
        schedule: Any schedule of one level.
        warp: A function of float64 times, differentiable, that rises from 0 at 0 to 1 at 1.

    Raises:
        ValueError: If it does not, or the schedule has levels by entry.

    Example:
        >>> from structdiff.schedules import Flow
        >>> Warped(Flow(), torch.square).sigma(torch.tensor(0.5)).item()
        0.25
    """

    def __init__(self, schedule: Schedule, warp: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        check_one_level(schedule)
        s = warp(torch.linspace(0, 1, 1001, dtype=torch.float64))
        rises = s.shape == (1001,) and bool((s.diff() > 0).all())
        if not (rises and abs(float(s[0])) < 1e-9 and abs(float(s[-1]) - 1) < 1e-9):
            ends = f"{float(s.flatten()[0]):.3g} and {float(s.flatten()[-1]):.3g}"
            msg = f"warp must rise from 0 at t = 0 to 1 at t = 1, its ends are {ends}"
            raise ValueError(msg)
        self.schedule, self.warp = schedule, warp

    def log_alpha(self, t: Tensor) -> Tensor:
        """That of the inner schedule at the warped time."""
        return self.schedule.log_alpha(self.warp(t).clamp(0, 1))

    def log_sigma(self, t: Tensor) -> Tensor:
        """That of the inner schedule at the warped time."""
        return self.schedule.log_sigma(self.warp(t).clamp(0, 1))
