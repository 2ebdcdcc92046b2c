r"""Heun's method: step, look again at the end, redo the step with both estimates.

The trapezoidal rule in sigma / alpha for the probability-flow ODE. Written as one effective
estimate, with h = lambda_s - lambda_t the step in the clock, its weights are e^h / 2 on the
estimate at the end and 1 - e^h / 2 on that at the start; the step to clean data uses the present
estimate alone. N steps cost 2 N - 1 calls.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    algorithm 1. https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.schedules import Grid

__all__ = ["Heun"]


class Heun(Sampler):
    """Second order with two calls a step.

    Arguments:
        denoiser: The denoiser.
        grid: Times of the steps.
        eta: Fresh noise of the step that is kept, 0 by default.
    """

    def __init__(self, denoiser: Denoiser, grid: Grid, *, eta: float = 0.0) -> None:
        super().__init__(denoiser, grid, eta=eta)

    def order(self, space: Space) -> int:
        """Second for deterministic walks, first for classes and with fresh noise."""
        return 1 if space == "classes" or self.eta > 0 else 2

    def rule(self, clock: Tensor) -> Tensor:
        """Weights of each step: estimate at its end, estimate at its start."""
        end = 0.5 * torch.exp(clock[1:] - clock[:-1])
        end = torch.where(torch.isfinite(end), end, 0.0)
        return torch.stack([end, 1 - end], 1)

    mixing: Any

    def prepare(self) -> None:
        """The weights of the whole grid, in the clock of each leaf."""
        self.mixing = self.process.weights(self.rule, self.times)

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The mean of both ends."""
        first = self.denoise(carry.x, i, carry.previous)
        carry = carry.changed(previous=first, calls=carry.calls + 1)
        if i + 1 == self.steps:
            return first, carry
        x_s = self.advance(carry.x, first, i, part=2)
        second = self.denoise(x_s, i + 1, first)
        carry = carry.changed(previous=second, calls=carry.calls + 1)
        history = ((x_s, second), (carry.x, first))
        return self.process.combine(history, self.mixing[i], carry.x), carry
