r"""All pairs of rows of each sample, packed: the complete graph of every molecule of a batch.

A pair i < j is one edge; messages are symmetric in its ends and vectors antisymmetric, so half of
the directed edges are enough. Sums over the edges of a node run over a sorted list, as bags, which
is faster than atomics and gives the same bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.layout import Layout

__all__ = ["Pairs"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges between the rows of each sample.

    Arguments:
        first: Lower row of each edge, `(edges,)`.
        second: Higher row of each edge, `(edges,)`.
        ends: Both rows of each edge, interleaved, `(2 edges,)`.
        edge_starts: Start of each edge in `ends`, `(edges,)`.
        edges_of: Edges of each row, one row after the other, `(2 edges,)`.
        row_starts: Start of each row in `edges_of`, `(rows,)`.
        signs: For `edges_of`, 1 where the row is the edge's first and -1 where it is the second.
    """

    first: Tensor
    second: Tensor
    ends: Tensor
    edge_starts: Tensor
    edges_of: Tensor
    row_starts: Tensor
    signs: Tensor

    @property
    def rows(self) -> int:
        """Number of rows, spare ones included."""
        return self.row_starts.shape[0]

    @classmethod
    def complete(cls, layout: Layout, *, bucket: tuple[int, int] | None = None) -> Pairs:
        """All pairs inside each sample.

        Arguments:
            layout: Row counts; no device is read.
            bucket: Round rows and edges up to multiples of these with spare rows and edges among
                them. Low-precision matrix products on CPUs build a kernel per shape, so few
                shapes are faster; spare rows touch no other.
        """
        counts = np.asarray(layout.counts, np.int64)
        first, second = _complete(counts)
        rows = int(counts.sum())
        if bucket is not None:
            spare = rows
            rows = -(-(rows + 1) // bucket[0]) * bucket[0]
            extra = np.full(-len(first) % bucket[1], spare)
            first, second = np.concatenate([first, extra]), np.concatenate([second, extra])
        return cls.of(first, second, rows, layout.sample.device)

    @classmethod
    def of(
        cls, first: NDArray[np.int64], second: NDArray[np.int64], rows: int, device: torch.device
    ) -> Pairs:
        """Edges from their ends."""
        ends = np.stack([first, second], 1).reshape(-1)
        order = np.argsort(ends, kind="stable")
        degree = np.bincount(ends, minlength=rows)
        parts = (
            first,
            second,
            ends,
            np.arange(0, len(ends), 2),
            order // 2,
            np.cumsum(degree) - degree,
            (1 - 2 * (order % 2)).astype(np.float32),
        )
        return cls(*(torch.from_numpy(part).to(device) for part in parts))


@lru_cache(maxsize=512)
def _triangle(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first, second = np.triu_indices(count, 1)
    return first, second


def _complete(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of each sample, from one cached triangle per size."""
    if not len(counts):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    triangles = [_triangle(int(count)) for count in counts]
    offset = np.repeat(np.cumsum(counts) - counts, counts * (counts - 1) // 2)
    first = np.concatenate([i for i, _ in triangles]) + offset
    return first, np.concatenate([j for _, j in triangles]) + offset
