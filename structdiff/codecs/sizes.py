r"""How many rows a sample has, given what is asked of it.

Sizes n are drawn from the data's histogram or, given conditions c_1, c_2, ..., from

    p(n | c) proportional to p(n) prod_k p(b_k | n),

where b_k is the bin (or class) of c_k: bins are cut at quantiles of the data, and p(b | n) is
counted with one pseudo-count of p(b). Exact for one binned condition up to that pseudo-count;
several are taken as independent given the size.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022), section 5.
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["SizeLaw"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SizeLaw:
    """The law of sizes, and how they go with each condition.

    Arguments:
        histogram: Number of samples of each size, from 0 up.
        tables: Name (of a condition, or of an entry of one) to the edges of its bins and the
            number of samples by size and bin.

    Example:
        >>> law = SizeLaw.fit(np.array([2, 2, 3]), {}, {})
        >>> law.weights(1, {}, {}).tolist()
        [[0.0, 0.0, 2.0, 1.0]]
    """

    histogram: tuple[int, ...]
    tables: Mapping[str, tuple[tuple[float, ...], tuple[tuple[int, ...], ...]]]

    @classmethod
    def fit(
        cls,
        sizes: NDArray[np.int64],
        condition: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
    ) -> Self:
        """Count.

        Arguments:
            sizes: Size of each sample, `(samples,)`.
            condition: Encoded conditions of the samples, see `Condition.encode`.
            present: Where they are known.
        """
        tables = {}
        for entry, name, value in _columns(condition):
            known = present[name].numpy().astype(bool)
            edges = _edges(value[known])
            counts = np.zeros((int(sizes.max()) + 1, len(edges) + 1), np.int64)
            np.add.at(counts, (sizes[known], np.searchsorted(edges, value[known], "right")), 1)
            rows = tuple(tuple(int(x) for x in row) for row in counts)
            tables[entry] = (tuple(float(edge) for edge in edges), rows)
        return cls(tuple(int(x) for x in np.bincount(sizes)), tables)

    def weights(
        self, samples: int, condition: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> Floats:
        """Unnormalised p(n | c) of each sample, `(samples, sizes)`."""
        total = np.tile(np.asarray(self.histogram, np.float64), (samples, 1))
        for entry, name, value in _columns(condition):
            edges, rows = self.tables[entry]
            counts = np.asarray(rows, np.float64)
            share = counts.sum(0) / counts.sum()
            likelihood = (counts + share) / (counts.sum(1, keepdims=True) + 1)
            known = present[name].numpy().astype(bool)
            bins = np.searchsorted(np.asarray(edges), value, "right")
            total *= np.where(known[:, None], likelihood[:, bins].T, 1.0)
        return total

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        tables = {name: {"edges": e, "counts": c} for name, (e, c) in self.tables.items()}
        return {"histogram": list(self.histogram), "tables": tables}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """From what `state` gave."""
        tables = {
            name: (tuple(table["edges"]), tuple(tuple(row) for row in table["counts"]))
            for name, table in state["tables"].items()
        }
        return cls(tuple(state["histogram"]), tables)


def draw_sizes(weights: Floats, random: np.random.Generator) -> NDArray[np.int64]:
    """A size for each row of weights, by inverse CDF."""
    edges = weights.cumsum(1)
    place = random.random(len(weights))[:, None] * edges[:, -1:]
    return np.asarray((edges <= place).sum(1))


def _columns(condition: Mapping[str, Tensor]) -> list[tuple[str, str, Floats]]:
    """Each condition, or each entry of a vector: what it is called, its condition, its numbers."""
    columns = []
    for name, value in condition.items():
        table = value.numpy().astype(np.float64).reshape(len(value), -1)
        alone = table.shape[1] == 1
        columns += [
            (name if alone else f"{name}[{i}]", name, column) for i, column in enumerate(table.T)
        ]
    return columns


def _edges(values: Floats) -> Floats:
    """Inner edges of the bins: between the values where they are few, else at quantiles.

    The first bin holds the smallest value and the last the largest, so no bin is empty.
    """
    bins = int(np.clip(np.sqrt(len(values)) / 1.5, 2, 200))
    distinct = np.unique(values)
    if len(distinct) <= bins:
        return np.asarray((distinct[1:] + distinct[:-1]) / 2)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    return np.asarray(edges[edges > distinct[0]])
