r"""Distances between the laws of what molecules have, under weights of the molecules.

A statistic is a function of how often each molecule counts, `weights`, `(resamples, molecules)`.
Values belong to molecules and to kinds (a bond length to its molecule and to "C-H"), so that a
molecule is drawn anew with all that it has.

The 1-Wasserstein distance of two laws on a line with distribution functions F and G, and on a
circle (Rabin, Delon and Gousseau, 2011), are

    int |F - G| dz,        min over c of int |F - G - c| dz,

the second at the median c of F - G over the circle; both are exact sums over the merged values.
Over kinds the mean is taken with the frequencies p_k of the reference, sum_k p_k W_k; kinds that
have no value in one of the two have no distance, and the others' frequencies are scaled up.

References:
    Transportation Distances on the Circle (Rabin, Delon and Gousseau, 2011).
    https://doi.org/10.1007/s10851-011-0284-0
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from structdiff.domains.molecules.structures import Integers

__all__ = [
    "Numbers",
    "Statistic",
    "Values",
    "by_kind",
    "cosine",
    "mean",
    "median",
    "variation",
    "wasserstein",
    "wasserstein_on_circle",
]

Numbers: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Numbers], Numbers]


@dataclass(frozen=True, eq=False)
class Values:
    """Numbers that belong to molecules.

    Arguments:
        value: The numbers, or how often something occurs, `(values,)`.
        owner: The molecule of each, `(values,)`.
        kind: What each is a value of, whole numbers or words, `(values,)`.
    """

    value: Numbers
    owner: Integers
    kind: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, value: ArrayLike, owner: ArrayLike, kind: ArrayLike | None = None) -> Values:
        """Numbers with their molecules; without kinds all are of one."""
        numbers, owners = np.asarray(value, np.float64), np.asarray(owner, np.int64)
        return cls(numbers, owners, np.zeros(len(numbers)) if kind is None else np.asarray(kind))

    def only(self, kind: object) -> Values:
        """Those of one kind."""
        chosen = self.kind == kind
        return Values(self.value[chosen], self.owner[chosen], self.kind[chosen])


def by_kind(
    distance: Callable[[Values, Values], Statistic], drawn: Values, real: Values
) -> Statistic:
    """The mean distance over kinds, weighted by how frequent they are in the reference.

    Arguments:
        distance: Of the values of one kind, `wasserstein` or `wasserstein_on_circle`.
        drawn: Values of the molecules that are measured.
        real: Values of the reference.
    """
    kinds, counts = np.unique(real.kind, return_counts=True)
    there = np.isin(kinds, drawn.kind)
    parts = [distance(drawn.only(kind), real.only(kind)) for kind in kinds[there]]
    share = counts[there].astype(np.float64)

    def statistic(weights: Numbers) -> Numbers:
        apart = np.stack([part(weights) for part in parts] or [np.full(len(weights), np.nan)])
        known = np.isfinite(apart)
        whole = (share[:, None] * known).sum(0) if parts else np.zeros(len(weights))
        total = (share[:, None] * np.where(known, apart, 0)).sum(0) if parts else whole
        return _quotient(total, whole)

    return statistic


def wasserstein(drawn: Values, real: Values) -> Statistic:
    """The 1-Wasserstein distance on a line."""
    ends = np.sort(np.concatenate([drawn.value, real.value]))
    gap = partial(_gap, *_gap_arrays(drawn, real, ends[:-1]))
    widths = np.diff(ends)
    return lambda weights: np.asarray(np.abs(gap(weights)) @ widths)


def wasserstein_on_circle(drawn: Values, real: Values) -> Statistic:
    """The 1-Wasserstein distance on a circle of 360 degrees."""
    drawn, real = (Values(v.value % 360, v.owner, v.kind) for v in (drawn, real))
    ends = np.sort(np.concatenate([drawn.value, real.value]))
    gap = partial(_gap, *_gap_arrays(drawn, real, ends))
    widths = np.diff(ends, append=ends[:1] + 360)

    def statistic(weights: Numbers) -> Numbers:
        found = gap(weights)
        order = np.argsort(found, axis=1)
        reached = np.cumsum(widths[order], axis=1) >= 180
        middle = np.take_along_axis(order, np.argmax(reached, axis=1)[:, None], axis=1)
        apart = np.abs(found - np.take_along_axis(found, middle, axis=1)) @ widths
        return np.asarray(apart)

    return statistic


def _gap_arrays(drawn: Values, real: Values, ends: Numbers) -> tuple[Integers, Integers, Numbers]:
    """The molecules by ascending value, how many values are up to each end, and G there."""
    order = np.argsort(drawn.value)
    ranks = np.searchsorted(np.sort(real.value), ends, side="right")
    upto = np.searchsorted(drawn.value[order], ends, side="right")
    return drawn.owner[order], upto, np.asarray(ranks / max(1, len(real)), np.float64)


def _gap(owner: Integers, upto: Integers, below: Numbers, weights: Numbers) -> Numbers:
    """F - G at all ends, `(resamples, ends)`; NaN where no value was drawn."""
    mass = np.zeros((len(weights), len(owner) + 1))
    np.cumsum(weights[:, owner], axis=1, out=mass[:, 1:])
    return _quotient(mass[:, upto], mass[:, -1:]) - below


def _quotient(above: Numbers, below: Numbers) -> Numbers:
    empty = below == 0
    return np.asarray(np.where(empty, np.nan, above / np.where(empty, 1, below)))


def variation(drawn: Values, real: Values) -> Statistic:
    """The total variation of the kinds' shares."""
    counts, target = _tables(drawn, real)
    p = target / max(1, target.sum())

    def statistic(weights: Numbers) -> Numbers:
        found = _summed(counts, weights)
        shares = _quotient(found, found.sum(1, keepdims=True))
        return np.asarray(np.abs(shares - p).sum(1) / 2)

    return statistic if target.sum() else _undefined


