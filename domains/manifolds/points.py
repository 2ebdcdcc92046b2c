"""Samples in memory, and data in three parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from structdiff.batch import Batch
from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.layout import Layout
from structdiff.runs import checksum

__all__ = ["PARTS", "Data", "Points"]

PARTS = ("train", "validation", "test")
"""Of data."""


@dataclass(frozen=True, eq=False)
class Points:
    """Samples: for each leaf the point of each sample, as the process sees it.

    Arguments:
        leaves: Name to points, `(N, *point)`, float64.
        rows: Which row of its source each sample is, `(N,)`.
        notes: What one should know of how they were read.

    Example:
        >>> points = Points({"torus": torch.zeros(3, 2).double()}, np.arange(3))
        >>> batch = points.collate([2, 0])
        >>> batch["torus"].shape, batch.ids.tolist(), batch.layouts["torus"].counts
        (torch.Size([2, 2]), [2, 0], (1, 1))
    """

    leaves: Mapping[str, Tensor]
    rows: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def collate(self, indices: ArrayLike, dtype: torch.dtype = torch.float32) -> Batch:
        """A batch of samples, one row each; their indices are its ids.

        Arguments:
            indices: Which, `(samples,)`.
            dtype: Of the points.
        """
        chosen = torch.from_numpy(np.asarray(indices, np.int64))
        leaves = {name: x[chosen].to(dtype) for name, x in self.leaves.items()}
        layouts = {name: Layout.regular(len(chosen)) for name in leaves}
        return Batch(leaves, layouts, ids=chosen)

    def batch(self, dtype: torch.dtype = torch.float64) -> Batch:
        """All samples."""
        return self.collate(np.arange(len(self)), dtype)

    def subset(self, indices: ArrayLike) -> Points:
        """These samples, in this order."""
        chosen = np.asarray(indices, np.int64)
        return Points({name: x[chosen] for name, x in self.leaves.items()}, self.rows[chosen])

    def identity(self) -> dict[str, Any]:
        """What tells these samples from others: how many, their leaves, and a digest of them."""
        parts = [
            part
            for name, x in sorted(self.leaves.items())
            for part in (name.encode(), x.numpy().astype("<f8").tobytes())
        ]
        shapes = {name: list(x.shape[1:]) for name, x in self.leaves.items()}
        return {"samples": len(self), "leaves": shapes, "digest": checksum(*parts)}


@dataclass(frozen=True, eq=False)
class Data:
    """Points in three parts.

    Arguments:
        train: What is trained on.
        validation: What is looked at meanwhile; it may be empty.
        test: What is judged on; it may be empty.
        codec: Which columns they are.
        name: Where they are from.
        notes: What one should know of how they were read.
    """

    train: Points
    validation: Points
    test: Points
    codec: ManifoldsCodec
    name: str
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """How many points of which spaces there are, and the notes."""
        parts = zip(PARTS, (self.train, self.validation, self.test), strict=True)
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts)
        leaves = [f"  {leaf.describe()}" for leaf in self.codec.leaves]
        notes = [f"  {note}" for note in self.notes]
        return "\n".join([f"{self.name}: rows {sizes}", *leaves, *notes])
