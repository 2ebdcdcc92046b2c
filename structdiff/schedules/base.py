r"""What a schedule is.

A schedule maps the time `t` in [0, 1] (0 is data, 1 is noise) to the coefficients of
`x_t = alpha_t x_0 + sigma_t z`. Its *clock* is `log(alpha_t / sigma_t)`, half the log-SNR; it
falls strictly in t. `sigma_0` may be positive; the time `CLEAN` (any negative number) stands for
the data themselves: alpha = 1, sigma = 0. Coefficients are made in float64 whatever the
input: in float32 `1 - alpha^2` is not monotone near the ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

__all__ = ["CLEAN", "Level", "Schedule"]

CLEAN = -1.0
"""The time of clean data, before t = 0."""


class Level(NamedTuple):
    """How noisy a time is: float64 tensors of the shape of the time."""

    alpha: Tensor
    sigma: Tensor
    clock: Tensor


class Schedule(nn.Module, ABC):
    """Time to noise level."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of alpha for float64 times in [0, 1]."""

    @abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """Logarithm of sigma for float64 times in [0, 1]."""

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(self, t: Tensor) -> Level:
        """alpha, sigma and clock at times of any shape, `CLEAN` included."""
        time = t.double()
        clean = time < 0
        time = time.clamp(min=0)
        log_alpha = self.log_alpha(time)
        log_sigma = self.log_sigma(time)
        alpha = torch.where(clean, 1.0, log_alpha.exp())
        sigma = torch.where(clean, 0.0, log_sigma.exp())
        return Level(alpha, sigma, torch.where(clean, torch.inf, log_alpha - log_sigma))

    @final
    def alpha(self, t: Tensor) -> Tensor:
        """The factor on the data."""
        return self.forward(t).alpha

    @final
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        return self.forward(t).sigma

    @final
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), twice the clock."""
        return 2 * self.forward(t).clock

    @final
    def time(self, clock: Tensor) -> Tensor:
        """The time in [0, 1] at which the clock shows `clock`, by bisection in float64.

        A value outside the schedule's range gives the nearer end.
        """
        clock = clock.double()
        low, high = torch.zeros_like(clock), torch.ones_like(clock)
        with torch.no_grad():
            for _ in range(60):
                middle = (low + high) / 2
                later = self(middle).clock > clock
                low = torch.where(later, middle, low)
                high = torch.where(later, high, middle)
        return torch.where(self(torch.ones_like(clock)).clock >= clock, 1.0, low)
