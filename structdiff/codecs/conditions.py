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

    @classmethod
    def fit(cls, name: str, values: NDArray[Any]) -> Self:
        """Read off the data.

        Arguments:
            name: Name of the property.
            values: Numbers, `(samples,)` or `(samples, entries)`, NaN where unknown; or words,
                `(samples,)`, "" where unknown.

        Raises:
            ValueError: If no sample has it, or it is the same for all.
        """
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
        return cls(name, mean, std, low, high)

    @property
    def entries(self) -> int:
        """Numbers of a real condition, 0 for a class."""
        return len(self.mean)

    def encode(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """What the model sees, and where it is known.

        Arguments:
            values: As in `fit`, `(samples,)` or `(samples, entries)`.

        Returns:
            Standardised numbers `(samples, entries)` in float32 or classes `(samples,)` in
            int64, and a mask `(samples,)`.

        Raises:
            ValueError: If a word is not a class of this condition, or the shape differs.
        """
        array = np.asarray(values)
        if self.classes:
            words = [str(word) for word in array.reshape(-1).tolist()]
            unknown = sorted(set(words) - set(self.classes) - {""})
            if unknown:
                msg = (
                    f"condition {self.name!r} has the classes {list(self.classes)}, not {unknown}"
                )
                raise ValueError(msg)
            index = [self.classes.index(word) if word else 0 for word in words]
            return torch.tensor(index), torch.tensor([word != "" for word in words])
        try:
            table = array.astype(np.float64).reshape(-1, self.entries)
        except ValueError:
            got = array.tolist()
            msg = f"condition {self.name!r} needs {self.entries} number(s) a sample, got {got}"
            raise ValueError(msg) from None
        known = np.asarray(np.isfinite(table).all(1))
        scaled = (table - np.asarray(self.mean)) / np.asarray(self.std)
        # No value is infinite in float32, however far it lies outside the data.
        scaled = np.where(known[:, None], scaled, 0.0).clip(-1e6, 1e6)
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(known)

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
        fields = {key: tuple(value) for key, value in state.items() if key != "name"}
        return cls(str(state["name"]), **fields)


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
