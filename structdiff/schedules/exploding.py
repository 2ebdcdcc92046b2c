r"""Schedules with alpha = 1: the noise explodes.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), eq. 30.
    https://arxiv.org/abs/2011.13456
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022), eq. 5.
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule

__all__ = ["Geometric", "Karras"]


def check_sigmas(sigma_min: float, sigma_max: float) -> None:
    """Refuse a range that is empty or not positive."""
    if not 0 < sigma_min < sigma_max:
        must = "sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max"
        msg = f"{must}, got {sigma_min} and {sigma_max}"
        raise ValueError(msg)


def check_rho(rho: float) -> None:
    """Refuse an exponent that is not positive."""
    if rho <= 0:
        msg = f"rho must be positive, got {rho}"
        raise ValueError(msg)


class Geometric(Schedule):
    """VE: `sigma = sigma_min (sigma_max / sigma_min)^t`, also called exponential.

    Arguments:
        sigma_min: Noise at t = 0, positive.
        sigma_max: Noise at t = 1.

    Raises:
        ValueError: If the range is empty or not positive.

    Example:
        >>> round(Geometric(0.01, 100.0).sigma(torch.tensor(0.5)).item(), 6)
        1.0
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        check_sigmas(sigma_min, sigma_max)
        self.low, self.high = math.log(sigma_min), math.log(sigma_max)

    def log_alpha(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Linear in t."""
        return self.low + t * (self.high - self.low)


class Karras(Schedule):
    """EDM of Karras et al.: sigma^(1/rho) is linear in t, from sigma_min to sigma_max.

    Arguments:
        sigma_min: Noise at t = 0, positive.
        sigma_max: Noise at t = 1.
        rho: How dense low noise is, positive; 7 in the paper.

    Raises:
        ValueError: If the range is empty or a number is not positive.

    Example:
        >>> Karras().sigma(torch.tensor([0.0, 1.0])).tolist()
        [0.002, 80.0]
    """

    def __init__(
        self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
    ) -> None:
        super().__init__()
        check_sigmas(sigma_min, sigma_max)
        check_rho(rho)
        self.low, self.high, self.rho = sigma_min ** (1 / rho), sigma_max ** (1 / rho), rho

    def log_alpha(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """rho log(low + t (high - low))."""
        return self.rho * torch.log(self.low * (1 - t) + self.high * t)
