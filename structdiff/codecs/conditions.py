"""What samples can be asked for: properties of the data as conditions of a model.

A property is a real number or vector, which the model sees standardised, or a word, which it sees
as a class. A property that is unknown of a sample (NaN, or an empty word) is absent there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Condition", "encode_conditions"]

_SHOWN = 3  # values in a message
_LONGEST = 60  # characters of one


@dataclass(frozen=True)
class Condition:
    """One property as a condition.

    Arguments:
        name: Its name.
        mean: Mean of each entry of a real property; empty for a class.
        std: Standard deviation of each.
        low: Smallest value of each in the data.
        high: Largest.
        classes: The words, ascending; empty for a real property.
        unit: Of a real property, "" if it is not known.

    Example:
        >>> condition = Condition.fit("alpha", np.array([1.0, 3.0, np.nan]))
        >>> condition.encode([3.0])
        (tensor([[1.]]), tensor([True]))
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    unit: str = ""

    @classmethod
    def fit(cls, name: str, values: NDArray[Any], unit: str = "") -> Self:
        """Read off the data.

        Arguments:
            name: Name of the property.
            values: Numbers, `(samples,)` or `(samples, entries)`, NaN where unknown; or words,
                `(samples,)`, "" where unknown.
            unit: Of the numbers, "" if it is not known.

        Raises:
            ValueError: If no sample has it, it is the same for all, or its name has a "=", which
                is what ends a name where a condition is asked for.
        """
        if "=" in name:
            why = "a condition is asked for as NAME=VALUE"
            msg = f"condition {name!r} has a = in its name, but {why}: rename the property"
            raise ValueError(msg)
        if values.dtype.kind in "US":
            words = tuple(sorted({str(word) for word in values} - {""}))
            if len(words) < 2:
                msg = f"condition {name!r} has the classes {list(words)}: at least 2 are needed"
                raise ValueError(msg)
            return cls(name, classes=words)
        table = np.asarray(values, np.float64).reshape(len(values), -1)
        known = table[np.isfinite(table).all(1)]
        if not len(known) or (np.ptp(known, axis=0) <= 1e-9 * np.abs(known).max(axis=0)).any():
            has = "is known of no sample" if not len(known) else "is the same for all samples"
            msg = f"condition {name!r} {has}: choose another property"
            raise ValueError(msg)
        mean, std, low, high = (
            tuple(float(x) for x in column)
            for column in (known.mean(0), known.std(0), known.min(0), known.max(0))
        )
        return cls(name, mean, std, low, high, unit=unit)

    @property
    def entries(self) -> int:
        """Numbers of a real condition, 0 for a class."""
        return len(self.mean)

    def encode(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """What the model sees, and where it is known.

        Arguments:
            values: As in `fit`, `(samples,)` or `(samples, entries)`. Numbers may be written as
                words, with white space between entries. A class may be a number: it is the one
                that is written so, else the only one that is equal to it.

        Returns:
            Standardised numbers `(samples, entries)` in float32 or classes `(samples,)` in
            int64, and a mask `(samples,)`.

        Raises:
            ValueError: If a word is not a class of this condition, or no number, or the shape
                differs.
        """
        array = np.atleast_1d(np.asarray(values))
        if self.classes:
            return self._encode_classes(list(array))
        if array.dtype.kind in "biuf" and array.size == len(array) * self.entries:
            table = array.astype(np.float64).reshape(-1, self.entries)
        else:
            table = self._table(list(array))
        known = np.asarray(np.isfinite(table).all(1))
        scaled = (table - np.asarray(self.mean)) / np.asarray(self.std)
        # No value is infinite in float32, however far it lies outside the data.
        scaled = np.where(known[:, None], scaled, 0.0).clip(-1e6, 1e6)
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(known)

    def fault(self, value: object) -> str:
        """Why the value of one sample cannot be encoded, or "".

        Example:
            >>> Condition.fit("alpha", np.array([1.0, 3.0])).fault("<5")
            "alpha is '<5', not a number"
        """
        try:
            if self.classes:
                self._class(_written(value))
            else:
                self._numbers(value)
        except ValueError as error:
            return str(error)
        return ""

    def _encode_classes(self, values: Sequence[object]) -> tuple[Tensor, Tensor]:
        words = [_written(value) for value in values]
        each = dict.fromkeys(words)
        unknown = [word for word in each if self.fault(word)]
        if unknown:
            has = f"has the classes {_few(self.classes)}, not {_few(unknown)}"
            msg = f"condition {self.name!r} {has}"
            raise ValueError(msg)
        place = {word: self._class(word) for word in each}
        index = torch.tensor([place[word] for word in words], dtype=torch.int64)
        return index, torch.tensor([word != "" for word in words], dtype=torch.bool)

    def _class(self, word: str) -> int:
        """The class that is written like this, else the only one that is the same number.

        Raises:
            ValueError: If there is none.
        """
        if word in self.classes or not word:
            return self.classes.index(word) if word else 0
        number = _number(word)
        alike = [i for i, name in enumerate(self.classes) if _number(name) == number]
        if number is None or len(alike) != 1:
            msg = f"condition {self.name!r} has no class {word!r}"
            raise ValueError(msg)
        return alike[0]

    def _table(self, values: Sequence[object]) -> NDArray[np.float64]:
        """Rows of numbers from words, or from numbers of which not all are right."""
        faults = [fault for value in values if (fault := self.fault(value))]
        if faults:
            more = f"; and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
            told = "; ".join(faults[:_SHOWN]) + more
            msg = f"condition {self.name!r} needs {self.entries} number(s) a sample: {told}"
            raise ValueError(msg)
        rows = [self._numbers(value) for value in values]
        return np.array(rows, np.float64).reshape(-1, self.entries)

    def _numbers(self, value: object) -> list[float]:
        """The entries of one sample, NaN if it is not known.

        Raises:
            ValueError: If it is no number, or another number of them.
        """
        cells = value.split() if isinstance(value, str) else np.ravel(np.asarray(value)).tolist()
        row = [number for cell in cells if (number := _number(cell)) is not None]
        if len(row) < len(cells):
            must = "a number" if self.entries == 1 else f"{self.entries} numbers"
            msg = f"{self.name} is {_written(value)[:_LONGEST]!r}, not {must}"
            raise ValueError(msg)
        if np.isnan(row).all():
            return [np.nan] * self.entries
        if len(row) != self.entries:
            has = f"{len(row)} number{'s' * (len(row) > 1)}"
            msg = f"{self.name} has {has}, expected {self.entries}"
            raise ValueError(msg)
        return row

    def parse(self, text: str) -> float | str | list[float]:
        """A value from words: a class, a number, or numbers with commas between them.

        Raises:
            ValueError: If it is not one.
        """
        if self.classes:
            return text
        try:
            values = [float(word) for word in text.split(",")]
        except ValueError:
            values = []
        if len(values) != self.entries or not np.isfinite(values).all():
            must = f"{self.entries} number(s), with commas between them"
            msg = f"condition {self.name!r} must be {must}, got {text!r}"
            raise ValueError(msg)
        return values[0] if len(values) == 1 else values

    def outside(self, values: ArrayLike) -> bool:
        """Whether a value lies outside the data's range, where the model was never trained."""
        if self.classes:
            return False
        table = np.asarray(values, np.float64).reshape(-1, self.entries)
        return bool(((table < self.low) | (table > self.high)).any())

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """From what `state` gave."""
        words = {"name", "unit"}
        fields = {key: tuple(value) for key, value in state.items() if key not in words}
        return cls(str(state["name"]), **fields, unit=str(state.get("unit", "")))


def _number(cell: object) -> float | None:
    """A number, NaN for nothing, or None if it is a word."""
    if cell is None or isinstance(cell, int | float):
        return np.nan if cell is None else float(cell)
    try:
        return None if "_" in str(cell) else float(str(cell))
    except ValueError:
        return None


def _written(value: object) -> str:
    """A word as it is, numbers as one writes them, "" for what is not known."""
    if value is None or isinstance(value, str):
        return str(value or "")
    cells = np.ravel(np.asarray(value)).tolist()
    if all(cell is None or cell != cell for cell in cells):
        return ""
    return " ".join(f"{x:.16g}" if isinstance(x, float) else str(x) for x in cells)


def _few(words: Sequence[str]) -> str:
    """The first of a list; of three or fewer all."""
    more = len(words) - _SHOWN
    return f"{list(words[:_SHOWN])}{f' and {more:,} more' if more > 0 else ''}"


def encode_conditions(
    conditions: Sequence[Condition], values: Mapping[str, ArrayLike]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Encoded values and presence masks by name; a condition without values is left out.

    Raises:
        ValueError: If a name is not one of the conditions.
    """
    unknown = values.keys() - {condition.name for condition in conditions}
    if unknown:
        known = [condition.name for condition in conditions]
        says = f"the model knows the conditions {known}" if known else "the model has no condition"
        msg = f"{says}, not {sorted(unknown)}"
        raise ValueError(msg)
    used = [condition for condition in conditions if condition.name in values]
    found = {condition.name: condition.encode(values[condition.name]) for condition in used}
    return {n: x for n, (x, _) in found.items()}, {n: mask for n, (_, mask) in found.items()}
