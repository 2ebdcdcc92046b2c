r"""Restart: in an interval of times the walk goes back to noise and comes again, several times.

When the walk first reaches the interval's early end t_min it is noised to its late end t_max, by
a draw of q(x_tmax | x_tmin), and solved back to t_min; `rounds` times, then it goes on to data.
The way back to noise is exact, and a solver's way to t_min nearly so, so the law at t_min is kept
to the solver's order; but each round forgets what was wrong before it, by the factor by which the
noise of t_max shrinks differences. A deterministic solver so gets what fresh noise is good for,
at its own order, up to the second, and not at that of stochastic steps. On classes rows are
redrawn.

References:
    Restart Sampling for Improving Generative Processes (Xu et al., 2023), algorithm 1.
    https://arxiv.org/abs/2306.14878
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Markov
from structdiff.random import Displaced, Randomness
from structdiff.samplers.base import Carry, Sampler, Space, Walk
from structdiff.samplers.wrapped import BEYOND
from structdiff.schedules import CLEAN, Grid

__all__ = ["Restart"]


class Section(Grid):
    """Some times of a grid, then clean."""

    def __init__(self, times: Tensor) -> None:
        self.kept = times

    def times(self) -> Tensor:
        """The times."""
        return torch.cat([self.kept, self.kept.new_full((1,), CLEAN)])


class Restart(Walk):
    """A sampler that walks an interval of its grid several times, from fresh noise.

    Each way through the interval is a walk of its own: a multistep method begins anew with it.

    Arguments:
        make: Makes the sampler from a denoiser and a grid: `Heun`, `DDIM`, a partial of
            `Multistep`.
        denoiser: The denoiser; its process must be Markov.
        grid: Times of the whole walk.
        interval: (t_min, t_max); the restarts are between the first and the last time of the grid
            inside it.
        rounds: Number of restarts, at least 1.

    Raises:
        ValueError: If a number is out of range, the interval holds fewer than two times of the
            grid, or the process is not Markov.

    Example:
        >>> from structdiff import Cosine, Gaussian, Generator, Heun, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> grid = UniformTime(10)
        >>> walk = Restart(Heun, denoiser, grid, interval=(0.3, 0.6), rounds=2)
        >>> walk.steps  # 10, and twice 3
        16
    """

    def __init__(
        self,
        make: Callable[[Denoiser, Grid], Sampler],
        denoiser: Denoiser,
        grid: Grid,
        *,
        interval: tuple[float, float],
        rounds: int = 1,
    ) -> None:
        if rounds < 1:
            msg = f"rounds must be at least 1, got {rounds}: without restarts use the sampler"
            raise ValueError(msg)
        if not denoiser.process.offers(Markov):
            name = type(denoiser.process).__name__
            msg = f"the process must be Markov to restart from noisier states, {name} is not"
            raise ValueError(msg)
        self.times, self.rounds = grid.times(), rounds
        late, early = section(self.times, interval)
        self.ends = self.times[[early, late]]
        first = make(denoiser, Section(self.times[: early + 1]))
        loop = make(denoiser, Section(self.times[late : early + 1]))
        last = make(denoiser, Section(self.times[early:-1]))
        self.legs = [first, *[loop] * rounds, last]
        lengths = [early, *[early - late] * rounds, len(self.times) - 1 - early]
        self.places = [(leg, j) for leg, steps in enumerate(lengths) for j in range(steps)]

    def order(self, space: Space) -> int:
        """That of the sampler, at most 2: the way back to noise is exact.

        Orders above the second need a walk that begins in pure noise, and rounds begin later.
        """
        return min(self.legs[0].order(space), 2)

    batch: Batch
    random: Randomness

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from; the walk to t_min draws what the sampler draws.
        """
        bound = copy.copy(self)
        bound.batch, bound.random = batch, random
        # The ways back to noise are drawn at BEYOND + 1, ..., the later legs beyond those.
        bound.legs = [
            leg.bind(batch, Displaced(random, 2 * k * BEYOND)) for k, leg in enumerate(self.legs)
        ]
        return bound

    @property
    def steps(self) -> int:
        """Number of steps of the whole walk."""
        return len(self.places)

    def start(self) -> Carry:
        """That of the sampler."""
        return self.legs[0].start()

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i; the first of a round begins with the way back to noise."""
        leg, j = self.places[i]
        if j == 0 and leg > 0:
            carry = replace(carry, history=(), memory={})
            if leg <= self.rounds:
                carry = self.restart(carry, leg)
        return self.legs[leg].step(carry, j)

    def restart(self, carry: Carry, turn: int) -> Carry:
        """A draw at t_max."""
        process: Any = self.legs[0].process
        s, t = (process.times(time) for time in self.ends.to(self.batch.device).unbind())
        x = process.corrupt(carry.x, s, t, self.random.scoped(step=BEYOND + turn))
        return replace(carry, x=x, previous=None)


def section(times: Tensor, interval: tuple[float, float]) -> tuple[int, int]:
    """The first and the last place of a falling grid inside an interval."""
    low, high = interval
    if not 0 <= low < high <= 1:
        msg = f"interval must satisfy 0 <= t_min < t_max <= 1, got {low} and {high}"
        raise ValueError(msg)
    # An end that is a time of the grid counts, though it comes with rounding.
    inside = ((times >= low - 1e-12) & (times <= high + 1e-12) & (times >= 0)).nonzero().flatten()
    if len(inside) < 2:
        msg = f"interval ({low:g}, {high:g}) must hold at least two times of the grid"
        raise ValueError(f"{msg}, got {len(inside)}: widen it or take a finer grid")
    return int(inside[0]), int(inside[-1])
