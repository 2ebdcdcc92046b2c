"""What a leaf of pairs (position, velocity) shares: givens by pair, whitening, densities."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from structdiff.processes.leaf import Leaf, expand, sum_event
from structdiff.processes.phase_matrices import Entries, apply, cholesky, entries, whiten
from structdiff.processes.phase_motion import PhaseMotion
from structdiff.random import Randomness
from structdiff.schedules import Level

__all__ = ["PairLeaf", "whole_pairs", "with_velocities"]


class PairLeaf(Leaf, ABC):
    """A process of one leaf whose rows are pairs, `(2, *event)`.

    Arguments:
        motion: How pairs move; it is their schedule too.
        event: Shape of one position.
    """

    hint = ": positions with velocities, see with_velocities(x)"

    def __init__(self, motion: PhaseMotion, event: Sequence[int]) -> None:
        super().__init__(motion, (2, *event))
        self.motion = motion

    @final
    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    @property
    @final
    def held_pairs(self) -> Tensor | None:
        """Pairs with a given entry, `(rows,)` or `(rows, *event)`, or None."""
        if self.held is None or self.held.ndim == 1:
            return self.held
        return self.held.any(1)

    @final
    def hold_pairs(self, u: Tensor) -> Tensor:
        """u with given pairs at their known values."""
        if self.held is None:
            return u
        return torch.where(expand(whole_pairs(self.held), u), self.known, u)

    @final
    def free_pairs(self, per_pair: Tensor) -> Tensor:
        """Zero where a pair is given."""
        held = self.held_pairs
        return per_pair if held is None else torch.where(expand(held, per_pair), 0.0, per_pair)

    @final
    def pair_times(self, t: Tensor) -> Tensor:
        """Times of pairs: `CLEAN` where one of the two is."""
        return t.amin(1) if t.ndim > 1 else t

    @final
    def at(self, t: Tensor, u: Tensor) -> tuple[Entries, Entries]:
        """Psi and the Cholesky factor of Sigma."""
        mean, covariance = self.motion.state(self.pair_times(t).to(u.device))
        return entries(mean, u), entries(cholesky(covariance), u)

    @final
    def residual(self, u_t: Tensor, u_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Entries]:
        """L^{-1} (u_t - Psi u_0), both parts of it, and L."""
        mean, factor = self.at(t, u_t)
        return (*whiten(factor, u_t - apply(mean, u_0)), factor)

    @final
    def normal(self, random: Randomness) -> Tensor:
        """Standard normal numbers of the shape of the state."""
        shape = (self.layout.rows, *self.event)
        return random.normal(shape, self.known.dtype, self.known.device)

    @final
    def free_both(self, u: Tensor) -> Tensor:
        """Pairs, zero where one is given."""
        return torch.stack([self.free_pairs(part) for part in u.unbind(1)], 1)

    @final
    def log_normal(self, residual: Tensor, factor: Entries) -> Tensor:
        """Log density of a centred normal with this Cholesky factor, per row.

        Given pairs count nothing; others without noise are points.
        """
        first, second = whiten(factor, residual)
        sure = (factor[0] == 0).expand_as(first)
        size = torch.where(sure, 1.0, factor[0] * factor[3]).log() + math.log(2 * math.pi)
        missed = self.free_pairs(sure & (residual != 0).any(1))
        density = torch.where(sure, 0.0, -0.5 * (first.square() + second.square()) - size)
        total = sum_event(self.free_pairs(density))
        return torch.where(sum_event(missed.to(total)) > 0, -torch.inf, total)

    @final
    def summary(self, u_t: Tensor, t: Tensor) -> tuple[Tensor, Level]:
        """What u_t says of x_0: y = alpha x_0 + sigma z, `(rows, *event)`, and its level."""
        mean, factor = self.at(t, u_t)
        first, second = whiten(factor, u_t)
        a, b = whiten(factor, torch.stack([mean[0].expand_as(first), mean[2].expand_as(first)], 1))
        level = self.level(self.pair_times(t), u_t[:, 0])
        exact = (a.square() + b.square()).clamp(min=torch.finfo(u_t.dtype).tiny)
        y = level.alpha * (a * first + b * second) / exact
        return torch.where(level.sigma == 0, u_t[:, 0], y), level


def with_velocities(x: Tensor) -> Tensor:
    """Positions `(rows, *event)` as clean pairs `(rows, 2, *event)`: at velocity 0.

    Arguments:
        x: Positions, or a mask of given ones: their velocities are held with them.

    Example:
        >>> with_velocities(torch.tensor([3.0])).tolist()
        [[3.0, 0.0]]
    """
    return torch.stack([x, torch.zeros_like(x)], 1)


def whole_pairs(mask: Tensor) -> Tensor:
    """A mask of rows, or of entries as one of pairs, `(rows, 1, *event)`.

    Example:
        >>> whole_pairs(torch.tensor([[True, False], [False, False]])).tolist()
        [[True], [False]]
    """
    return mask if mask.ndim == 1 else mask.any(1, keepdim=True)
