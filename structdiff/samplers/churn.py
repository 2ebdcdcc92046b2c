r"""Churn: noise is added again before each step of Heun's method.

From t_i the walk first goes back to a noisier time t_i' with sigma / alpha larger by 1 + gamma_i,
by a draw of q(x_t' | x_t), and steps from there to t_{i+1}:

    gamma_i = min(churn / N, sqrt(2) - 1)    where low <= sigma_i / alpha_i <= high, else 0.

Both moves keep the marginals, the first exactly, so fresh noise washes out errors of earlier steps
at no cost in order. N steps cost 2 N - 1 calls.

References:
    Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    algorithm 2. https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Markov
from structdiff.random import Tempered
from structdiff.samplers.base import Carry, Estimates, Record, Sampler, Space
from structdiff.samplers.heun import Heun
from structdiff.schedules import Grid, Schedule

__all__ = ["Churn"]


class Churn(Sampler):
    """Heun's method with noise added before each step.

    The noise ends at t = 1: a first step at t = 1 is not raised, and one near it less. For that to
    be as in the paper, let the schedule go on above the grid's first level. On classes, rows are
    redrawn in place of noise.

    Arguments:
        denoiser: The denoiser; its process must be Markov.
        grid: Times of the steps.
        schedule: Its sigma / alpha is what gamma, low and high speak of.
        churn: S_churn of the paper, the amount of fresh noise, at least 0; at 0 this is `Heun`.
        low: S_tmin, the level below which no noise is added.
        high: S_tmax, the level above which none is.
        noise: S_noise, a factor on the fresh normal numbers; 1 keeps the law, slightly more
            makes up for networks that remove too much.

    Raises:
        ValueError: If a number is out of range or the process is not Markov.

    Example:
        >>> from structdiff import Batch, Gaussian, Generator, Karras, KarrasGrid
        >>> from structdiff.testing import NormalDenoiser
        >>> schedule = Karras()
        >>> denoiser = NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.ones(1))
        >>> sampler = Churn(denoiser, KarrasGrid(schedule, 72), schedule, churn=20.0)
        >>> drawn = sampler.sample(Batch.of(torch.zeros(4000)), Generator(0))
        >>> round(drawn["x"].std().item(), 1)
        1.0
    """

    def __init__(
        self,
        denoiser: Denoiser,
        grid: Grid,
        schedule: Schedule,
        *,
        churn: float = 40.0,
        low: float = 0.0,
        high: float = math.inf,
        noise: float = 1.0,
    ) -> None:
        super().__init__(denoiser, grid, eta=0.0)
        if churn < 0:
            msg = f"churn must be at least 0, got {churn}"
            raise ValueError(msg)
        if not 0 <= low <= high:
            msg = f"low and high must satisfy 0 <= low <= high, got {low} and {high}"
            raise ValueError(msg)
        if noise < 0:
            msg = f"noise must be at least 0, got {noise}"
            raise ValueError(msg)
        if not denoiser.process.offers(Markov):
            name = type(denoiser.process).__name__
            msg = f"the process must be Markov to add noise between two times, {name} is not"
            raise ValueError(msg)
        self.heun, self.noise = Heun(denoiser, grid), noise
        self.raised = raised_times(self.times, schedule, churn, low, high)

    def order(self, space: Space) -> int:
        """That of `Heun`, in law, with `noise` 1."""
        return self.heun.order(space)

    mixing: list[Any]

    def prepare(self) -> None:
        """Coefficients and weights of the steps that start at a raised time."""
        self.coefficients = list(self.coefficients)
        self.mixing = list(self.process.weights(self.heun.rule, self.times))
        for i, t in enumerate(self.raised):
            if t > self.times[i]:
                pair = torch.stack([t, self.times[i + 1]])
                (self.coefficients[i],) = self.process.plan(pair, self.eta)
                (self.mixing[i],) = self.process.weights(self.heun.rule, pair)
        # The raised times follow those of the grid.
        raised = self.raised.to(self.batch.device).unbind()
        self.leaf_times = [*self.leaf_times, *(self.process.times(t) for t in raised)]
        self.moves = (self.raised > self.times[:-1]).tolist()

    moves: list[bool]

    def add_noise(self, x: Record, i: int) -> Record:
        """A draw at the raised time of step i."""
        if not self.moves[i]:
            return x
        # Addresses 0 to 2 N are those of the prior and of the steps.
        random = Tempered(self.random, self.noise).scoped(step=2 * self.steps + 1 + i)
        process: Any = self.process
        noisier: Record = process.corrupt(
            x, self.leaf_times[i], self.leaf_times[self.steps + 1 + i], random
        )
        return noisier

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The mean of the estimates at the raised time and at the step's end."""
        x = self.add_noise(carry.x, i)
        first = self.denoise(x, self.steps + 1 + i, carry.previous)
        carry = replace(carry, x=x, previous=first, calls=carry.calls + 1)
        if i + 1 == self.steps:
            return first, carry
        x_s = self.advance(x, first, i, part=2)
        second = self.denoise(x_s, i + 1, first)
        carry = replace(carry, previous=second, calls=carry.calls + 1)
        return self.process.combine(((x_s, second), (x, first)), self.mixing[i], x), carry


def raised_times(
    times: Tensor, schedule: Schedule, churn: float, low: float, high: float
) -> Tensor:
    """Where each step starts, `(steps,)`: the time itself where no noise is added."""
    t = times[:-1]
    clock = schedule(t).clock
    ratio = torch.exp(-clock)
    gamma = min(churn / len(t), math.sqrt(2) - 1)
    later = schedule.time(clock - math.log1p(gamma))
    # A level given as an end counts, though it comes back from a time with rounding.
    inside = (ratio >= low * (1 - 1e-9)) & (ratio <= high * (1 + 1e-9))
    moved = inside & (gamma > 0) & (later > t)
    return torch.where(moved, later, t)
