"""What the processes of one leaf share: binding, given entries, schedules, event sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, final

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes.base import Process, Rule
from structdiff.random import Randomness
from structdiff.schedules import CLEAN, Level, Schedule

__all__ = ["Leaf", "check_falling", "expand", "sum_event"]


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient, `()`, `(rows,)` or `(rows, *event)`, shaped to broadcast against x."""
    missing = x.ndim - coefficient.ndim
    if coefficient.ndim == 0 or missing <= 0:
        return coefficient
    return coefficient.reshape(*coefficient.shape, *(1,) * missing)


def sum_event(x: Tensor) -> Tensor:
    """Sum over all axes but the first."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def check_clock(schedule: Schedule) -> None:
    """Refuse a schedule whose signal-to-noise ratio rises in time."""
    clock = schedule(schedule.spread(torch.linspace(0, 1, 1001, dtype=torch.float64))).clock
    if bool(clock.isnan().any()):
        lost = f"alpha and sigma of schedule {type(schedule).__name__} are both 0, or not numbers"
        msg = f"{lost}, at some times: one of them must be positive everywhere on [0, 1]"
        raise ValueError(msg)
    if not bool((clock[1:] <= clock[:-1]).all()):
        msg = f"the log-SNR of schedule {type(schedule).__name__} must fall in t on [0, 1]"
        raise ValueError(msg)


def check_falling(times: Tensor) -> None:
    """Refuse a grid that runs towards noise."""
    if bool((times[1:] > times[:-1]).any()):
        msg = "times must fall: only eta = 0 on R^n and manifolds also runs towards noise"
        raise ValueError(msg)


class Leaf(Process, ABC):
    """A process of one leaf.

    Arguments:
        schedule: Time to noise level.
        event: Shape of one row.

    Raises:
        ValueError: If the schedule's clock rises somewhere, or it has levels by entry that this
            process or event does not.
    """

    levels_by_entry = False
    """Whether the schedule may have noise levels by entry."""

    hint = ""
    """What is said where rows do not have the event's shape."""

    layout: Layout
    known: Tensor
    held: Tensor | None

    def __init__(self, schedule: Schedule, event: Sequence[int]) -> None:
        super().__init__()
        check_clock(schedule)
        wanted = tuple(event) if self.levels_by_entry else ()
        if schedule.event not in ((), wanted):
            has = f"schedule {type(schedule).__name__} has noise levels by entry {schedule.event}"
            msg = f"{has}, but {type(self).__name__} takes {wanted}: one level, or one an entry"
            raise ValueError(msg)
        self.schedule = schedule
        self.event = tuple(event)

    @final
    def offers(self, contract: type[Any]) -> bool:
        """Whether this class meets the contract."""
        return isinstance(self, contract)

    @final
    def bind(self, batch: Batch) -> Self:
        """A shallow copy that knows the rows of the batch's one leaf.

        Raises:
            ValueError: If the batch has several leaves, or the event's shape or dtype differs.
        """
        (name,) = batch.leaves if len(batch.leaves) == 1 else (None,)
        if name is None:
            msg = f"a process of one leaf was given {sorted(batch.leaves)}: use Product({{...}})"
            raise ValueError(msg)
        known = batch.leaves[name]
        if tuple(known.shape[1:]) != self.event:
            rows = f"leaf {name!r} has rows of shape {tuple(known.shape[1:])}"
            msg = f"{rows}, but its process expects event {self.event}{self.hint}"
            raise ValueError(msg)
        dtype = self.state_dtype()
        if known.dtype != dtype and not (known.is_floating_point() and dtype.is_floating_point):
            msg = f"leaf {name!r} has dtype {known.dtype}, but its process expects {dtype}"
            raise ValueError(msg)
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.__dict__.update(layout=batch.layouts[name], known=known, held=batch.given.get(name))
        return bound

    @final
    def empty(self, rows: int, device: torch.device | str = "cpu") -> Tensor:
        """Zeros of the state's dtype."""
        return torch.zeros(rows, *self.event, dtype=self.state_dtype(), device=device)

    @abstractmethod
    def state_dtype(self) -> torch.dtype:
        """Dtype of a state: the default float, or int64 for classes."""

    @property
    @final
    def held_rows(self) -> Tensor | None:
        """Rows with any given entry, `(rows,)`, or None."""
        if self.held is None or self.held.ndim == 1:
            return self.held
        return self.held.flatten(1).any(1)

    @final
    def hold(self, x: Tensor) -> Tensor:
        """x with the given entries at their known values."""
        return x if self.held is None else torch.where(expand(self.held, x), self.known, x)

    @final
    def free(self, per_entry: Tensor) -> Tensor:
        """Zero where an entry is given: it has no law to be measured."""
        if self.held is None:
            return per_entry
        return torch.where(expand(self.held, per_entry), 0.0, per_entry)

    @final
    def pool(self, x: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
        """Weighted sum of the x that belong to each row of this leaf."""
        total = x.new_zeros(self.layout.rows, *x.shape[1:])
        return total.index_add(0, rows, expand(weights.to(x.dtype), x) * x)

    @final
    def times(self, t: Tensor) -> Tensor:
        """t, and `CLEAN` at given entries."""
        if self.held is None:
            return t
        return torch.where(expand(self.held, t), CLEAN, expand(t, self.held))

    @final
    def clock(self, t: Tensor) -> Tensor:
        """log(alpha / sigma), in float32 or the precision of t if higher."""
        clock = self.schedule.reference.forward(t).clock
        return clock.to(torch.promote_types(t.dtype, torch.float32))

    @final
    def exact_level(self, t: Tensor, x: Tensor) -> Level:
        """alpha, sigma and clock in float64, shaped to broadcast against x."""
        level = self.schedule(self.entry_times(t, x))
        return Level(*(self.fitted(value.to(x.device), x) for value in level))

    @final
    def entry_times(self, t: Tensor, x: Tensor) -> Tensor:
        """Times as the schedule takes them: with axes for entries of levels of their own."""
        return t if t.ndim == x.ndim else self.schedule.spread(t)

    @final
    def fitted(self, coefficient: Tensor, x: Tensor) -> Tensor:
        """What the schedule says, shaped to broadcast against x."""
        return coefficient if self.schedule.event else expand(coefficient, x)

    @final
    def level(self, t: Tensor, x: Tensor) -> Level:
        """alpha, sigma and clock in the dtype of x, shaped to broadcast against it."""
        return Level(*(value.to(x.dtype) for value in self.exact_level(t, x)))

    @final
    def noise_rate(self, t: Tensor, x: Tensor) -> Tensor:
        """g^2 = 2 sigma^2 (-d clock / dt) of isotropic noise, shaped to broadcast against x."""
        times = self.entry_times(t, x)
        rate = 2 * self.schedule.sigma(times) ** 2 * self.schedule.slope(times)
        return self.fitted(rate.to(x.device, x.dtype), x)

    @final
    def per_step(self, axes: int, *numbers: Tensor) -> list[tuple[Any, ...]]:
        """Coefficients `(steps,)` or `(steps, rows)` by step, and whether the last one is used.

        They get the state's dtype and device and, where rows differ, this many axes.
        """
        moved = [value.to(self.known.device, self.known.dtype) for value in numbers]
        used = (numbers[-1] > 0).reshape(len(numbers[-1]), -1).any(1).tolist()
        steps = zip(*(value.unbind() for value in moved), strict=True)
        like = self.known.new_empty((0,) * axes)
        shaped = (tuple(self.fitted(value, like) for value in step) for step in steps)
        return [(*step, flag) for step, flag in zip(shaped, used, strict=True)]

    @final
    def weights(self, rule: Rule, times: Tensor) -> Sequence[tuple[Tensor, ...]]:
        """Weights of each step without trailing zeros, as 0-dim tensors."""
        matrix = rule(self.schedule.reference(times).clock)
        used = [max(1, int(torch.nonzero(row).max()) + 1) for row in matrix]
        dtype = self.known.dtype if self.known.is_floating_point() else torch.float32
        matrix = matrix.to(self.known.device, dtype)
        return [tuple(row[:n].unbind()) for row, n in zip(matrix, used, strict=True)]

    @final
    def step(self, x_t: Tensor, estimate: Any, coefficients: Any, random: Randomness) -> Tensor:
        """One step; given entries stay."""
        return self.hold(self.move(x_t, estimate, coefficients, random))

    @abstractmethod
    def move(self, x_t: Tensor, estimate: Any, coefficients: Any, random: Randomness) -> Tensor:
        """A draw of x_s as if nothing were given."""
