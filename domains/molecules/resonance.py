"""Bond orders beside a formal charge, where lengths lie between two orders.

In a carboxylate both C-O bonds have the same length, so distances alone give two single bonds or
two double ones. A bond is open if more than one order has its limit less than 0.1 Angstrom away,
and open bonds that share atoms are one group. If a group reaches a charged atom or its neighbour,
of all its choices the one is taken that, in this order, leaves the fewest atoms with a valency
that is not allowed, changes the fewest bonds, and gives the high orders to the short bonds.
Nothing is changed in molecules without charges, nor in groups without one.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from structdiff.domains.molecules.structures import Booleans, Integers, Structures, distances

__all__ = ["settle"]

_SLACK = 0.1  # Angstrom
_MOST = 1 << 14  # choices that are tried; a larger tangle keeps the orders of the distances
_SULFUR, _USUAL = 16, [2, 4, 6]  # EDM's table allows it 4 bonds only


def settle(
    structures: Structures,
    pair: Integers,
    order: Integers,
    reach: NDArray[np.float64],
    allowed: Booleans,
) -> Integers:
    """Returns the bond orders with charges taken into account.

    Arguments:
        structures: The molecules.
        pair: The atoms of each bond, `(2, bonds)`.
        order: Their orders by distance alone, `(bonds,)`.
        reach: The largest distance of orders 1, 2 and 3 for each bond, 0 for none, `(3, bonds)`.
        allowed: Which valencies each atom may have, `(atoms, valencies)`.
    """
    charged = structures.charge != 0
    near = charged.copy()
    near[pair[0][charged[pair[1]]]] = True
    near[pair[1][charged[pair[0]]]] = True
    d = distances(structures, pair[0], pair[1])
    may = _possible(d, reach)
    open_ = np.flatnonzero(may.sum(0) > 1)
    fine = allowed.copy()
    fine[np.ix_((structures.number == _SULFUR) & ~charged, _USUAL)] = True
    order = order.copy()
    for group in _groups(pair, open_, len(charged)):
        choices = [(np.flatnonzero(may[:, bond]) + 1).tolist() for bond in group]
        if (
            near[pair[:, group]].any()
            and np.prod([float(len(choice)) for choice in choices]) <= _MOST
        ):
            order[group] = _best(choices, group, pair, order, d, fine)
    return order


def _possible(d: NDArray[np.float64], reach: NDArray[np.float64]) -> Booleans:
    """Which orders the distances leave open, `(3, bonds)`."""
    shortest = np.concatenate([reach[1:], np.zeros_like(reach[:1])]) - _SLACK
    return np.asarray((d < reach + _SLACK) & (reach > 0) & (d > shortest))


def _groups(pair: Integers, open_: Integers, atoms: int) -> list[Integers]:
    """The open bonds, joined where they share an atom."""
    left, right = pair[:, open_]
    graph = coo_array((np.ones(len(open_)), (left, right)), shape=(atoms, atoms))
    _, label = connected_components(graph, directed=False)
    group = label[left]
    return [open_[group == one] for one in np.unique(group)]


def _best(
    choices: list[list[int]],
    group: Integers,
    pair: Integers,
    order: Integers,
    d: NDArray[np.float64],
    fine: Booleans,
) -> Integers:
    touched = np.unique(pair[:, group])
    spot = np.searchsorted(touched, pair[:, group])
    beside = np.isin(pair, touched)
    base = np.zeros(len(touched), np.int64)
    for side in (0, 1):
        bond = np.flatnonzero(beside[side])
        np.add.at(base, np.searchsorted(touched, pair[side, bond]), order[bond])
    trials = np.array(list(product(*choices)))
    change = trials - order[group]
    valency = np.repeat(base[None], len(trials), 0)
    for side in (0, 1):
        for column, atom in enumerate(spot[side]):
            valency[:, atom] += change[:, column]
    last = fine.shape[1] - 1
    good = fine[touched, np.minimum(valency, last)] & (valency <= last)
    keys = (trials @ d[group], np.abs(change).sum(1), (~good).sum(1))
    return np.asarray(trials[np.lexsort(keys)[0]])
