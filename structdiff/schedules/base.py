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

__all__ = ["CLEAN", "Level", "Schedule", "check_fixed", "check_one_level"]

CLEAN = -1.0
"""The time of clean data, before t = 0."""


class Level(NamedTuple):
    """How noisy a time is: float64 tensors of the shape of the time."""

    alpha: Tensor
    sigma: Tensor
    clock: Tensor


class Schedule(nn.Module, ABC):
    """Time to noise level.

    Where entries of a row have noise levels of their own, `event` is their shape, and times with
    an axis of length 1 (or of the event's) for each of its axes give levels with those axes.
    """

    event: tuple[int, ...] = ()

    @property
    def reference(self) -> Schedule:
        """The schedule of one level per time whose clock networks, weights and grids see."""
        return self

    @final
    def spread(self, t: Tensor) -> Tensor:
        """Times with an axis for each axis of `event`; as they are where there is none."""
        return t.reshape((*t.shape, *(1,) * len(self.event)))

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
        time = t.double()
        return torch.where(time < 0, 1.0, self.log_alpha(time.clamp(min=0)).exp())

    @final
    def sigma(self, t: Tensor) -> Tensor:
        """The standard deviation of the noise."""
        return self.forward(t).sigma

    @final
    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2), twice the clock."""
        return 2 * self.forward(t).clock

    @final
    def slope(self, t: Tensor) -> Tensor:
        """How fast the clock falls, -d clock / dt, in float64, by automatic differentiation.

        At a kink it is the slope on the side of the data, and an end counts as its neighbour
        inside, so that it is finite on all of [0, 1]. Where the clock stands still, infinite
        or not (outside a `Window`, at `CLEAN`), it is 0. Gradients flow to t and to what the
        schedule learns.

        Arguments:
            t: Times of any shape.

        Example:
            >>> from structdiff.schedules import Flow
            >>> Flow().slope(torch.tensor(0.25)).item()  # 1 / (t (1 - t))
            5.333333
        """
        learned = t.requires_grad or any(p.requires_grad for p in self.parameters())
        again = learned and torch.is_grad_enabled()
        with torch.enable_grad():
            # A little earlier: on a grid point an interpolation has no derivative.
            time = self._widened((t.double() * (1 - 2**-50)).clamp(min=2**-40))
            time = time if time.requires_grad else time.detach().requires_grad_()
            clock = self.log_alpha(time) - self.log_sigma(time)
            (rate,) = torch.autograd.grad(clock.sum(), time, create_graph=again)
        return torch.where((t < 0) | clock.isinf(), 0.0, -rate)

    def _widened(self, t: Tensor) -> Tensor:
        """Times of the shape of the levels, so that each entry has a rate of its own."""
        return t + t.new_zeros(self.event)

    @final
    def decay(self, t: Tensor) -> Tensor:
        """d log alpha / dt, in float64, by automatic differentiation; not positive.

        Arguments:
            t: Times of any shape; at `CLEAN` it is 0.
        """
        with torch.enable_grad():
            time = self._widened((t.double() * (1 - 2**-50)).clamp(min=2**-40))
            time = time.detach().requires_grad_()
            log_alpha = self.log_alpha(time)
            if not log_alpha.requires_grad:
                return torch.zeros_like(time)
            (rate,) = torch.autograd.grad(log_alpha.sum(), time, allow_unused=True)
        rate = torch.zeros_like(time) if rate is None else rate
        return torch.where(t < 0, 0.0, rate)

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


def check_one_level(schedule: Schedule) -> None:
    """Refuse a schedule with noise levels by entry where one level is meant.

    Raises:
        ValueError: If it has them.
    """
    if schedule.event:
        has = f"{type(schedule).__name__} has noise levels by entry {schedule.event}"
        msg = f"schedule must have one level, but {has}: change the schedule inside it"
        raise ValueError(msg)


def check_fixed(schedule: Schedule) -> None:
    """Refuse a schedule that is learned where its ends are read once.

    Raises:
        ValueError: If a parameter of it has a gradient.
    """
    if any(weight.requires_grad for weight in schedule.parameters()):
        has = f"{type(schedule).__name__} is learned and its ends would move"
        msg = f"schedule must be fixed, but {has}: learn it first, then requires_grad_(False)"
        raise ValueError(msg)
