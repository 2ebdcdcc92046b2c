r"""Fields as records, and the data sets that have them.

The leaf is the field itself, or its real latent, one row a sample; or, where the codec has
classes, the leaf `code`, one row for each code, as the tokens of a text. The conditions are the
class `label`, texts, and fields that were made of the clean field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.batch import Batch
from structdiff.codecs.latent import LatentCodec
from structdiff.layout import Layout
from structdiff.runs.fields.conditions import Making

__all__ = ["CODE", "LABEL", "FieldSet", "Fields", "Record"]

CODE = "code"
"""Name of the leaf of codes."""

LABEL = "label"
"""Name of the condition that is a class."""


class FieldSet(Protocol):
    """A data set of fields."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def fields(self, index: NDArray[np.int64], /) -> Tensor:
        """These samples, float32 `(samples, channels, *places)` in [-1, 1]."""
        ...

    def conditions(
        self, index: NDArray[np.int64], /
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What is known of them: values by name, `(samples, ...)`, and where, `(samples,)` bool.

        The names are those of `Fields`: `label` is int64; texts are int64 `(samples, length)`
        with 0 where there is no symbol. A name without a mask is known of all. Of a condition
        that is made of something else than the clean field it is that, see `Making.source`.
        """
        ...

    def identity(self) -> Mapping[str, Any]:
        """What tells these data from others, for JSON."""
        ...


@dataclass(frozen=True)
class Fields:
    """What the fields of a run are.

    Arguments:
        leaf: What one is, as `image`.
        event: Channels and places.
        classes: Names of the classes; empty for none.
        conditions: Name to what makes a condition of the clean field.
        texts: Name to the number of symbols of each condition that is a text.
        near: Name of the condition that is near the clean field, of its own shape, with one
            channel or with fewer places; empty where there is none.

    Raises:
        ValueError: If a number is not positive, there is one class, or `near` is no condition.
    """

    leaf: str
    event: tuple[int, ...]
    classes: tuple[str, ...] = ()
    conditions: Mapping[str, Making] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)
    near: str = ""

    def __post_init__(self) -> None:
        if len(self.event) < 2 or min(self.event) < 1:
            msg = f"event must be channels and places, each positive, got {self.event}"
            raise ValueError(msg)
        if len(self.classes) == 1:
            msg = f"there is one class, {self.classes[0]!r}: train without classes"
            raise ValueError(msg)
        if self.near and self.near not in self.conditions:
            msg = (
                f"near must be one of the conditions {sorted(self.conditions)}, got {self.near!r}"
            )
            raise ValueError(msg)

    @property
    def axes(self) -> int:
        """Axes of places."""
        return len(self.event) - 1

    @property
    def named(self) -> tuple[str, ...]:
        """Names of all conditions."""
        label = (LABEL,) if self.classes else ()
        return (*label, *self.texts, *self.conditions)


class Record:
    """Latents to batches and back.

    Attributes:
        leaf: Name of the leaf.
        latent: Shape of one latent.
        classes: Number of classes of each of its entries; 0 where it is real.
        bounded: Whether the leaf is the field itself, in [-1, 1].

    Arguments:
        fields: What the fields are.
        codec: Their codec; None where the model is of the fields themselves.
    """

    def __init__(self, fields: Fields, codec: LatentCodec | None) -> None:
        self.bounded = codec is None
        self.latent = fields.event if codec is None else tuple(codec.latent)
        self.classes = 0 if codec is None else codec.classes
        self.leaf = CODE if self.classes else fields.leaf
        if not self.classes and len(self.latent) < 2:
            msg = f"latents must have channels and places, got the shape {self.latent}"
            raise ValueError(msg)

    @property
    def rows(self) -> int:
        """Rows of one sample."""
        return math.prod(self.latent) if self.classes else 1

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one row."""
        return () if self.classes else self.latent

    def batch(
        self,
        z: Tensor,
        condition: Mapping[str, Tensor] | None = None,
        present: Mapping[str, Tensor] | None = None,
        ids: Tensor | None = None,
    ) -> Batch:
        """Latents as a batch.

        Arguments:
            z: Latents, `(samples, *latent)`.
            condition: Name to value.
            present: Name to a mask.
            ids: A number for each sample.
        """
        leaves, layouts = {self.leaf: self.flat(z)}, {self.leaf: self.layout(len(z), z.device)}
        numbers = torch.arange(len(z), device=z.device) if ids is None else ids
        return Batch(leaves, layouts, condition or {}, present or {}, ids=numbers)

    def layout(self, samples: int, device: torch.device) -> Layout:
        """Which sample each row belongs to."""
        if not self.classes:
            return Layout.regular(samples, device)
        return Layout.ragged((self.rows,) * samples, device)

    def flat(self, z: Tensor) -> Tensor:
        """`(samples, *latent)` to `(rows, *event)`."""
        return z.reshape(-1) if self.classes else z

    def whole(self, leaf: Tensor) -> Tensor:
        """`(rows, *event)` to `(samples, *latent)`."""
        return leaf.reshape(-1, *self.latent) if self.classes else leaf
