"""How near generated molecules are to those that were trained on: shapes, not graphs.

The distance between two molecules with the same formula is the root mean square difference of
their sorted interatomic distances, sorted within each pair of elements (C-C, C-H, ...). It is
unchanged by rotation, reflection, translation and the order of the atoms, and 0 for a copy.
Where no training molecule has the formula, elements are ignored and it is taken to those of the
same size.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from structdiff.domains.molecules.structures import Integers, Structures

__all__ = ["nearest_distance"]

Columns: TypeAlias = NDArray[np.float64]
_BLOCK = 4_000_000  # numbers held at a time


def nearest_distance(generated: Structures, train: Structures) -> tuple[Columns, str]:
    """Returns each molecule's distance in Angstrom to the nearest of train, and a protocol.

    It is infinite where train has nothing of the same size, or coordinates are not finite.
    """
    nearest = np.full(len(generated), np.inf)
    open_ = generated.finite
    usable = train.select(np.flatnonzero(train.finite))
    counts = []
    for typed in (True, False):
        theirs = _groups(usable, typed=typed)
        reached = 0
        for key, mine in _groups(generated, typed=typed).items():
            rows = mine[open_[mine]]
            if key in theirs and len(rows):
                nearest[rows] = _closest(generated, rows, usable, theirs[key], typed=typed)
                open_[rows] = False
                reached += len(rows)
        counts.append(reached)
    none = len(generated) - sum(counts)
    protocol = f"median; {counts[0]:,} by formula, {counts[1]:,} by size, {none:,} alone"
    return nearest, protocol


def _sorted_atoms(structures: Structures) -> Integers:
    """The atoms of each molecule by atomic number."""
    return np.asarray(np.lexsort((structures.number, structures.owner)))


def _groups(structures: Structures, *, typed: bool) -> dict[bytes | int, Integers]:
    """Molecules by formula or by size."""
    keys: list[bytes | int] = structures.count.tolist()
    if typed:
        numbers = structures.number[_sorted_atoms(structures)].tobytes()
        cuts = structures.offsets.tolist()
        keys = [numbers[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    groups: dict[bytes | int, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return {key: np.array(rows) for key, rows in groups.items()}


def _closest(
    generated: Structures, rows: Integers, train: Structures, others: Integers, *, typed: bool
) -> Columns:
    mine = _descriptors(generated.select(rows), typed=typed)
    if not mine.shape[1]:
        return np.zeros(len(rows))
    step = max(1, _BLOCK // (3 * mine.shape[1]))
    best = np.full(len(rows), np.inf)
    for start in range(0, len(others), step):
        theirs = _descriptors(train.select(others[start : start + step]), typed=typed)
        best = np.minimum(best, cdist(mine, theirs).min(1))
    return np.asarray(best / np.sqrt(mine.shape[1]))


def _descriptors(structures: Structures, *, typed: bool) -> Columns:
    """Sorted interatomic distances of molecules of one size, `(molecules, pairs)`."""
    n = int(structures.count[0])
    atoms = _sorted_atoms(structures).reshape(len(structures), n)
    i, j = np.triu_indices(n, 1)
    position = structures.position.astype(np.float64)[atoms]
    length = np.sqrt(((position[:, i] - position[:, j]) ** 2).sum(-1))
    number = structures.number[atoms[0]].astype(np.int64)
    kind = 256 * number[i] + number[j] if typed else np.zeros_like(i)
    return np.concatenate(
        [np.sort(length[:, kind == k], axis=1) for k in np.unique(kind)] or [length], axis=1
    )
