r"""At which times a model is trained.

Low-discrepancy draws cut [0, 1] in as many parts as there are samples and draw one number u for
all, t_j = F^-1((j + u) / samples): the mean loss has less variance and the same expectation.
Several processes that share a batch, and one u, draw the times that one process would.

A law has a density p(t) = 1 / (d F^-1 / du), so that a loss drawn from one law estimates an
integral over time, that of f(t) dt as the mean of f(t) / p(t): the choice changes the variance
and not the bound.

References:
    Variational Diffusion Models (Kingma et al., 2021), section 5.1 and appendix I.1.
    https://arxiv.org/abs/2107.00630
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    table 1.
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from structdiff.batch import Part
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = [
    "LogUniformTimes",
    "NormalClock",
    "PowerTimes",
    "TimeDistribution",
    "UniformClock",
    "UniformTimes",
]

POINTS = 4097
"""Size of the tables of quantile functions that are the inverse of something else."""


def check_range(low: float, high: float) -> None:
    """Refuse times out of order or outside [0, 1]."""
    if not 0 <= low < high <= 1:
        msg = f"low and high must satisfy 0 <= low < high <= 1, got {low} and {high}"
        raise ValueError(msg)


def between(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """The line through points (xs, ys), xs rising, at x."""
    index = (torch.searchsorted(xs, x.contiguous(), right=True) - 1).clamp(0, len(xs) - 2)
    gap = xs[index + 1] - xs[index]
    share = ((x - xs[index]) / torch.where(gap > 0, gap, 1.0)).clamp(0, 1)
    return torch.lerp(ys[index], ys[index + 1], share)


class TimeDistribution(ABC):
    """A law of training times."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Inverse distribution function: u in (0, 1) to times in [0, 1]."""

    @abstractmethod
    def density(self, t: Tensor) -> Tensor:
        """Density with respect to dt at times of any shape, float64; 0 out of the law's range."""

    @final
    def draw(self, samples: int, random: Randomness, *, part: Part | None = None) -> Tensor:
        """Low-discrepancy times, `(samples,)`, float64 on the CPU.

        Arguments:
            samples: How many.
            random: A source without ids, so that all parts of a batch draw the same shift.
            part: Which samples of a larger batch these are (`Batch.part`); None for the whole.
        """
        shift = random.uniform((1,), torch.float64, "cpu")
        whole = part or Part(0, 1, samples)
        place = whole.places(samples).to(torch.float64)
        return self.quantile((place + shift) / whole.total)


class UniformTimes(TimeDistribution):
    """Uniform in [low, high].

    Arguments:
        low: Earliest time; positive where sigma(0) = 0, since weights may be unbounded there.
        high: Latest time.

    Raises:
        ValueError: If 0 <= low < high <= 1 does not hold.
    """

    def __init__(self, low: float = 1e-4, high: float = 1.0) -> None:
        check_range(low, high)
        self.low, self.high = low, high

    def quantile(self, u: Tensor) -> Tensor:
        """Linear."""
        return self.low + u * (self.high - self.low)

    def density(self, t: Tensor) -> Tensor:
        """1 / (high - low)."""
        t = t.double()
        return ((t >= self.low) & (t <= self.high)).double() / (self.high - self.low)


class PowerTimes(TimeDistribution):
    r"""A power of a uniform number: `t = low + (high - low) u^power`.

    The bound of a chain in continuous time is an integral of something that is about 1 / t at the
    few rows that are noisy, t of them: with power 2, density t^{-1/2}, one draw has a finite
    variance there, and the least that a power gives.

    Arguments:
        power: Above 1 draws more early times; 1 is `UniformTimes`.
        low: Earliest time.
        high: Latest time.

    Raises:
        ValueError: If the power is not positive or 0 <= low < high <= 1 does not hold.
    """

    def __init__(self, power: float = 2.0, low: float = 1e-4, high: float = 1.0) -> None:
        check_range(low, high)
        if not power > 0:
            msg = f"power must be positive, got {power}"
            raise ValueError(msg)
        self.power, self.low, self.high = power, low, high

    def quantile(self, u: Tensor) -> Tensor:
        """The power."""
        return self.low + u**self.power * (self.high - self.low)

    def density(self, t: Tensor) -> Tensor:
        """u^(1 - power) / (power (high - low)), with u the number that gives t."""
        length = self.high - self.low
        u = ((t.double() - self.low) / length).clamp(min=0) ** (1 / self.power)
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, u ** (1 - self.power) / (self.power * length), 0.0)


