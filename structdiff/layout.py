r"""Rows and samples.

A leaf is a tensor `(rows, *event)`. A *layout* says which sample each row belongs to. A regular
leaf (an image, a sentence) has one row per sample; a ragged one (atoms, residues) packs the rows
of all samples one after the other, with no padding; the rows of an edge leaf (bonds) also name
the two node rows that they join.

Whatever couples the rows of one sample (a sum, a mean, a zero centre of mass) goes through the
layout, so that no sample's result depends on its batch mates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Layout", "upper_triangles"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which sample each row of a leaf belongs to.

    Arguments:
        counts: Number of rows of each sample, as Python ints (no device is read to learn a size).
        sample: Sample index of each row, `(rows,)`, non-decreasing.
        nodes: For edge rows, the two node rows each joins, `(2, rows)`; otherwise None.
        over: The layout of those node rows, if it is known.

    Example:
        >>> layout = Layout.ragged([2, 3])
        >>> layout.sum(torch.ones(5))
        tensor([2., 3.])
    """

    counts: tuple[int, ...]
    sample: Tensor
    nodes: Tensor | None = None
    over: Layout | None = None

    @classmethod
    def regular(cls, samples: int, device: torch.device | str | None = None) -> Layout:
        """One row per sample."""
        return cls((1,) * samples, torch.arange(samples, device=device))

    @classmethod
    def ragged(cls, counts: Sequence[int], device: torch.device | str | None = None) -> Layout:
        """Rows of all samples packed one after the other.

        Raises:
            ValueError: If a count is negative.
        """
        counts = tuple(int(count) for count in counts)
        if any(count < 0 for count in counts):
            msg = f"counts must not be negative, got {min(counts)}: give the rows of each sample"
            raise ValueError(msg)
        sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts).long())
        return cls(counts, sample.to(device))

    @classmethod
    def pairs(cls, over: Layout) -> Layout:
        """One row for each pair i < j of the rows of each sample, by i and then by j.

        Arguments:
            over: The layout of the rows that are paired.

        Example:
            >>> Layout.pairs(Layout.ragged([3, 1, 2])).nodes
            tensor([[0, 0, 1, 4],
                    [1, 2, 2, 5]])
        """
        device = over.sample.device
        nodes = torch.from_numpy(np.stack(upper_triangles(over.counts))).to(device)
        edges = cls.ragged([n * (n - 1) // 2 for n in over.counts], device)
        return cls(edges.counts, edges.sample, nodes, over)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.counts)

    @property
    def rows(self) -> int:
        """Number of rows of all samples together."""
        return self.sample.shape[0]

    @cached_property
    def size(self) -> Tensor:
        """Number of rows of each sample, `(samples,)`, on the device of the rows."""
        return torch.bincount(self.sample, minlength=self.samples)

    @cached_property
    def start(self) -> Tensor:
        """First row of each sample, `(samples,)`."""
        return torch.cumsum(self.size, 0) - self.size

    @cached_property
    def row(self) -> Tensor:
        """Index of each row inside its sample, `(rows,)`."""
        return torch.arange(self.rows, device=self.sample.device) - self.start[self.sample]

    def rank(self, score: Tensor) -> Tensor:
        """Place of each row among the rows of its sample by rising score, `(rows,)`; ties stay.

        Arguments:
            score: A number for each row, `(rows,)`.

        Example:
            >>> Layout.ragged([3, 2]).rank(torch.tensor([0.3, 0.1, 0.2, 5.0, 4.0]))
            tensor([2, 0, 1, 1, 0])
        """
        order = torch.argsort(score, stable=True)
        order = order[torch.argsort(self.sample[order], stable=True)]
        return torch.empty_like(order).scatter_(0, order, self.row)

    def rows_of(self, samples: Tensor) -> Tensor:
        """Indices of the rows of these samples, one sample after the other."""
        count = self.size[samples]
        ends = torch.cumsum(count, 0)
        offset = torch.repeat_interleave(self.start[samples] - (ends - count), count)
        return offset + torch.arange(offset.shape[0], device=offset.device)

    def select(self, samples: Tensor) -> Layout:
        """The layout of these samples, in this order; edges keep their ends if `over` is known."""
        chosen = Layout.ragged([self.counts[i] for i in samples.tolist()], self.sample.device)
        if self.nodes is None or self.over is None:
            return chosen
        over = self.over.select(samples)
        moved = chosen.spread(over.start - self.over.start[samples])
        nodes = self.nodes[:, self.rows_of(samples)] + moved
        return Layout(chosen.counts, chosen.sample, nodes, over)

    def sum(self, x: Tensor) -> Tensor:
        """Sum of the rows of each sample, `(rows, *event)` to `(samples, *event)`."""
        return x.new_zeros(self.samples, *x.shape[1:]).index_add(0, self.sample, x)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of the rows of each sample; zero for a sample without rows."""
        size = self.size.clamp(min=1).to(x.dtype)
        return self.sum(x) / size.reshape(-1, *(1,) * (x.ndim - 1))

    def spread(self, x: Tensor) -> Tensor:
        """Give each row the value of its sample, `(samples, *event)` to `(rows, *event)`."""
        return x.index_select(0, self.sample)

    def to(self, device: torch.device | str) -> Layout:
        """The same layout on another device."""
        nodes = None if self.nodes is None else self.nodes.to(device)
        over = None if self.over is None else self.over.to(device)
        return Layout(self.counts, self.sample.to(device), nodes, over)


@lru_cache(maxsize=512)
def _triangle(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = np.triu_indices(count, 1)
    return first, second


def upper_triangles(counts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and second row of all pairs i < j of each sample, from one cached triangle per size.

    Arguments:
        counts: Number of rows of each sample.
    """
    if not len(counts):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    count = np.asarray(counts, np.int64)
    triangles = [_triangle(n) for n in count.tolist()]
    offset = np.repeat(np.cumsum(count) - count, count * (count - 1) // 2)
    first = np.concatenate([i for i, _ in triangles]) + offset
    return first, np.concatenate([j for _, j in triangles]) + offset
