r"""Backward guidance: the estimate itself climbs the reward.

After the denoiser has said what the clean record is, m steps of gradient ascent on a reward of the
clean record move what it said, with no gradient through the network:

- on R^n the mean by rate grad r,
- on classes log p(x_0 = k | x_t) by rate dr/dp_k, normalised,
- on manifolds the tangent vector by the part of rate grad r that is tangent.

For a linear r the steps add up to one of m rate, which on R^n is a shift of the mean by m rate a,
and for one row on classes the tilt of `Rewarded` by w = m rate. Around a `Rewarded` denoiser this
is universal guidance. Its third part, each step taken k times with noise in between, is `RePaint`
with nothing known and jump = 1.

References:
    Universal Guidance for Diffusion Models (Bansal et al., 2023), section 3.2 and algorithm 1.
    https://arxiv.org/abs/2302.07121
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.rewards import Reward, chances, detached, slopes_of
from structdiff.processes import Estimate, Finite, Flowing, Process

__all__ = ["Refined"]


class Refined(Denoiser):
    """A denoiser whose estimates climb a reward. Given entries stay.

    Arguments:
        denoiser: Any denoiser of leaves on R^n, classes and manifolds.
        reward: r(estimates, batch), differentiable; see `Reward`.
        rate: Length of a step for a slope of one; below zero it descends.
        steps: How many, at least 0.

    Raises:
        ValueError: If a number is out of range or a leaf has no directions to move in; on a
            call, if the reward is not one number a sample.

    Example:
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> refined = Refined(denoiser, lambda said, batch: 2 * said["x"].value, 0.1, steps=5)
        >>> refined(Batch.of(torch.zeros(1)), {"x": torch.tensor(0.5)})["x"].value
        tensor([1.])
    """

    def __init__(self, denoiser: Denoiser, reward: Reward, rate: float, *, steps: int = 1) -> None:
        super().__init__()
        if not math.isfinite(rate) or steps < 0:
            msg = f"rate must be finite and steps at least 0, got {rate} and {steps}"
            raise ValueError(msg)
        process: Any = denoiser.process
        self.finite: tuple[str, ...] = process.offering(Finite)
        self.smooth: tuple[str, ...] = process.offering(Flowing)
        if len(self.finite) + len(self.smooth) < len(process.offering(Process)):
            msg = "a leaf of the process is neither on classes nor Flowing: it cannot be refined"
            raise ValueError(msg)
        self.denoiser, self.reward = denoiser, reward
        self.rate, self.steps = rate, steps
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The estimates after the last step; with no steps the reward is not asked."""
        said: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        if not self.steps:
            return said
        process: Any = self.process.bind(batch)
        said = {name: detached(estimate) for name, estimate in said.items()}
        for _ in range(self.steps):
            said = self.climb(said, batch, process)
        return said

    def climb(
        self, said: Mapping[str, Estimate], batch: Batch, process: Any
    ) -> dict[str, Estimate]:
        """One step."""
        opened = {n: chances(said[n]) for n in self.finite}
        opened |= {n: said[n].value.clone().requires_grad_() for n in self.smooth}
        told = {n: replace(said[n], value=value) for n, value in opened.items()}
        slopes = slopes_of(self.reward, told, batch, opened, self.finite)
        moved = {n: process[n].tangent(batch[n], slopes[n]) for n in self.smooth}
        values = {n: said[n].value + self.rate * v for n, v in moved.items()}
        for n in self.finite:
            log_p = said[n].value
            change = torch.where(log_p == -torch.inf, 0.0, self.rate * slopes[n])
            values[n] = torch.log_softmax(log_p + change, -1)
        return {n: replace(estimate, value=values[n]) for n, estimate in said.items()}
