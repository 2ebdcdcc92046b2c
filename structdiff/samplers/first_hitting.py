r"""First hitting: the times at which masked rows are denoised are drawn first.

On an absorbing chain a row is unmasked at a time of which the data say nothing: its alpha is
uniform,

    alpha_tau = alpha_1 + (1 - alpha_1) u,

independently of all other rows. So the times are drawn up front, and the denoiser is called where
a row is unmasked and nowhere else. Without a grid rows are unmasked one by one, each at its own
time: no two rows are drawn from one estimate, and the law is that of the limit of infinitely many
steps; with the exact denoiser it is that of the data. With a grid a row is unmasked at the step
that its time falls into, from the estimate at the step's start: the law of `DDPM` on that grid.

References:
    Masked Diffusion Models are Secretly Time-Agnostic Masked Models and Exploit Inaccurate
    Categorical Sampling (Zheng et al., 2024). https://arxiv.org/abs/2409.02908
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.processes import Finite, Process
from structdiff.random import Randomness
from structdiff.samplers.base import Carry, Walk
from structdiff.samplers.wrapped import class_leaves, free_rows
from structdiff.schedules import CLEAN, Grid

__all__ = ["FirstHitting"]


class FirstHitting(Walk):
    """Unmask rows at times of their own.

    Each sample has its own times, so the denoiser is given times `(rows,)`. It is given no
    previous estimate: which calls went before depends on the other samples of the batch.

    Arguments:
        denoiser: The denoiser; all leaves are absorbing chains of event `()`.
        grid: Times at which the denoiser may be called, at most as often as rows of the batch are
            unmasked; None for one row of each sample and call.

    Raises:
        ValueError: If a leaf is no absorbing chain of event `()`.

    Example:
        >>> from structdiff import Categorical, Flow, Generator, Product, UniformTime, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> layout = {"x": Layout.ragged([2, 2])}
        >>> data = Batch({"x": torch.tensor([0, 2, 1, 1])}, layout)
        >>> blank = Batch({"x": torch.zeros(4, dtype=torch.long)}, layout)
        >>> sampler = FirstHitting(ExactDenoiser(process, data))
        >>> sampler.sample(blank, Generator(0))["x"]
        tensor([1, 1, 0, 2])
    """

    process: Any
    batch: Batch
    random: Randomness

    def __init__(self, denoiser: Denoiser, grid: Grid | None = None) -> None:
        self.denoiser = denoiser
        self.times = None if grid is None else grid.times()
        process: Any = denoiser.process
        self.names = class_leaves(denoiser, "first hitting")
        check_absorbing(process)

    clean: Any
    free: dict[str, Tensor]
    events: int

    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch.

        Arguments:
            batch: Gives layouts, conditions, and the values of given rows.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.batch, bound.random = batch, random
        bound.process = self.denoiser.process.bind(batch)
        (bound.clean,) = bound.process.plan(torch.tensor([1.0, CLEAN], dtype=torch.float64), 1.0)
        bound.free = {name: free_rows(batch, name) for name in self.names}
        rows = torch.stack([batch.layouts[n].sum(bound.free[n].long()) for n in self.names])
        bound.events = max(rows.sum(0).tolist(), default=0)
        return bound

    @property
    def steps(self) -> int:
        """Steps of the grid, or the rows to unmask of the sample that has most of them."""
        return self.events if self.times is None else len(self.times) - 1

    def start(self) -> Carry:
        """Masks; when each row is unmasked, in which step, and which steps unmask any."""
        x = self.process.prior(self.random.scoped(step=0))
        when = {name: self.hit(name) for name in self.names}
        turn = self.ranks(when) if self.times is None else self.places(when)
        count = torch.bincount(torch.cat(list(turn.values())), minlength=self.steps + 1)
        memory = {f"when.{name}": each for name, each in when.items()}
        memory |= {f"turn.{name}": each for name, each in turn.items()}
        return Carry(x, memory=memory | {"unmasks": (count[: self.steps] > 0).cpu()})

    def hit(self, name: str) -> Tensor:
        """When the denoiser is asked for each row of a leaf, `(rows,)`; given rows: `CLEAN`."""
        layout, schedule = self.batch.layouts[name], self.process[name].schedule
        scoped = self.random.scoped(
            step=1, leaf=f"hitting times of {name}", ids=self.batch.ids, layout=layout
        )
        u = scoped.uniform((layout.rows,), torch.float64, self.batch.device)
        first = torch.ones(1, dtype=torch.float64) if self.times is None else self.times[:1]
        alpha = schedule.alpha(first.to(u.device))
        tau = schedule.time(torch.logit(alpha + (1 - alpha) * u))
        if self.times is not None:
            times = self.times.to(tau.device)
            place = torch.searchsorted(-times, -tau, right=True) - 1
            tau = times[place.clamp(0, len(times) - 2)]
        return torch.where(self.free[name], tau, CLEAN)

    def places(self, when: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The step of the grid in which each row is unmasked; the number of steps for none."""
        assert self.times is not None
        return {
            name: torch.searchsorted(-self.times.to(tau.device), -tau)
            for name, tau in when.items()
        }

    def ranks(self, when: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Place of each row among those of its sample by falling time, over all leaves."""
        layouts = [self.batch.layouts[name] for name in when]
        sample = torch.cat([layout.sample for layout in layouts])
        order = torch.argsort(sample, stable=True)
        counts = tuple(map(sum, zip(*(layout.counts for layout in layouts), strict=True)))
        rank = Layout(counts, sample[order]).rank(-torch.cat(list(when.values()))[order])
        rank = torch.empty_like(rank).scatter_(0, order, rank)
        parts = torch.split(rank, [layout.rows for layout in layouts])
        return {
            name: torch.where(self.free[name], part, self.steps)
            for name, part in zip(when, parts, strict=True)
        }

    def step(self, carry: Carry, k: int) -> Carry:
        """Unmask the rows whose turn it is; nothing, and no call, where there are none."""
        if not carry.memory["unmasks"][k]:
            return carry
        times = self.process.times(self.next_time(carry.memory, k))
        estimate = self.denoiser(self.batch.with_leaves(carry.x), times, None)
        x_0 = self.process.step(carry.x, estimate, self.clean, self.random.scoped(step=k + 2))
        chosen = {name: carry.memory[f"turn.{name}"] == k for name in self.names}
        return replace(carry, x=self.process.graft(carry.x, x_0, chosen), calls=carry.calls + 1)

    def next_time(self, memory: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
        """When the next row of each sample is unmasked, from step k on, for all its rows."""
        next_time = torch.zeros(self.batch.samples, dtype=torch.float64, device=self.batch.device)
        for name in self.names:
            ahead = memory[f"turn.{name}"] >= k
            when = torch.where(ahead, memory[f"when.{name}"], 0.0)
            sample = self.batch.layouts[name].sample
            next_time = next_time.scatter_reduce(0, sample, when, "amax")
        return {name: self.batch.layouts[name].spread(next_time) for name in self.names}


def check_absorbing(process: Any) -> None:
    """Refuse what does not fall, at a rate of the time alone, into one mask and stays there.

    Raises:
        ValueError: If a leaf is something else.
    """
    for name in process.offering(Process):
        why = _other(process[name])
        if why:
            must = "first hitting needs absorbing chains of event () in all leaves"
            msg = f"{must}, leaf {name!r} {why}: use DDPM or Leaping"
            raise ValueError(msg)


def _other(leaf: Any) -> str:
    """What is wrong with a leaf, if anything."""
    if not leaf.offers(Finite):
        return "is not on classes"
    if leaf.empty(1).ndim != 1:
        return "has rows of several entries"
    if leaf.symbols != leaf.classes + 1:
        return f"has {leaf.symbols} symbols for {leaf.classes} classes and so not one mask"
    x_0 = torch.arange(leaf.classes)
    bound, mask = leaf.bind(Batch.of(x_0)), torch.full_like(x_0, leaf.classes)
    for t in torch.linspace(0.1, 0.9, 5, dtype=torch.float64):
        alpha = leaf.schedule.alpha(t)
        kept, lost = (torch.exp(bound.log_prob(x_t, x_0, t)) for x_t in (x_0, mask))
        if not torch.allclose(kept, alpha) or not torch.allclose(lost, 1 - alpha):
            return "has a transition to other symbols than the mask"
    return ""
