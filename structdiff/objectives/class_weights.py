r"""Weights on the cross-entropy of chains.

The survival alpha of a chain is a function of its clock, whatever the schedule: alpha =
sigmoid(clock). Where times are such that alpha is uniform (`UniformTimes` with the schedule
`Flow`), the absorbing chain's bound weighs the cross-entropy of masked rows by 1 / (1 - alpha),
and what papers train with are factors on it:

| weight | factor on the bound's | paper |
|---|---|---|
| `InverseSigma()` | 1 | MDLM, MD4; lambda of RDM |
| `Alpha(T)` | (1 - alpha) (alpha + 1 / T) | absorbing diffusion of codes; linear weight of RDM |
| `Uniform()` | 1 - alpha | plain cross-entropy of masked rows |

For other schedules and laws of times `ContinuousBound` has the bound's weight.

References:
    Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), eq. 10.
    https://arxiv.org/abs/2406.07524
    Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024), eq. 5.
    https://arxiv.org/abs/2406.04329
    Unleashing Transformers: Parallel Token Prediction with Discrete Absorbing Diffusion
    (Bond-Taylor et al., 2022). https://arxiv.org/abs/2111.12701
    A Reparameterized Discrete Diffusion Model for Text Generation (Zheng et al., 2023).
    https://arxiv.org/abs/2302.05737
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.objectives.weights import Weight

__all__ = ["Alpha", "InverseSigma"]


class InverseSigma(Weight):
    """sigma^-p = (1 + e^clock)^p, where alpha + sigma = 1.

    With p = 1 it is the bound of the absorbing chain where alpha is uniform, with p = 2 the plain
    squared error of the velocity of a flow: |u - u'|^2 = |x_0 - x_0'|^2 / sigma^2.

    Arguments:
        power: The exponent p, positive.

    Raises:
        ValueError: If the power is not positive.

    Example:
        >>> InverseSigma()(torch.logit(torch.tensor([0.5, 0.75])))  # a half, a quarter masked
        tensor([2., 4.])
    """

    def __init__(self, power: float = 1.0) -> None:
        if not power > 0:
            msg = f"power must be positive, got {power}"
            raise ValueError(msg)
        self.power = power

    def __call__(self, clock: Tensor) -> Tensor:
        """Falls from infinity at the data to 1 at noise."""
        return (1 + torch.exp(clock)) ** self.power


class Alpha(Weight):
    """alpha + 1 / T = sigmoid(clock) + 1 / T: rows that are hard to tell count less.

    With alpha = 1 - t / T it is (T - t + 1) / T, at the step t of T of the absorbing chain.

    Arguments:
        steps: Number T of steps, at least 1; infinitely many by default.

    Raises:
        ValueError: If there are no steps.
    """

    def __init__(self, steps: float = math.inf) -> None:
        if not steps >= 1:
            msg = f"steps must be at least 1, got {steps}"
            raise ValueError(msg)
        self.rest = 1 / steps

    def __call__(self, clock: Tensor) -> Tensor:
        """Falls from 1 + 1 / T at the data to 1 / T at noise."""
        return torch.sigmoid(clock) + self.rest
