"""What walks around a sampler share: binding, and addresses and noise of their own.

A walk around a sampler draws beside its steps. Its draws lie at addresses beyond those of any
sampler, so that the sampler draws what it would draw alone, under every source of noise.
"""

from __future__ import annotations

from typing import Any, Self, final

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Finite
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Sampler, Walk

__all__ = ["Wrapped", "check_present", "check_sampler", "class_leaves", "free_rows"]

BEYOND = 1 << 32
"""First address beyond those of a sampler's own steps."""


def class_leaves(denoiser: Denoiser, who: str) -> tuple[str, ...]:
    """Names of the leaves on classes.

    Raises:
        ValueError: If there are none.
    """
    process: Any = denoiser.process
    names: tuple[str, ...] = process.offering(Finite)
    if not names:
        has = f"{who} chooses among rows on classes"
        msg = f"{has}, but no leaf of the process is one: use a sampler as it is"
        raise ValueError(msg)
    return names


def check_present(carry: Carry, sampler: Sampler) -> None:
    """Refuse a sampler whose next step uses past estimates: they are of a state that was left.

    Raises:
        ValueError: If the carry has a history.
    """
    if carry.history:
        name = type(sampler).__name__
        msg = f"the sampler must not use estimates of earlier steps, {name} keeps a history"
        raise ValueError(f"{msg}: the state jumps between them, use DDPM, DDIM or Heun")


def check_sampler(sampler: Walk) -> None:
    """Refuse what walks around a sampler, and walks that have no grid of their own.

    Raises:
        ValueError: If it is not a Sampler.
    """
    if not isinstance(sampler, Sampler):
        name = type(sampler).__name__
        msg = f"the sampler must be a Sampler, not what walks around one, got {name}"
        raise ValueError(f"{msg}: give a sampler by itself, such as DDPM, DDIM or Heun")


def free_rows(batch: Batch, name: str) -> Tensor:
    """Rows of a leaf of which not all entries are given, `(rows,)`."""
    given = batch.given.get(name)
    if given is None:
        return torch.ones(batch.layouts[name].rows, dtype=torch.bool, device=batch.device)
    return ~(given if given.ndim == 1 else given.flatten(1).all(1))


class Wrapped(Walk):
    """A sampler with something done beside its steps.

    Arguments:
        sampler: The sampler.

    Raises:
        ValueError: If it is another walk than a Sampler.
    """

    random: Randomness

    def __init__(self, sampler: Sampler) -> None:
        check_sampler(sampler)
        self.sampler = sampler

    def prepare(self) -> None:  # noqa: B027
        """Make what depends on the grid and the batch, once; called by `bind`."""

    @final
    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.sampler, bound.random = self.sampler.bind(batch, random), random
        bound.prepare()
        return bound

    @property
    @final
    def steps(self) -> int:
        """Number of steps of the sampler."""
        return self.sampler.steps

    @final
    def beside(self, i: int, part: int = 0, parts: int = 1) -> Randomness:
        """The noise of one of several draws beside step i."""
        return self.random.scoped(step=BEYOND + parts * i + part)

    @final
    def uniform(self, random: Randomness, name: str, what: str) -> Tensor:
        """A number for each row of a leaf, `(rows,)`, float64."""
        batch = self.sampler.batch
        layout = batch.layouts[name]
        scoped = random.scoped(leaf=f"{what} of {name}", ids=batch.ids, layout=layout)
        return scoped.uniform((layout.rows,), torch.float64, batch.device)
