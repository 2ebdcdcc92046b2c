r"""Grids: at which times a sampler looks at the network.

A grid of N network calls is N times that fall, followed by `CLEAN`: the last step goes to x_0.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
    https://arxiv.org/abs/2206.00364
    Denoising Diffusion Implicit Models (Song et al., 2021), appendix D.2.
    https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.schedules.base import CLEAN, Schedule
from structdiff.schedules.exploding import check_rho, check_sigmas

__all__ = ["Grid", "KarrasGrid", "PowerTime", "UniformLogSNR", "UniformTime"]


def check_steps(steps: int) -> None:
    """Refuse a grid without steps."""
    if steps < 1:
        msg = f"steps must be at least 1, got {steps}"
        raise ValueError(msg)


def check_end(end: float | None) -> None:
    """Refuse a last time outside [0, 1)."""
    if end is not None and not 0 <= end < 1:
        msg = f"end must be in [0, 1), got {end}"
        raise ValueError(msg)


class Grid(ABC):
    """A falling sequence of times that ends with `CLEAN`."""

    @abstractmethod
    def times(self) -> Tensor:
        """The times, `(steps + 1,)`, float64."""


class UniformTime(Grid):
    """Uniform in t, from 1 to `end`, then clean.

    Arguments:
        steps: Number of network calls, at least 1.
        end: Last time at which the network is called, in [0, 1); by default `1 / steps`,
            so that all steps have one length.

    Raises:
        ValueError: If steps or end is out of range.

    Example:
        >>> UniformTime(4).times().tolist()
        [1.0, 0.75, 0.5, 0.25, -1.0]
    """

    def __init__(self, steps: int, *, end: float | None = None) -> None:
        check_steps(steps)
        check_end(end)
        self.steps, self.end = steps, 1 / steps if end is None else end

    def times(self) -> Tensor:
        """The times."""
        t = torch.linspace(1, self.end, self.steps, dtype=torch.float64)
        return F.pad(t, (0, 1), value=CLEAN)


class PowerTime(Grid):
    """A power of a uniform grid: dense near the data, then clean.

    `t_i = (i / steps)^power` by default; with power 2 it is the quadratic grid of DDIM.

    Arguments:
        steps: Number of network calls, at least 1.
        power: How dense early times are, positive; 1 is `UniformTime`.
        end: Last time at which the network is called, in [0, 1); by default `steps^-power`.

    Raises:
        ValueError: If steps, power or end is out of range.

    Example:
        >>> PowerTime(4).times().tolist()
        [1.0, 0.5625, 0.25, 0.0625, -1.0]
    """

    def __init__(self, steps: int, power: float = 2.0, *, end: float | None = None) -> None:
        check_steps(steps)
        check_end(end)
        if power <= 0:
            msg = f"power must be positive, got {power}"
            raise ValueError(msg)
        self.steps, self.power = steps, power
        self.end = steps**-power if end is None else end

    def times(self) -> Tensor:
        """The times."""
        root = torch.linspace(1, self.end ** (1 / self.power), self.steps, dtype=torch.float64)
        return F.pad(root**self.power, (0, 1), value=CLEAN)


class UniformLogSNR(Grid):
    """Uniform in the schedule's log-SNR between two times, then clean.

    With alpha = 1 this is the exponential grid, uniform in log sigma.

    Arguments:
        schedule: The schedule whose log-SNR is cut evenly.
        steps: Number of network calls, at least 1.
        start: First time, in (0, 1]. If alpha is zero there, the first step goes to the
            nearest time that has a finite log-SNR of at least -20.
        end: Last time, in [0, start); sigma must be positive there.

    Raises:
        ValueError: If steps, start or end is out of range, or sigma(end) is zero.

    Example:
        >>> from structdiff.schedules import Geometric
        >>> UniformLogSNR(Geometric(), 3, end=0.0).times().tolist()
        [1.0, 0.5, 0.0, -1.0]
    """

    def __init__(
        self, schedule: Schedule, steps: int, *, start: float = 1.0, end: float = 1e-3
    ) -> None:
        check_steps(steps)
        if not 0 <= end < start <= 1:
            msg = f"start and end must satisfy 0 <= end < start <= 1, got {start} and {end}"
            raise ValueError(msg)
        self.schedule, self.steps, self.start, self.end = schedule, steps, start, end
        if not torch.isfinite(schedule(torch.tensor(end)).clock):
            msg = f"sigma is zero at end = {end}: choose a later end, where the log-SNR is finite"
            raise ValueError(msg)

    def times(self) -> Tensor:
        """The times."""
        ends = torch.tensor([self.start, self.end], dtype=torch.float64)
        first, last = self.schedule(ends).clock.clamp(min=-10.0).unbind()
        clock = torch.lerp(first, last, torch.linspace(0, 1, self.steps, dtype=torch.float64))
        t = self.schedule.time(clock)
        t[0] = self.start
        return F.pad(t, (0, 1), value=CLEAN)


class KarrasGrid(Grid):
    """The grid of Karras et al. in the noise-to-signal ratio of any schedule, then clean.

    `sigma_i^(1/rho)` falls evenly from `sigma_max^(1/rho)` to `sigma_min^(1/rho)`; the time of a
    ratio is read off the schedule.

    Arguments:
        schedule: Any schedule; its sigma / alpha is matched.
        steps: Number of times, at least 1.
        sigma_min: Last ratio, positive and in the schedule's range.
        sigma_max: First ratio, above the last and in the schedule's range.
        rho: How dense low noise is, positive.

    Raises:
        ValueError: If a number is out of range, or the schedule does not reach the ratios.

    Example:
        >>> from structdiff.schedules import Karras
        >>> grid = KarrasGrid(Karras(), 18)
        >>> Karras().sigma(grid.times()[[0, -2]]).tolist()
        [80.0, 0.002]
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: int,
        *,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
    ) -> None:
        check_steps(steps)
        check_sigmas(sigma_min, sigma_max)
        check_rho(rho)
        self.schedule, self.steps, self.rho = schedule, steps, rho
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        ends = torch.exp(-schedule(torch.tensor([0.0, 1.0])).clock)
        if sigma_min < ends[0] * (1 - 1e-6) or sigma_max > ends[1] * (1 + 1e-6):
            low, high = ends.tolist()
            asked = f"sigma_min = {sigma_min} and sigma_max = {sigma_max}"
            msg = f"{asked} must lie inside the schedule's range, {low:.4g} to {high:.4g}"
            raise ValueError(msg)

    def times(self) -> Tensor:
        """The times."""
        u = torch.linspace(1, 0, self.steps, dtype=torch.float64)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        t = self.schedule.time(-self.rho * torch.log(low + u * (high - low)))
        return F.pad(t, (0, 1), value=CLEAN)
