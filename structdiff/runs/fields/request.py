"""What to draw: how many fields, of which class, and what of them is known or was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from structdiff.operators import Measurement
from structdiff.runs.fields.record import Fields

__all__ = ["Given", "Request", "Seen", "check_given", "check_seen", "labels_of", "rows_of"]


@dataclass(frozen=True, eq=False)
class Given:
    """Known places of fields.

    Arguments:
        source: Fields that are right where they are known, `(1 or samples, *event)`.
        known: Which places are, bool, `(1 or samples, 1, *places)`.
        held: Whether the walk holds them; otherwise they are only put in their place at the end,
            for a model that sees them as a condition.
    """

    source: Tensor
    known: Tensor
    held: bool = True


@dataclass(frozen=True, eq=False)
class Seen:
    """A measurement of fields, for a model that was not trained for it.

    Arguments:
        operator: What was measured of each field.
        y: What came out, `(1 or samples, *measured)`.
        noise: Standard deviation of its noise.
    """

    operator: Measurement
    y: Tensor
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Request:
    """What to draw.

    Arguments:
        samples: How many.
        seed: Start of the random numbers.
        condition: Name to value, `(1 or samples, ...)`; fields as they are made, before folding.
        given: Known places; None for none.
        seen: A measurement; None for none.
    """

    samples: int
    seed: int
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    given: Given | None = None
    seen: Seen | None = None

    def part(self, x: Tensor, low: int, high: int) -> Tensor:
        """The rows of samples `low` to `high` of a tensor of one row or one for each sample."""
        if len(x) == 1:
            return x.expand(high - low, *x.shape[1:])
        return x[low:high]


def rows_of(name: str, x: Tensor, samples: int) -> Tensor:
    """A tensor of one row or one for each sample.

    Raises:
        ValueError: If it has another number of rows, or is not finite.
    """
    if len(x) not in (1, samples):
        msg = f"{name} has {len(x)} rows for {samples} samples: give one for all, or one for each"
        raise ValueError(msg)
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        msg = f"{name} has numbers that are not finite: mend them"
        raise ValueError(msg)
    return x


def labels_of(label: Tensor | Sequence[int], fields: Fields, samples: int) -> Tensor:
    """Numbers of classes, one for each sample.

    Raises:
        ValueError: If one is out of range.
    """
    found = torch.as_tensor(label).reshape(-1)
    last = len(fields.classes) - 1
    if last < 0:
        msg = "the model has no classes: leave out the label"
        raise ValueError(msg)
    if found.is_floating_point() or not len(found) or not 0 <= found.min() <= found.max() <= last:
        msg = f"label must be whole numbers from 0 to {last}, one of each class, got {label}"
        raise ValueError(msg)
    return found.long().repeat(-(-samples // len(found)))[:samples]


def check_given(given: Given, fields: Fields, samples: int) -> None:
    """Refuse known places of other shapes.

    Raises:
        ValueError: If they are.
    """
    places = fields.event[1:]
    if tuple(given.source.shape[1:]) != fields.event:
        msg = f"given has fields of shape {tuple(given.source.shape[1:])}, not {fields.event}"
        raise ValueError(f"{msg}: bring them to the size of the model's")
    if given.known.dtype != torch.bool or tuple(given.known.shape[1:]) != (1, *places):
        has = f"{given.known.dtype} {tuple(given.known.shape)}"
        msg = f"the mask of given must be bool (samples, 1, *{places}), True = known, got {has}"
        raise ValueError(msg)
    rows_of("given", given.source, samples)
    rows_of("the mask of given", given.known, samples)


def check_seen(seen: Seen, fields: Fields, samples: int) -> None:
    """Refuse a measurement of other fields.

    Raises:
        ValueError: If it is one.
    """
    if seen.operator.event != fields.event:
        msg = f"the operator measures fields of shape {seen.operator.event}, not {fields.event}"
        raise ValueError(msg)
    if tuple(seen.y.shape[1:]) != seen.operator.measured:
        must = f"(1 or samples, *{seen.operator.measured})"
        msg = f"what was measured must have shape {must}, got {tuple(seen.y.shape)}"
        raise ValueError(msg)
    rows_of("what was measured", seen.y, samples)