class Tabulated(TimeDistribution):
    """Quantiles linear between the points of a table; the density is constant between them."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    @final
    def quantile(self, u: Tensor) -> Tensor:
        """Linear between two points of the table."""
        place = u.double().clamp(0, 1) * (len(self.table) - 1)
        index = place.floor().long().clamp(max=len(self.table) - 2)
        return torch.lerp(self.table[index], self.table[index + 1], place - index)

    @final
    def density(self, t: Tensor) -> Tensor:
        """Equal probability between any two points, over their distance."""
        t, table = t.double(), self.table.to(t.device)
        index = torch.searchsorted(table, t.contiguous(), right=True) - 1
        index = index.clamp(0, len(table) - 2)
        width = (table[index + 1] - table[index]) * (len(table) - 1)
        return torch.where((t >= table[0]) & (t <= table[-1]), 1 / width, 0.0)


class LogUniformTimes(TimeDistribution):
    r"""`t = low (high / low)^u`: uniform in log t.

    For flows, whose noise level is t: all scales are seen alike, where uniform times see little of
    the fine ones.

    Arguments:
        low: Earliest time, positive.
        high: Latest time.

    Raises:
        ValueError: If 0 < low < high <= 1 does not hold.

    Example:
        >>> LogUniformTimes(0.01, 1.0).quantile(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0100, 0.1000, 1.0000])
    """

    def __init__(self, low: float = 1e-3, high: float = 1.0) -> None:
        check_range(low, high)
        if not low > 0:
            msg = f"low must be positive, got {low}"
            raise ValueError(msg)
        self.low, self.high = low, high

    def quantile(self, u: Tensor) -> Tensor:
        """The power."""
        return self.low * (self.high / self.low) ** u

    def density(self, t: Tensor) -> Tensor:
        """1 / (t log(high / low))."""
        t = t.double()
        inside = (t >= self.low) & (t <= self.high)
        return inside / (torch.where(inside, t, 1.0) * math.log(self.high / self.low))


class UniformClock(Tabulated):
    """The clock is uniform between its values at two times, and so is the log-SNR.

    Under this law the continuous bound of a Gaussian weighs all errors of the noise alike. A
    chain's alpha is uniform under `UniformTimes` with the schedule `Flow`.

    Arguments:
        schedule: The schedule that turns clocks into times.
        low: Earliest time.
        high: Latest time.

    Raises:
        ValueError: If 0 <= low < high <= 1 does not hold, or the clock at an end is infinite.

    Example:
        >>> from structdiff.schedules import Flow
        >>> UniformClock(Flow(), 0.1, 0.9).quantile(torch.tensor([0.25, 0.5])).tolist()
        [0.25, 0.5]
    """

    def __init__(self, schedule: Schedule, low: float = 1e-4, high: float = 1 - 1e-4) -> None:
        check_range(low, high)
        first, last = schedule(torch.tensor([low, high], dtype=torch.float64)).clock.tolist()
        if not (math.isfinite(first) and math.isfinite(last)):
            must = "the clock must be finite at low and high"
            msg = f"{must}, got {first} at {low} and {last} at {high}: move them inside (0, 1)"
            raise ValueError(msg)
        super().__init__(schedule.time(torch.linspace(first, last, POINTS, dtype=torch.float64)))


class NormalClock(Tabulated):
    """log(sigma / alpha) is normal, truncated to the schedule's range (EDM training).

    Arguments:
        schedule: The schedule that turns noise levels into times.
        mean: Mean of log(sigma / alpha) before truncation, -1.2 in the paper.
        std: Its standard deviation, 1.2 in the paper; positive.

    Raises:
        ValueError: If `std` is not positive.
    """

    def __init__(self, schedule: Schedule, mean: float = -1.2, std: float = 1.2) -> None:
        if std <= 0:
            msg = f"std must be positive, got {std}"
            raise ValueError(msg)
        ends = -schedule(torch.tensor([0.0, 1.0])).clock
        low, high = torch.special.ndtr((ends - mean) / std)
        inside = torch.linspace(0, 1, POINTS, dtype=torch.float64) * (high - low) + low
        normal = torch.special.ndtri(inside.clamp(1e-12, 1 - 1e-12))
        super().__init__(schedule.time(-(mean + std * normal)))
