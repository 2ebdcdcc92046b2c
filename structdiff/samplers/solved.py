"""What walks that solve an equation with steps of their own share: two steps, and the last one.

The first step of the walk solves an equation from noise to an early time, the second goes to clean
data by the step of the process.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self, final

import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Walk
from structdiff.schedules import CLEAN

__all__ = ["Solved"]


class Solved(Walk):
    """An equation, and the step to clean data.

    Arguments:
        denoiser: The denoiser.
        ends: Times at which the equation begins and ends.
    """

    process: Any
    batch: Batch
    random: Randomness

    def __init__(self, denoiser: Denoiser, ends: tuple[float, float]) -> None:
        self.denoiser, self.ends = denoiser, ends

    @abstractmethod
    def solve(self, carry: Carry) -> Carry:
        """The carry at the end of the equation."""

    @final
    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.batch, bound.random = batch, random
        bound.process = self.denoiser.process.bind(batch)
        return bound

    @property
    @final
    def steps(self) -> int:
        """Two: the equation, and the step to clean data."""
        return 2

    @final
    def start(self) -> Carry:
        """A draw from the prior."""
        return Carry(self.process.prior(self.random.scoped(step=0), self.ends[0]))

    @final
    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after the equation, or after the last step."""
        return self.solve(carry) if i == 0 else self.finish(carry)

    @final
    def finish(self, carry: Carry) -> Carry:
        """The step to clean data."""
        last = torch.tensor([self.ends[1], CLEAN], dtype=torch.float64)
        (coefficients,) = self.process.plan(last, 0.0)
        t = self.process.times(last[0].to(self.batch.device))
        estimate = self.denoiser(self.batch.with_leaves(carry.x), t, None)
        x = self.process.step(carry.x, estimate, coefficients, self.random.scoped(step=1))
        return replace(carry, x=x, calls=carry.calls + 1)
