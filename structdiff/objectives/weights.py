r"""Loss weights: functions of a leaf's clock, never of raw time.

The base error is that of x_0 (squared on R^n, in flat units on manifolds, cross-entropy on
classes). With SNR = exp(2 clock), `SNR` weighs the error of eps uniformly (L_simple), since
|eps - eps'|^2 = SNR |x_0 - x_0'|^2. What the network predicts does not enter.

References:
    Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
    Efficient Diffusion Training via Min-SNR Weighting (Hang et al., 2023).
    https://arxiv.org/abs/2303.09556
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    table 1.
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["EDM", "SNR", "MinSNR", "Uniform", "Weight"]


class Weight(ABC):
    """Clock to weight."""

    @abstractmethod
    def __call__(self, clock: Tensor) -> Tensor:
        """The weight on the error of x_0, of the shape of the clock."""


class Uniform(Weight):
    """1: the error of x_0 itself.

    Arguments:
        scale: A constant factor.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, clock: Tensor) -> Tensor:
        """The constant."""
        return torch.full_like(clock, self.scale)


class SNR(Weight):
    """exp(2 clock): the error of eps, L_simple of DDPM."""

    def __call__(self, clock: Tensor) -> Tensor:
        """The signal-to-noise ratio."""
        return torch.exp(2 * clock)


class MinSNR(Weight):
    """min(SNR, gamma).

    Arguments:
        gamma: The largest weight, 5 in the paper.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, clock: Tensor) -> Tensor:
        """The truncated ratio."""
        return torch.exp(2 * clock).clamp(max=self.gamma)


class EDM(Weight):
    """SNR + 1 / sigma_data^2: unit weight on the output of the preconditioned network.

    Arguments:
        sigma_data: Standard deviation of the data's entries.
    """

    def __init__(self, sigma_data: float = 1.0) -> None:
        self.sigma_data = sigma_data

    def __call__(self, clock: Tensor) -> Tensor:
        """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 at sigma = exp(-clock)."""
        return torch.exp(2 * clock) + self.sigma_data**-2
