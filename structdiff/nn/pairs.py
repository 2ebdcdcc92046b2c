r"""Edges between the rows of each sample, packed: the graph of every molecule of a batch.

A pair (i, j) is one undirected edge, `first` and `second`; it stands for two directed ones, which
are sorted by their target, so that a sum over the edges of a node runs over a sorted list, as
bags. That is faster than atomics and gives the same bits each time. Networks whose messages are
symmetric in the ends work on pairs, others on the directed edges; what is known of a pair is
spread to its two edges by `both` and averaged over them by `joined`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.layout import Layout, upper_triangles

__all__ = ["Pairs"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges between the rows of each sample.

    Arguments:
        first: One row of each pair, `(pairs,)`.
        second: The other row of each pair, `(pairs,)`.
        ends: Both rows of each pair, interleaved, `(2 pairs,)`.
        edge_starts: Start of each pair in `ends`, `(pairs,)`.
        edges_of: The pairs of each row, one row after the other, `(2 pairs,)`: the pair of each
            directed edge.
        row_starts: Start of each row in `edges_of`, `(rows,)`.
        signs: For `edges_of`, 1 where the row is the pair's first and -1 where it is the second.
        target: For `edges_of`, the row itself, ascending, `(2 pairs,)`.

    Example:
        >>> pairs = Pairs.complete(Layout.ragged([3, 2]))
        >>> pairs.edge_index
        tensor([[1, 2, 0, 2, 0, 1, 4, 3],
                [0, 0, 1, 1, 2, 2, 3, 4]])
    """

    first: Tensor
    second: Tensor
    ends: Tensor
    edge_starts: Tensor
    edges_of: Tensor
    row_starts: Tensor
    signs: Tensor
    target: Tensor

    @property
    def rows(self) -> int:
        """Number of rows, spare ones included."""
        return self.row_starts.shape[0]

    @cached_property
    def source(self) -> Tensor:
        """The other end of each directed edge, `(2 pairs,)`."""
        both = self.first[self.edges_of] + self.second[self.edges_of]
        return both - self.target

    @property
    def edge_index(self) -> Tensor:
        """Directed edges as torch-geometric has them: source and target, `(2, 2 pairs)`."""
        return torch.stack([self.source, self.target])

    def both(self, x: Tensor) -> Tensor:
        """What is known of pairs, for each directed edge: `(pairs, *)` to `(2 pairs, *)`."""
        return x.index_select(0, self.edges_of)

    def joined(self, x: Tensor) -> Tensor:
        """Mean over the two directed edges of each pair, `(2 pairs, *)` to `(pairs, *)`."""
        total = x.new_zeros(len(self.first), *x.shape[1:]).index_add(0, self.edges_of, x)
        return total / 2

    @classmethod
    def complete(cls, layout: Layout, *, bucket: tuple[int, int] | None = None) -> Pairs:
        """All pairs inside each sample, in the order of `Layout.pairs`.

        Arguments:
            layout: Row counts; no device is read.
            bucket: Round rows and pairs up to multiples of these with spare rows and pairs among
                them. Low-precision matrix products on CPUs build a kernel per shape, so few
                shapes are faster; spare rows touch no other.
        """
        return _complete(layout.counts, bucket, layout.sample.device)

    @classmethod
    def within(cls, position: Tensor, layout: Layout, radius: float) -> Pairs:
        """Pairs that are closer than a radius: a radius graph. The device is read.

        Arguments:
            position: Positions, `(rows, 3)`.
            layout: Which sample each row belongs to.
            radius: Largest distance, in the units of the positions.

        Raises:
            ValueError: If the radius is not positive.
        """
        if not radius > 0:
            msg = f"radius must be positive, got {radius}: give the largest distance of a pair"
            raise ValueError(msg)
        from scipy.spatial import cKDTree

        place = np.empty((layout.rows, 4))
        place[:, :3] = position.detach().cpu().double().numpy()
        # Another coordinate keeps the samples out of each other's reach: one tree finds all.
        place[:, 3] = 2 * radius * layout.sample.cpu().numpy()
        found = cKDTree(place).query_pairs(radius, output_type="ndarray").astype(np.int64)
        found = found.reshape(-1, 2)
        found = found[np.lexsort((found[:, 1], found[:, 0]))]
        return cls.of(found[:, 0], found[:, 1], layout.rows, position.device)

    @classmethod
    def from_edge_index(cls, edge_index: Tensor, rows: int) -> Pairs:
        """The undirected graph of torch-geometric's edges; each pair once, i < j, by i then j.

        Arguments:
            edge_index: Rows that are joined, `(2, edges)`, in one direction or in both.
            rows: Number of rows.

        Raises:
            ValueError: If a row is joined to itself or out of range, or the shape is another.
        """
        ends = edge_index.cpu().numpy()
        if ends.ndim != 2 or len(ends) != 2 or ends.dtype.kind != "i":
            msg = f"edge_index must be int64 (2, edges), got {edge_index.dtype} {ends.shape}"
            raise ValueError(msg)
        if ends.size and not (ends.min() >= 0 and ends.max() < rows):
            msg = f"edge_index must be within 0 to {rows - 1}, got {ends.min()} to {ends.max()}"
            raise ValueError(msg)
        low, high = ends.min(0, initial=rows), ends.max(0, initial=-1)
        if (low == high).any():
            msg = f"edge_index joins row {low[low == high][0]} to itself: leave out self-loops"
            raise ValueError(msg)
        place = np.unique(low * rows + high)
        return cls.of(place // rows, place % rows, rows, edge_index.device)

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
            ends[order],
        )
        return cls(*(torch.from_numpy(part).to(device) for part in parts))


@lru_cache(maxsize=8)
def _complete(
    counts: Sequence[int], bucket: tuple[int, int] | None, device: torch.device
) -> Pairs:
    """All pairs; a walk asks for the same ones at every step."""
    first, second = upper_triangles(counts)
    rows = sum(counts)
    if bucket is not None:
        spare = rows
        rows = -(-(rows + 1) // bucket[0]) * bucket[0]
        extra = np.full(-len(first) % bucket[1], spare)
        first, second = np.concatenate([first, extra]), np.concatenate([second, extra])
    return Pairs.of(first, second, rows, device)
