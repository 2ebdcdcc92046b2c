"""Which rows are for training, for validation and for the test.

Rows are drawn as `torch.utils.data.random_split(rows, [train, validation, test])` draws them with
`torch.Generator().manual_seed(seed)`; at shares of 0.1 there are N // 10 for validation and for
the test: so are the splits of the benchmarks on the earth and on tori. Groups are never torn: they
are drawn in order, for the test, then for validation, if they fit into what is left of its share;
the largest is for training.

References:
    Flow Matching on General Geometries (Chen and Lipman, 2024), appendix H.
    https://arxiv.org/abs/2302.03660
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Split", "by_groups", "by_rows"]

Integers = NDArray[np.int64]


class Split(NamedTuple):
    """The rows of each part."""

    train: Integers
    validation: Integers
    test: Integers


def by_rows(rows: int, validation: float, test: float, seed: int) -> Split:
    """A split of single rows.

    Arguments:
        rows: How many there are.
        validation: Share of them; so many rows, rounded down.
        test: Share of them.
        seed: Of the order.

    Example:
        >>> [part.tolist() for part in by_rows(10, 0.1, 0.2, 0)]
        [[4, 1, 7, 5, 3, 9, 0], [8], [6, 2]]
    """
    held = [int(share * rows + 1e-6) for share in (validation, test)]
    order = _order(rows, seed)
    first, second = rows - sum(held), rows - held[1]
    return Split(order[:first], order[first:second], order[second:])


def by_groups(groups: NDArray[Any], validation: float, test: float, seed: int) -> Split:
    """A split of whole groups.

    Arguments:
        groups: The group of each row, `(rows,)`.
        validation: Share of the rows, as near as groups of the order come to it.
        test: Share of the rows, likewise.
        seed: Of the order of the groups.

    Raises:
        ValueError: If there are fewer groups than parts.
    """
    names, group, count = np.unique(groups, return_inverse=True, return_counts=True)
    shares = {2: test, 1: validation}
    parts = 1 + sum(share > 0 for share in shares.values())
    if len(names) < parts:
        msg = (
            f"the column of data.split_by has {len(names)} groups, too few for {parts} parts: "
            "split by another column, or set data.validation or data.test to 0"
        )
        raise ValueError(msg)
    order, part = _order(len(names), seed), np.zeros(len(names), np.int64)
    left = order[order != count.argmax()]  # the largest group is for training
    for number, share in shares.items():
        if share > 0:
            spared = parts - 2 if number == 2 else 0
            chosen = _fill(count[left], share * len(groups), len(left) - spared)
            part[left[chosen]] = number
            left = np.delete(left, chosen)
    rows = [np.flatnonzero(part[group] == number) for number in range(3)]
    return Split(*rows)


def _fill(count: Integers, most: float, groups: int) -> list[int]:
    """The groups that fit into so many rows, in their order; the smallest if none does."""
    chosen, have = list[int](), 0
    for place, rows in enumerate(count.tolist()):
        if have + rows <= most and len(chosen) < groups:
            chosen.append(place)
            have += rows
    return chosen or [int(count.argmin())]


def _order(count: int, seed: int) -> Integers:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
