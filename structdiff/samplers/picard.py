r"""Parallel sampling: the steps of a window are taken at once and repeated until they agree.

A walk x_0, x_1, ... of one-call steps x_{j+1} = step_j(x_j, estimate(x_j), noise_j) with its noise
drawn beforehand is the one fixed point of

    x_{j+1} <- step_j(x_j, estimate(old x_j), noise_j),    j = 0, 1, ... of a window,

where the estimates of a sweep are made at the states of the sweep before it, all in *one* call of
the denoiser on a larger batch, and the steps (which are cheap) follow one another with these
estimates seen from the new states. After k sweeps the first k steps are those of the walk; smooth
flows agree to a tolerance much earlier. Only the linear part of a step is exact at once, so what
this repeats is the estimate alone and not, as in the paper, the whole increment.

References:
    Parallel Sampling of Diffusion Models (Shih et al., 2023), algorithm 1.
    https://arxiv.org/abs/2305.16317
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes import Estimate
from structdiff.random import Randomness
from structdiff.samplers.ancestral import Ancestral
from structdiff.samplers.base import Carry, Record, Walk

__all__ = ["Kept", "Picard"]

Estimates = Mapping[str, Estimate]


class Kept(Randomness):
    """A source that gives the same numbers when an address is asked again.

    Arguments:
        source: Where the numbers come from, once.

    Example:
        >>> from structdiff import Generator
        >>> kept = Kept(Generator(0))
        >>> first, again = (kept.scoped(step=3).uniform((2,), torch.float32, "cpu") for _ in "ab")
        >>> torch.equal(first, again)
        True
    """

    def __init__(self, source: Randomness) -> None:
        self.source = source
        self.address: tuple[int | str | None, ...] = (None, None)
        self.drawn: dict[tuple[Any, ...], Tensor] = {}
        self.draws = 0

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Normal numbers of the source, or those that this draw of the address had."""
        self.draws += 1
        key = (*self.address, self.draws)
        if key not in self.drawn:
            self.drawn[key] = self.source.normal(shape, dtype, device)
        return self.drawn[key]

    def uniform(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """Uniform numbers of the source, or those that this draw of the address had."""
        self.draws += 1
        key = (*self.address, self.draws)
        if key not in self.drawn:
            self.drawn[key] = self.source.uniform(shape, dtype, device)
        return self.drawn[key]

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Kept:
        """The source at that address, where draws are counted from one."""
        narrow = Kept(self.source.scoped(leaf=leaf, step=step, ids=ids, layout=layout))
        old_leaf, old_step = self.address
        narrow.address = (leaf or old_leaf, old_step if step is None else step)
        narrow.drawn = self.drawn
        return narrow

    def state(self) -> Tensor:
        """That of the source."""
        return self.source.state()

    def restore(self, state: Tensor) -> None:
        """Restore the source."""
        self.source.restore(state)


class Picard(Walk):
    """A one-call sampler, window by window in parallel.

    A step of this walk is a window. The samples are those of the sampler with the same noise, to
    the tolerance, on every space; on classes once nothing changes. Each sample is repeated until
    it agrees by itself, so that it does not depend on its batch mates. `carry.calls` counts
    sweeps, each of which calls the denoiser once on `window` copies of the batch; whether another
    is needed is read from the device once a sweep. Denoisers see no previous estimate.

    Arguments:
        sampler: The sampler, with any eta.
        window: Steps taken at once, at least 1; 1 is the sampler itself.
        tolerance: Largest change of an entry in the last sweep, in [0, 1).

    Raises:
        ValueError: If a number is out of range, or the sampler makes several calls or keeps a
            past; when bound, if a leaf has edge rows, of which samples cannot be copied.

    Example:
        >>> from structdiff import DDIM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1) / 2)
        >>> sampler, blank = DDIM(denoiser, UniformTime(64)), Batch.of(torch.zeros(5))
        >>> rounds = []
        >>> watch = lambda i, carry: rounds.append(carry.calls)
        >>> parallel = Picard(sampler, 32).sample(blank, Generator(0), watch)["x"]
        >>> one_by_one = sampler.sample(blank, Generator(0))["x"]
        >>> bool((parallel - one_by_one).abs().max() < 1e-3), rounds[-1] < 32
        (True, True)
    """

    sampler: Ancestral
    random: Randomness

    def __init__(self, sampler: Ancestral, window: int = 16, *, tolerance: float = 1e-4) -> None:
        if not isinstance(sampler, Ancestral):
            name = type(sampler).__name__
            msg = f"the sampler must use the present estimate alone, {name} does not: use DDIM"
            raise ValueError(f"{msg} or DDPM")
        if window < 1:
            msg = f"window must be at least 1 step, got {window}"
            raise ValueError(msg)
        if not 0 <= tolerance < 1:
            msg = f"tolerance must be in [0, 1), got {tolerance}"
            raise ValueError(msg)
        self.sampler, self.window, self.tolerance = sampler, window, tolerance

    copies: Mapping[int, Batch]
    halves: Any

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.sampler, bound.random = self.sampler.bind(batch, random), random
        sizes = {len(self.places(b)) for b in range(self.steps)}
        samples = torch.arange(batch.samples, device=batch.device)
        bound.copies = {n: batch.select(samples.repeat(n)) for n in sizes}
        process: Any = bound.sampler.process
        (bound.halves,) = process.weights(_halves, self.sampler.times[:2])
        return bound

    @property
    def steps(self) -> int:
        """Number of windows."""
        return -(-self.sampler.steps // self.window)

    def places(self, b: int) -> range:
        """The steps of the sampler in a window."""
        return range(b * self.window, min((b + 1) * self.window, self.sampler.steps))

    def start(self) -> Carry:
        """That of the sampler."""
        return self.sampler.start()

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after a window."""
        places, kept, batch = self.places(i), Kept(self.random), self.sampler.batch
        path: list[Record] = [carry.x] * (len(places) + 1)
        times = self.times(places)
        agreed = torch.zeros(batch.samples, dtype=torch.bool, device=batch.device)
        sweeps, said = 0, []
        while sweeps < len(places):
            said = self.ask(path[:-1], times)
            new = self.follow(path, said, places, kept)
            gap = torch.stack([_change(batch, a, b) for a, b in zip(path, new, strict=True)])
            path = [_chosen(batch, agreed, a, b) for a, b in zip(path, new, strict=True)]
            agreed |= gap.amax(0) <= self.tolerance
            sweeps += 1
            if bool(agreed.all()):
                break
        return carry.changed(x=path[-1], previous=said[-1], calls=carry.calls + sweeps)

    def times(self, places: range) -> Mapping[str, Tensor]:
        """Times of the rows of all copies."""
        steps = [self.sampler.leaf_times[i] for i in places]
        rows = {name: len(x) for name, x in self.sampler.batch.leaves.items()}
        return {
            name: torch.cat([t[name].expand(n) if t[name].ndim == 0 else t[name] for t in steps])
            for name, n in rows.items()
        }

    def ask(self, path: Sequence[Record], times: Mapping[str, Tensor]) -> list[Estimates]:
        """The estimates at all states, in one call."""
        many = self.copies[len(path)].with_leaves(
            {name: torch.cat([x[name] for x in path]) for name in path[0]}
        )
        said = self.sampler.denoiser(many, times, None)
        parts = {name: _cut(estimate, len(path)) for name, estimate in said.items()}
        return [{name: part[j] for name, part in parts.items()} for j in range(len(path))]

    def follow(
        self, path: Sequence[Record], said: Sequence[Estimates], places: range, kept: Kept
    ) -> list[Record]:
        """The window's states with these estimates."""
        process: Any = self.sampler.process
        new = [path[0]]
        for j, i in enumerate(places):
            # Two halves of one estimate: it is seen from the new state as the space asks.
            seen = process.combine(((path[j], said[j]),) * 2, self.halves, new[j])
            random = kept.scoped(step=2 * i + 1)
            new.append(process.step(new[j], seen, self.sampler.coefficients[i], random))
        return new


def _halves(clock: Tensor) -> Tensor:
    """Weights of two halves at every step."""
    return torch.full((len(clock) - 1, 2), 0.5, dtype=torch.float64)


def _cut(estimate: Estimate, parts: int) -> list[Estimate]:
    """An estimate of many copies by copy."""
    rows = len(estimate.value)
    values = estimate.value.chunk(parts)
    extras = {
        name: x.chunk(parts) if x.ndim and len(x) == rows else (x,) * parts
        for name, x in estimate.extras.items()
    }
    return [
        Estimate(value, {name: x[j] for name, x in extras.items()})
        for j, value in enumerate(values)
    ]


def _change(batch: Batch, old: Record, new: Record) -> Tensor:
    """Largest change of an entry of each sample, `(samples,)`."""
    total = torch.zeros(batch.samples, dtype=torch.float64, device=batch.device)
    for name, layout in batch.layouts.items():
        gap = (new[name] - old[name]).abs().double().unsqueeze(-1).flatten(1)
        worst = gap.amax(1) if gap.shape[1] else gap.sum(1)
        total = total.scatter_reduce(0, layout.sample, worst, "amax")
    return total


def _chosen(batch: Batch, keep: Tensor, old: Record, new: Record) -> Record:
    """The old rows of some samples and the new ones of the others."""
    return {
        name: torch.where(
            layout.spread(keep).reshape(-1, *(1,) * (old[name].ndim - 1)), old[name], new[name]
        )
        for name, layout in batch.layouts.items()
    }