def cosine(drawn: Values, real: Values) -> Statistic:
    """The cosine of the angle between the kinds' counts."""
    counts, target = _tables(drawn, real)

    def statistic(weights: Numbers) -> Numbers:
        found = _summed(counts, weights)
        lengths = np.sqrt((found**2).sum(1)) * np.sqrt((target**2).sum())
        return _quotient(found @ target, lengths)

    return statistic


def _tables(drawn: Values, real: Values) -> tuple[csr_array, Numbers]:
    """How often each kind occurs in each drawn molecule, and in all real ones."""
    kinds = np.union1d(drawn.kind, real.kind)
    column = np.searchsorted(kinds, drawn.kind)
    shape = (int(drawn.owner.max(initial=-1)) + 1, len(kinds))
    counts = csr_array((drawn.value, (drawn.owner, column)), shape=shape)
    target = np.bincount(np.searchsorted(kinds, real.kind), real.value, minlength=len(kinds))
    return counts, np.asarray(target, np.float64)


def _summed(counts: csr_array, weights: Numbers) -> Numbers:
    """The counts of all molecules together, `(resamples, kinds)`."""
    return np.asarray((counts.T @ weights[:, : counts.shape[0]].T).T)


def _undefined(weights: Numbers) -> Numbers:
    return np.full(len(weights), np.nan)


def mean(drawn: Values) -> Statistic:
    """The mean of the values."""

    def statistic(weights: Numbers) -> Numbers:
        mine = weights[:, drawn.owner]
        return _quotient(mine @ drawn.value, mine.sum(1))

    return statistic


def median(drawn: Values) -> Statistic:
    """The smallest value that half of them do not exceed."""
    order = np.argsort(drawn.value)
    value, owner = drawn.value[order], drawn.owner[order]

    def statistic(weights: Numbers) -> Numbers:
        mass = np.cumsum(weights[:, owner], axis=1)
        half = np.argmax(mass >= mass[:, -1:] / 2, axis=1)
        return np.asarray(np.where(mass[:, -1] > 0, value[half], np.nan))

    return statistic if len(drawn) else _undefined
