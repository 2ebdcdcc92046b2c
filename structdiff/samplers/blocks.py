r"""Blocks: a record is drawn from left to right, some rows at a time.

The rows of each sample are cut into blocks of one size. A block is drawn by a walk of its own,
from noise to data, given the blocks before it; those after it are pure noise, which says nothing
of the data, and their own clock says so: t = 1 there, whatever the time of the block. So the law
is

    prod_b p(block b | blocks before it),

each factor as right as the walk inside. Blocks of one row are autoregression, one block is the
walk inside itself. Times differ within a sample: the denoiser must take times `(rows,)`.

References:
    Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (Arriola
    et al., 2025), section 3. https://arxiv.org/abs/2503.09573
    Large Language Diffusion Models (Nie et al., 2025), section 2.4 (semi-autoregressive
    remasking; there later blocks have the time of the block that is drawn).
    https://arxiv.org/abs/2502.09992
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.processes.leaf import expand
from structdiff.random import Displaced, Randomness
from structdiff.samplers.base import Carry, Walk

__all__ = ["Blocks"]

STRETCH = 1 << 48
"""Addresses of a block: more than any walk inside it has."""


class Blocks(Walk):
    """Walks over the blocks of rows of each sample, one after the other.

    A step is the whole walk of one block. Leaves of fewer rows than others are done earlier, one
    of a single row is part of the first block.

    Arguments:
        denoiser: The denoiser.
        make: From a denoiser to the walk of one block: a sampler, or something around one.
        size: Rows of a block, at least 1.

    Raises:
        ValueError: If the size is less than 1.

    Example:
        >>> from structdiff import DDPM, Categorical, Flow, Generator, Layout
        >>> from structdiff import Product, UniformTime, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> layout = {"x": Layout.ragged([2, 2])}
        >>> data = Batch({"x": torch.tensor([0, 2, 1, 1])}, layout)
        >>> blank = Batch({"x": torch.zeros(4, dtype=torch.long)}, layout)
        >>> exact = ExactDenoiser(process, data)
        >>> sampler = Blocks(exact, lambda denoiser: DDPM(denoiser, UniformTime(1)), size=1)
        >>> sampler.sample(blank, Generator(0))["x"]
        tensor([1, 1, 0, 2])
    """

    batch: Batch
    random: Randomness

    def __init__(self, denoiser: Denoiser, make: Callable[[Denoiser], Walk], size: int) -> None:
        if size < 1:
            msg = f"size must be at least 1 row, got {size}"
            raise ValueError(msg)
        self.denoiser, self.make, self.size = denoiser, make, size

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.batch, bound.random = batch, random
        return bound

    @property
    def steps(self) -> int:
        """Number of blocks of the longest sample."""
        longest = max(max(each.counts, default=0) for each in self.batch.layouts.values())
        return -(-longest // self.size)

    def start(self) -> Carry:
        """The batch's own values: a block is noise when its turn comes."""
        return Carry(self.batch.leaves)

    def step(self, carry: Carry, b: int) -> Carry:
        """Draw block b."""
        place = {name: layout.row // self.size for name, layout in self.batch.layouts.items()}
        later = {name: block > b for name, block in place.items()}
        leaves = carry.x
        if b + 1 < self.steps:
            process: Any = self.denoiser.process.bind(self.batch)
            noise = process.prior(self.random.scoped(step=STRETCH * (b + 1) - 1))
            leaves = {n: torch.where(expand(later[n], x), noise[n], x) for n, x in carry.x.items()}
        held = {name: block != b for name, block in place.items()}
        batch = self.batch.with_leaves(leaves).with_given(_either(self.batch.given, held))
        walk = self.make(Ahead(self.denoiser, self.batch, place, b)).bind(
            batch, Displaced(self.random, STRETCH * b)
        )
        inner = walk.start()
        for i in range(walk.steps):
            inner = walk.step(inner, i)
        return replace(carry, x=inner.x, calls=carry.calls + inner.calls)


class Ahead(Denoiser):
    """A denoiser that knows which held rows are noise and not data.

    Arguments:
        denoiser: The denoiser.
        batch: The batch with what is really given.
        place: The block of each row, by leaf.
        block: The block that is drawn.
    """

    def __init__(
        self, denoiser: Denoiser, batch: Batch, place: Mapping[str, Tensor], block: int
    ) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.given = _either(batch.given, {name: each < block for name, each in place.items()})
        self.later = {
            n: expand(each > block, self.given[n]) & ~self.given[n] for n, each in place.items()
        }

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, with rows that come later at t = 1."""
        times = {
            n: torch.where(expand(self.later[n], t[n]), 1.0, expand(t[n], self.later[n]))
            for n in t
        }
        estimates: Mapping[str, Estimate] = self.denoiser(
            batch.with_given(self.given), times, previous
        )
        return estimates


def _either(given: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is given or held."""
    return {
        n: expand(mask, given[n]) | given[n] if n in given else mask for n, mask in held.items()
    }
