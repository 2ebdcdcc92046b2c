r"""Loss weights: functions of a leaf's clock, never of raw time.

The base error is that of x_0 (squared on R^n, in flat units on manifolds, cross-entropy on
classes). With SNR = exp(2 clock), `SNR` weighs the error of eps uniformly (L_simple), since
|eps - eps'|^2 = SNR |x_0 - x_0'|^2. What the network predicts does not enter. The error of the
score weighted by sigma^2 (Song and Ermon) is the error of eps too, hence `SNR`.

Times are drawn from a law of their own, see `TimeDistribution`: a paper that integrates over
log-SNR draws them uniformly in it.

References:
    Variational Diffusion Models (Kingma et al., 2021). https://arxiv.org/abs/2107.00630
    Efficient Diffusion Training via Min-SNR Weighting (Hang et al., 2023).
    https://arxiv.org/abs/2303.09556
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    table 1.
    https://arxiv.org/abs/2206.00364
    Progressive Distillation for Fast Sampling (Salimans and Ho, 2022), section 4.
    https://arxiv.org/abs/2202.00512
    Perception Prioritized Training of Diffusion Models (Choi et al., 2022), eq. 8.
    https://arxiv.org/abs/2204.00227
    Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation (Kingma and Gao,
    2023), section 5: monotone weights of the error of eps. https://arxiv.org/abs/2303.00848
    Simpler Diffusion (Hoogeboom et al., 2024), section 3.1: the sigmoid's bias.
    https://arxiv.org/abs/2410.19324
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["EDM", "P2", "SNR", "MinSNR", "SigmoidWeight", "TruncatedSNR", "Uniform", "Weight"]


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


class TruncatedSNR(Weight):
    """max(SNR, 1): the larger of the errors of x_0 and of eps."""

    def __call__(self, clock: Tensor) -> Tensor:
        """The ratio, and 1 where noise prevails."""
        return torch.exp(2 * clock).clamp(min=1)


class SigmoidWeight(Weight):
    """sigmoid(bias - log SNR) on the error of eps: low noise, which cannot be seen, counts less.

    On the error of x_0 this is SNR sigmoid(bias - log SNR) = e^bias sigmoid(log SNR - bias).

    Arguments:
        bias: Log-SNR above which the weight of eps falls; larger sees finer details.
    """

    def __init__(self, bias: float = 0.0) -> None:
        self.bias = bias

    def __call__(self, clock: Tensor) -> Tensor:
        """A sigmoid that rises with the clock."""
        return math.exp(self.bias) * torch.sigmoid(2 * clock - self.bias)


class P2(Weight):
    """SNR / (k + SNR)^gamma: 1 / (k + SNR)^gamma on the error of eps.

    Arguments:
        k: SNR above which the weight of eps falls, positive; 1 in the paper.
        gamma: How fast it falls; 0.5 or 1 in the paper, 0 is `SNR`.

    Raises:
        ValueError: If k is not positive or gamma is negative.
    """

    def __init__(self, k: float = 1.0, gamma: float = 1.0) -> None:
        if k <= 0:
            msg = f"k must be positive, got {k}"
            raise ValueError(msg)
        if gamma < 0:
            msg = f"gamma must be at least 0, got {gamma}"
            raise ValueError(msg)
        self.log_k, self.gamma = math.log(k), gamma

    def __call__(self, clock: Tensor) -> Tensor:
        """exp(log SNR - gamma log(k + SNR))."""
        log_snr = 2 * clock
        damping = torch.logaddexp(log_snr, torch.full_like(log_snr, self.log_k))
        return torch.exp(log_snr - self.gamma * damping)
