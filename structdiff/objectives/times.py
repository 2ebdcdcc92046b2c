r"""At which times a model is trained.

Low-discrepancy draws cut [0, 1] in as many parts as there are samples and draw one number u for
all, t_j = F^-1((j + u) / samples): the mean loss has less variance and the same expectation.
Several processes that share a batch, and one u, draw the times that one process would.

References:
    Variational Diffusion Models (Kingma et al., 2021), appendix I.1.
    https://arxiv.org/abs/2107.00630
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    table 1.
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from structdiff.batch import Part
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["NormalClock", "TimeDistribution", "UniformTimes"]


class TimeDistribution(ABC):
    """A law of training times."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Inverse distribution function: u in (0, 1) to times in [0, 1]."""

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
        if not 0 <= low < high <= 1:
            msg = f"low and high must satisfy 0 <= low < high <= 1, got {low} and {high}"
            raise ValueError(msg)
        self.low, self.high = low, high

    def quantile(self, u: Tensor) -> Tensor:
        """Linear."""
        return self.low + u * (self.high - self.low)


class NormalClock(TimeDistribution):
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
        # The quantile function is tabulated once: it is the inverse of two inverses.
        inside = torch.linspace(0, 1, 4097, dtype=torch.float64) * (high - low) + low
        normal = torch.special.ndtri(inside.clamp(1e-12, 1 - 1e-12))
        self.table = schedule.time(-(mean + std * normal))

    def quantile(self, u: Tensor) -> Tensor:
        """Normal quantiles read as clocks, linear between 4,097 points."""
        place = u.clamp(0, 1) * (len(self.table) - 1)
        index = place.floor().long().clamp(max=len(self.table) - 2)
        return torch.lerp(self.table[index], self.table[index + 1], place - index)
