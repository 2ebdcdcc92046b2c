r"""Coordinates of the noise level in which estimates are smooth.

A sampler puts polynomials through estimates, and lays its grid evenly, in some coordinate of the
noise-to-signal ratio rho = sigma / alpha = e^{-clock}. All that are in use are points of one
family with two numbers, Box and Cox's power of 1 + rho / c,

    u(rho) = ((1 + rho / c)^q - 1) / q         (q = 0: log(1 + rho / c);  c = 0: of rho itself):

the log-SNR is c = 0, q = 0; the coordinate of Karras et al. c = 0, q = 1 / 7; the rectified path's
time rho / (1 + rho) is c = 1, q = -1; rho itself is q = 1. Below c the coordinate is linear in
rho, above it is logarithmic or a power.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LOG_SNR", "RECTIFIED", "Warp", "arctan"]


@dataclass(frozen=True)
class Warp:
    """One coordinate; called with clocks it gives values that fall as the clock rises.

    Arguments:
        centre: The ratio c below which it is linear, not negative.
        power: The power q.

    Raises:
        ValueError: If a number is not finite or the centre negative.

    Example:
        >>> Warp(1.0, -1.0)(torch.tensor([0.0])).tolist()  # rho / (1 + rho) at rho = 1
        [0.5]
    """

    centre: float = 0.0
    power: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.centre) and math.isfinite(self.power) and self.centre >= 0):
            given = f"centre = {self.centre} and power = {self.power}"
            msg = f"{given} must be finite and the centre not negative"
            raise ValueError(msg)

    def __call__(self, clock: Tensor) -> Tensor:
        """The coordinate at clocks of any shape."""
        log = -clock
        if self.centre > 0:
            log = torch.nn.functional.softplus(-clock - math.log(self.centre))
        return torch.expm1(self.power * log) / self.power if self.power else log

    def inverse(self, value: Tensor) -> Tensor:
        """The clock at which the coordinate has these values."""
        log = torch.log1p(self.power * value) / self.power if self.power else value
        return -log if self.centre == 0 else -torch.log(self.centre * torch.expm1(log))


LOG_SNR = Warp()
"""The log-SNR, in which DPM-Solver and DEIS make their polynomials."""

RECTIFIED = Warp(1.0, -1.0)
"""rho / (1 + rho), the time of the rectified path."""


def arctan(clock: Tensor) -> Tensor:
    """arctan rho: linear below 1, flat above; the angle of the spherical path."""
    return torch.atan(torch.exp(-clock))
