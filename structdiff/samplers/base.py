r"""The one sampling loop.

A sampler walks a falling grid of times. At each step it makes one *effective* estimate out of the
denoiser's answers, present and past; the process steps. So a sampler is written once for every
space: what it adds is which answers it asks for and the weights that it gives them.

A sampler is bound to a batch (layout, given entries, conditions) before use; then
`step(carry, i)` maps a carry to the next one and holds nothing itself. A carry is a plain tree of
tensors and can be saved at any step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, final

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients, Estimate, Process
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = ["Carry", "Sampler", "Space", "Walk"]

Space: TypeAlias = Literal["euclidean", "manifold", "classes"]
Record: TypeAlias = Mapping[str, Tensor]
Estimates: TypeAlias = Mapping[str, Estimate]


@dataclass(frozen=True)
class Carry:
    """Where a walk stands.

    Arguments:
        x: The noisy leaves.
        history: Past pairs (leaves, estimates), latest first.
        previous: The last estimate, for self-conditioning.
        calls: How often the denoiser was called.
        memory: What else a walk keeps of its rows, by name.
    """

    x: Record
    history: tuple[tuple[Record, Estimates], ...] = ()
    previous: Estimates | None = None
    calls: int = 0
    memory: Record = field(default_factory=dict)

    def changed(self, **changes: Any) -> Carry:
        """`dataclasses.replace`, at a third of its time: samplers call it at every step."""
        other = object.__new__(Carry)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def tensors(self) -> dict[str, Tensor]:
        """A flat mapping to save; `from_tensors` reads it."""
        flat = {f"x.{name}": x for name, x in self.x.items()}
        flat |= {f"memory.{name}": x for name, x in self.memory.items()}
        flat["calls"] = torch.tensor(self.calls)
        for place, (x, estimates) in enumerate(self.history):
            flat |= {f"history.{place}.x.{name}": value for name, value in x.items()}
            flat |= _flatten(f"history.{place}.estimate", estimates)
        if self.previous is not None:
            flat |= _flatten("previous", self.previous)
        # Copies: a file of tensors must not hold one tensor under two names.
        return {key: value.clone() for key, value in flat.items()}

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor]) -> Carry:
        """The carry that `tensors` flattened."""
        places = sorted({int(key.split(".")[1]) for key in flat if key.startswith("history.")})
        history = tuple(
            (_below(flat, f"history.{i}.x."), _estimates(flat, f"history.{i}.estimate."))
            for i in places
        )
        previous = _estimates(flat, "previous.") or None
        memory = _below(flat, "memory.")
        return cls(_below(flat, "x."), history, previous, int(flat["calls"]), memory)


def _below(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): x for key, x in flat.items() if key.startswith(prefix)}


def _flatten(prefix: str, estimates: Estimates) -> dict[str, Tensor]:
    values = {f"{prefix}.{name}": e.value for name, e in estimates.items()}
    extras = {f"{prefix}.{n}\n{k}": x for n, e in estimates.items() for k, x in e.extras.items()}
    return values | extras


def _estimates(flat: Mapping[str, Tensor], prefix: str) -> dict[str, Estimate]:
    below = _below(flat, prefix)
    return {
        name: Estimate(
            x, {k.split("\n")[1]: v for k, v in below.items() if k.startswith(f"{name}\n")}
        )
        for name, x in below.items()
        if "\n" not in name
    }


class Walk(ABC):
    """What is walked from noise to samples, step by step: a sampler, or something around one."""

    @abstractmethod
    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch and to where its noise comes from."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Number of steps."""

    @abstractmethod
    def start(self) -> Carry:
        """Where the walk begins."""

    @abstractmethod
    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i."""

    @final
    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        random: Randomness,
        watch: Callable[[int, Carry], None] | None = None,
    ) -> Batch:
        """Walk from the first step to the last.

        Arguments:
            batch: Gives layouts, conditions, and the values of given entries.
            random: Where the noise comes from.
            watch: Called with the number of steps done and the carry, after each step.

        Raises:
            ValueError: If a sample is not finite at the end; it names the leaf and the ids.
        """
        bound = self.bind(batch, random)
        carry = bound.start()
        for i in range(bound.steps):
            carry = bound.step(carry, i)
            if watch is not None:
                watch(i + 1, carry)
        return check_finite(batch.with_leaves(carry.x))


def check_finite(batch: Batch) -> Batch:
    """The batch, if all its numbers are finite.

    Raises:
        ValueError: If not.
    """
    for name, x in batch.leaves.items():
        lost = ~torch.isfinite(x)
        lost = lost.flatten(1).any(1) if x.ndim > 1 else lost
        if bool(lost.any()):
            ids = batch.ids[torch.unique(batch.layouts[name].sample[lost])].tolist()
            which = f"samples with the ids {ids[:10]} are not finite in leaf {name!r}"
            msg = f"{which}: the denoiser's answers are not, or a guidance scale is too large"
            raise ValueError(f"{msg}; sample(..., watch=) shows where it begins")
    return batch


class Sampler(Walk):
    """How a denoiser's estimates become samples.

    Arguments:
        denoiser: The denoiser; it knows its process.
        grid: Times at which it is called.
        eta: How much fresh noise a step has: 0 none, 1 that of the Bayes kernel.

    Raises:
        ValueError: If eta is not in [0, 1].
    """

    process: Process
    batch: Batch
    random: Randomness

    def __init__(self, denoiser: Denoiser, grid: Grid, *, eta: float) -> None:
        if not 0 <= eta <= 1:
            msg = f"eta must be in [0, 1], got {eta}"
            raise ValueError(msg)
        self.denoiser, self.grid, self.eta = denoiser, grid, eta
        self.times = grid.times()

    @abstractmethod
    def order(self, space: Space) -> int:
        """The order of convergence on a space, for this sampler's eta.

        Nominal for deterministic walks, weak for stochastic ones, in total variation for classes.
        """

    @abstractmethod
    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The estimate that step i uses, and the carry with what was learned on the way."""

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Coefficients of the steps of a grid: those of the process, at eta."""
        return self.process.plan(times, self.eta)

    def prepare(self) -> None:  # noqa: B027
        """Make what depends on the grid and the batch, once; called by `bind`."""

    @final
    def bind(self, batch: Batch, random: Randomness) -> Self:
        """A copy bound to a batch: its leaves give shapes, and values where `batch.given` says.

        Arguments:
            batch: The batch.
            random: Where the noise comes from.
        """
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.batch, bound.random = batch, random
        bound.process = self.denoiser.process.bind(batch)
        bound.coefficients = bound.plan(self.times)
        bound.leaf_times = [bound.process.times(t) for t in self.times.to(batch.device).unbind()]
        bound.prepare()
        return bound

    coefficients: Any
    leaf_times: list[Any]

    @property
    @final
    def steps(self) -> int:
        """Number of steps of the walk."""
        return len(self.times) - 1

    @final
    def start(self) -> Carry:
        """A draw from the prior at the first time."""
        return Carry(self.process.prior(self.random.scoped(step=0), float(self.times[0])))

    @final
    def denoise(self, x: Record, i: int, previous: Estimates | None) -> Estimates:
        """The denoiser's answer at the i-th time."""
        estimate: Estimates = self.denoiser(
            self.batch.with_leaves(x), self.leaf_times[i], previous
        )
        return estimate

    @final
    def advance(self, x: Record, estimate: Estimates, i: int, part: int = 1) -> Record:
        """Step i of the process; `part` tells apart several draws of one step."""
        random = self.random.scoped(step=2 * i + part)
        x_s: Record = self.process.step(x, estimate, self.coefficients[i], random)
        return x_s

    @final
    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i."""
        estimate, carry = self.effective(carry, i)
        return carry.changed(x=self.advance(carry.x, estimate, i))
