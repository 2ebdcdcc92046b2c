r"""Singlestep: every step of order k is made of k calls of its own, and keeps no past.

In the clock lambda = log(alpha / sigma) the deterministic step from a time of clock lambda_0 is
x_s = (sigma_s / sigma_t) x_t + sigma_s int e^lambda x_0(lambda) d lambda. The times of the grid
are cut into groups of k; from the state at the first time of a group the walk goes to each of the
others and to the first of the next group, every time from that first state, with x_0(lambda)
replaced by the polynomial through the estimates that the group has made so far:

    k = 1                   DDIM, which is DPM-Solver-1;
    k = 2                   the estimate at t_0 leads to t_1, both lead to t_2;
    k = 3                   the estimate at t_0 leads to t_1, both to t_2, all three to t_3,

with exact integrals, as in `Multistep`. That is DPM-Solver of the singlestep kind in the
coordinates of x_0 (DPM-Solver++ kS; the first paper has noise in their place), with intermediate
times where the grid puts them: on a grid even in the clock at 1/2, or 1/3 and 2/3. A group of
three is of third order where its third time is at 2/3 to first order, which any smooth grid is.

References:
    DPM-Solver (Lu et al., 2022), algorithms 1 and 2. https://arxiv.org/abs/2206.00927
    DPM-Solver++ (Lu et al., 2022), section 4 and algorithm 1. https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients
from structdiff.samplers.base import Carry, Estimates, Sampler, Space
from structdiff.samplers.multistep import exponential_weights
from structdiff.schedules import Grid

__all__ = ["Singlestep"]


class Singlestep(Sampler):
    """Runge-Kutta steps in the clock of each leaf, one call for each time of the grid.

    The step to clean data stands alone. Where the others cannot be cut into whole groups, the
    first group is the shorter one: near pure noise estimates hardly change.

    Arguments:
        denoiser: The denoiser.
        grid: Times at which it is called.
        order: Calls in a group, 1 to 3.

    Raises:
        ValueError: If the order is not 1, 2 or 3.

    Example:
        >>> from structdiff import Batch, Cosine, Gaussian, Generator, UniformLogSNR
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler = Singlestep(denoiser, UniformLogSNR(Cosine(), 7), order=3)
        >>> sampler.groups
        (0, 0, 0, 3, 3, 3, 6)
    """

    def __init__(self, denoiser: Denoiser, grid: Grid, *, order: int = 2) -> None:
        super().__init__(denoiser, grid, eta=0.0)
        if order not in (1, 2, 3):
            msg = f"order must be 1, 2 or 3, got {order}"
            raise ValueError(msg)
        self.nominal = order
        self.groups = groups(self.times, order)

    def order(self, space: Space) -> int:
        """Nominal on R^n and manifolds, first on classes, up to a factor log(steps).

        The third order needs whole groups, or a walk that begins in pure noise.
        """
        return 1 if space == "classes" else self.nominal

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Every step from the first time of its group."""
        return [
            self.process.plan(times[[first, i + 1]], self.eta)[0]
            for i, first in enumerate(self.groups)
        ]

    def rule(self, clock: Tensor) -> Tensor:
        """Weights of each step, latest estimate first."""
        weights = torch.zeros(len(self.groups), self.nominal, dtype=torch.float64)
        weights[:, 0] = 1
        for i, first in enumerate(self.groups):
            nodes = clock[first : i + 1].flip(0)
            if i > first and torch.isfinite(clock[first : i + 2]).all():
                row = exponential_weights(nodes, clock[first], clock[i + 1], 1.0)
                weights[i, : len(row)] = row
        return weights

    mixing: Any

    def prepare(self) -> None:
        """The weights of the whole grid, in the clock of each leaf."""
        self.mixing = self.process.weights(self.rule, self.times)

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The weighted estimates of the group, at its first state."""
        estimate = self.denoise(carry.x, i, carry.previous)
        history = ((carry.x, estimate), *carry.history)
        origin = history[-1][0]
        mixed = self.process.combine(history, self.mixing[i], origin)
        ends = i + 1 == len(self.groups) or self.groups[i + 1] == i + 1
        kept = () if ends else history
        return mixed, carry.changed(
            x=origin, history=kept, previous=estimate, calls=carry.calls + 1
        )


def groups(times: Tensor, order: int) -> tuple[int, ...]:
    """The first time of the group of each step."""
    steps = len(times) - 1
    grouped = steps - 1 if times[-1] < 0 else steps
    shorter = grouped % order
    within = [0] * shorter
    within += [shorter + order * (i // order) for i in range(grouped - shorter)]
    return tuple(within + list(range(grouped, steps)))
