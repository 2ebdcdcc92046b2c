"""Bond orders that give every atom an allowed valency, as near to the distances as can be.

By the limits of `bonding`, order k fits two atoms at distance d if l_{k+1} <= d < l_k (l_0 is
infinite, an order that their elements cannot have has the limit 0); else it is off by

    off(k) = max(d - l_k, l_{k+1} - d)    Angstrom.

Sought are orders x, none of them off by more than 0.2 Angstrom, which minimise the sum of off(x)
over all pairs of a molecule while the sum of x at each atom is a valency of its element: an
integer program, solved exactly by branch and bound. Where the distances alone give every atom a
valency, x are their orders. Kekule structures of a ring come out of the same rule.

Unlike EDM's table, sulphur has 2, 4 or 6 bonds, Se and Te too, and pairs without a length l_2 have
double bonds by radii, if both elements can have one: S=O, S=N, P=N and others. Formal charges are
those that are stated, and none is made.

References:
    Molecular double-bond covalent radii for elements Li-E112 (Pyykko and Atsumi, 2009)
    https://doi.org/10.1002/chem.200901472
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from structdiff.domains.molecules import bonding
from structdiff.domains.molecules.structures import (
    NUMBERS,
    SYMBOLS,
    Booleans,
    Integers,
    Structures,
    distances,
    pairs,
)

__all__ = ["matched", "valencies"]

_SLACK = 0.2  # Angstrom
_NODES = 1_000  # of the search; molecules need a few
_HEAP = 4  # pairs per atom within reach; more are a heap of atoms
_TOGETHER = 32  # molecules
_GIVEN_UP = 1_000.0  # Angstrom: more than all that a molecule can be off
_TWO = {"C": 67, "N": 60, "O": 57, "P": 102, "S": 94, "Se": 107, "Te": 128}  # pm, double bonds
_MARGIN = 5  # pm
_MORE = {"S": (2, 4, 6), "Se": (2, 4, 6), "Te": (2, 4, 6)}


def _limits() -> NDArray[np.float64]:
    """The largest distance of orders 1, 2 and 3 by the two atomic numbers, 0 for none."""
    radius = np.full(len(SYMBOLS), np.nan)
    radius[[NUMBERS[symbol] for symbol in _TWO]] = [*_TWO.values()]
    two = np.nan_to_num((radius[:, None] + radius + _MARGIN) / 100)
    one, known, three = bonding.REACH
    return np.stack([one, np.where(known > 0, known, two), three])


def _more() -> Booleans:
    table = np.zeros((len(SYMBOLS), bonding.LARGEST + 1), np.bool_)
    for symbol, counts in _MORE.items():
        table[NUMBERS[symbol], list(counts)] = True
    return table


_REACH, _EXTRA = _limits(), _more()


def valencies(structures: Structures) -> Booleans:
    """Which valencies from 0 to 8 each atom may have, `(atoms, 9)`; S, Se and Te have 2, 4, 6."""
    found = bonding.allowed(structures) | _EXTRA[bonding.isoelectronic(structures)]
    return np.asarray(found)


def matched(structures: Structures) -> list[Integers | None]:
    """The bonds of each molecule as atoms i < j, counted in it, and orders; None without any.

    Example:
        >>> formaldehyde = [[0, 0, 0], [1.27, 0, 0], [-0.6, 0.93, 0], [-0.6, -0.93, 0]]
        >>> long = Structures.from_list([([6, 8, 1, 1], formaldehyde)])
        >>> bonding.bonds(long).order.tolist()
        [1, 1, 1]
        >>> matched(long)[0].tolist()
        [[0, 0, 0], [1, 2, 3], [2, 1, 1]]
    """
    foreign = structures.owner[~valencies(structures).any(1)]
    hopeless = np.bincount(foreign, minlength=len(structures)) > 0
    left = np.flatnonzero(structures.finite & ~hopeless)
    found: list[Integers | None] = [None] * len(structures)
    for low in range(0, len(left), _TOGETHER):
        some = left[low : low + _TOGETHER]
        for m, table in zip(some.tolist(), _matched(structures.select(some)), strict=True):
            found[m] = table
    return found


def _matched(some: Structures) -> list[Integers | None]:
    """The bonds of a few molecules, all at once; one by one if that takes too long."""
    pair, off = _candidates(some)
    molecule = some.owner[pair[0]]
    heaps = np.bincount(molecule, minlength=len(some)) > _HEAP * some.count
    pair, off = pair[:, ~heaps[molecule]], off[:, ~heaps[molecule]]
    order = _solved(some, pair, off)
    if order is None:
        apart = len(some) if len(some) > 1 else 0
        return [_matched(some.select([m]))[0] for m in range(apart)] or [None]
    kept = order > 0
    table, molecule = np.stack([*pair, order])[:, kept], some.owner[pair[0]][kept]
    tables = [table[:, molecule == m] for m in range(len(some))]
    starts = some.offsets[:-1].tolist()
    return [
        one - [[first], [first], [0]] if one.size else None
        for one, first in zip(tables, starts, strict=True)
    ]


def _candidates(some: Structures) -> tuple[Integers, NDArray[np.float64]]:
    """Pairs that may be bonded, and how far orders 0 to 3 are off, infinite beyond the slack."""
    near, far = list[Integers](), list[NDArray[np.float64]]()
    for i, j in pairs(some):
        d = distances(some, i, j)
        limit = _REACH[:, some.number[i], some.number[j]]
        close = np.flatnonzero((d < limit[0] + _SLACK) & (limit[0] > 0))
        near.append(np.stack([i[close], j[close]]))
        far.append(_off(d[close], limit[:, close]))
    none = np.zeros((2, 0), np.int64), np.zeros((4, 0))
    return np.concatenate([none[0], *near], 1), np.concatenate([none[1], *far], 1)


def _off(d: NDArray[np.float64], limit: NDArray[np.float64]) -> NDArray[np.float64]:
    upper = np.stack([np.full_like(d, np.inf), *limit])
    lower = np.stack([limit[0], np.maximum(limit[1], limit[2]), limit[2], np.zeros_like(d)])
    off = np.maximum(np.maximum(d - upper, lower - d), 0)
    return np.where((off > _SLACK) | (upper == 0), np.inf, off)


def _solved(some: Structures, pair: Integers, off: NDArray[np.float64]) -> Integers | None:
    """The order of each pair, 0 in a molecule that has no solution; None if it takes too long.

    Unknown are, from 0 to 1: the orders of each pair and the valencies of each atom, one of each,
    and whether a molecule is given up, when it has none of either.
    """
    order, which = np.nonzero(np.isfinite(off))
    atom, valency = np.nonzero(valencies(some))
    size, atoms, choices = pair.shape[1], len(some.number), len(order)
    column, slot = np.arange(choices), choices + np.arange(len(atom))
    last = choices + len(atom)
    one_order, one_valency, balance = 0, size, size + atoms
    ones = np.ones(max(choices, len(atom), size, atoms))
    entries = [
        (one_order + which, column, ones[:choices]),
        (one_order + np.arange(size), last + some.owner[pair[0]], ones[:size]),
        (one_valency + atom, slot, ones[: len(atom)]),
        (one_valency + np.arange(atoms), last + some.owner, ones[:atoms]),
        (balance + pair[0][which], column, order),
        (balance + pair[1][which], column, order),
        (balance + atom, slot, -valency),
    ]
    row, place, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = coo_array((value, (row, place)), shape=(balance + atoms, last + len(some)))
    wanted = np.concatenate([np.ones(balance), np.zeros(atoms)])
    cost = [off[order, which], np.zeros(len(atom)), np.full(len(some), _GIVEN_UP)]
    found = milp(
        np.concatenate(cost),
        integrality=np.ones(last + len(some)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix.tocsc(), wanted, wanted),
        options={"node_limit": _NODES, "mip_rel_gap": 0.0},
    )
    if found.status != 0:
        return None
    chosen = np.flatnonzero(found.x[:choices] > 0.5)
    orders = np.zeros(size, np.int64)
    orders[which[chosen]] = order[chosen]
    return orders
