"""Moving average of weights.

References:
    Improved Techniques for Training Score-Based Generative Models (Song and Ermon, 2020), section
    4.
    https://arxiv.org/abs/2006.09011
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["MovingAverage"]


class MovingAverage:
    """`average <- m average + (1 - m) weight`, m = min(decay, (1 + n) / (10 + n)) at update n.

    Arguments:
        weights: The parameters to follow.
        decay: Largest m, in [0, 1).
    """

    def __init__(self, weights: Iterable[Tensor], decay: float) -> None:
        self.weights = list(weights)
        self.average = [weight.detach().clone() for weight in self.weights]
        self.decay = decay

    @torch.no_grad()
    def update(self, n: int) -> None:
        """Follow the weights after update n (from 0)."""
        m = min(self.decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(self.average, self.weights, 1 - m)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages; twice is nothing."""
        for weight, average in zip(self.weights, self.average, strict=True):
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
