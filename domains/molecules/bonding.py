"""Bonds from distances and the valencies of elements: EDM's tables, and what we add to them.

Two atoms at distance d (pm) are bonded with order 1 if d < l_1 + 10, with order 2 if also
d < l_2 + 5, with order 3 if also d < l_3 + 3, where l_k is the typical length of a bond of order
k between their elements. Neutral molecules of the tables' pairs are judged by the tables alone.

Added, where the tables say nothing:

- A pair without a length l_1 gets the sum of the covalent radii of Pyykko and Atsumi, if both
  elements are among those of the tables or Ge, Se, Te, Al, Hg, Bi; it has single bonds only.
- An atom with formal charge q has the valencies of the neutral element with as many electrons,
  Z - q: N+ those of C, O- those of F, B- those of C, S+ those of P.
- The lengths of bonds at a charge lie between the orders (a carboxylate, a nitro group). There,
  orders that are within 0.1 Angstrom of their limits are exchanged if more atoms then have an
  allowed valency; see `resonance`.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022)
    https://arxiv.org/abs/2203.17003, appendix C.
    Molecular single-bond covalent radii for elements 1-118 (Pyykko and Atsumi, 2009)
    https://doi.org/10.1002/chem.200800987
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.molecules.resonance import settle
from structdiff.domains.molecules.structures import (
    NUMBERS,
    SYMBOLS,
    Bonds,
    Booleans,
    Integers,
    Structures,
    distances,
    pairs,
)

__all__ = [
    "LARGEST",
    "REACH",
    "VALENCIES",
    "Bonds",
    "allowed",
    "bonds",
    "inferred",
    "isoelectronic",
]

# Typical bond lengths in pm: per order, "element: partner length, ..." with each pair once.
_LENGTHS = {
    1: """
        H: H 74, B 119, C 109, N 101, O 96, F 92, Si 148, P 144, S 134, Cl 127, As 152, Br 141,
           I 161;
        B: Cl 175;
        C: C 154, N 147, O 143, F 135, Si 185, P 184, S 182, Cl 177, Br 194, I 214;
        N: N 145, O 140, F 136, P 177, S 168, Cl 175, Br 214, I 222;
        O: O 148, F 142, Si 163, P 163, S 151, Cl 164, Br 172, I 194;
        F: F 142, Si 160, P 156, S 158, Cl 166, Br 178, I 187;
        Si: Si 233, S 200, Cl 202, Br 215, I 243;
        P: P 221, S 210, Cl 203, Br 222;
        S: S 204, Cl 207, Br 225, I 234;
        Cl: Cl 199, Br 214;
        Br: Br 228;
        I: I 266
    """,
    2: "C: C 134, N 129, O 120, S 160; N: N 125, O 121; O: O 121, P 150; P: S 186",
    3: "C: C 120, N 116, O 113; N: N 110",
}
# Covalent radii in pm, of the elements that pairs without a length may have.
_RADII = {
    "H": 32, "B": 85, "C": 75, "N": 71, "O": 63, "F": 64, "Al": 126, "Si": 116, "P": 111, "S": 103,
    "Cl": 99, "Ge": 121, "As": 121, "Se": 116, "Br": 114, "Te": 136, "I": 133, "Hg": 133,
    "Bi": 151,
}  # fmt: skip
_MARGIN = {1: 10, 2: 5, 3: 3}  # pm, tuned by EDM on QM9
VALENCIES: dict[str, tuple[int, ...]] = {
    "H": (1,),
    "B": (3,),
    "C": (4,),
    "N": (3,),
    "O": (2,),
    "F": (1,),
    "Al": (3,),
    "Si": (4,),
    "P": (3, 5),
    "S": (4,),
    "Cl": (1,),
    "As": (3,),
    "Br": (1,),
    "I": (1,),
    "Hg": (1, 2),
    "Bi": (3, 5),
}
LARGEST = 8  # more bonds than that at one atom are a heap of atoms, not a molecule


def _thresholds(order: int) -> NDArray[np.float64]:
    """The largest distance in Angstrom, by the two atomic numbers; 0 where there is no bond."""
    table = np.zeros((len(SYMBOLS), len(SYMBOLS)))
    for row in _LENGTHS[order].split(";"):
        left, cells = row.split(":")
        i = NUMBERS[left.strip()]
        for right, length in (cell.split() for cell in cells.split(",")):
            j = NUMBERS[right]
            table[i, j] = table[j, i] = (int(length) + _MARGIN[order]) / 100
    return table


def _with_radii(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fills the pairs without a length."""
    radius = np.full(len(SYMBOLS), np.nan)
    radius[[NUMBERS[symbol] for symbol in _RADII]] = [*_RADII.values()]
    length = (radius[:, None] + radius + _MARGIN[1]) / 100
    return np.where((table > 0) | np.isnan(length), table, length)


def _allowed() -> Booleans:
    table = np.zeros((len(SYMBOLS), LARGEST + 1), dtype=np.bool_)
    for symbol, valencies in VALENCIES.items():
        table[NUMBERS[symbol], list(valencies)] = True
    return table


REACH = np.stack([_with_radii(_thresholds(1)), _thresholds(2), _thresholds(3)])
_STABLE = _allowed()


def isoelectronic(structures: Structures) -> Integers:
    """The neutral element with as many electrons as each atom, 0 if there is none, `(atoms,)`."""
    like = structures.number.astype(np.int64) - structures.charge
    none = (structures.number == 0) | (like < 0) | (like >= len(SYMBOLS))
    return np.asarray(np.where(none, 0, like))


def allowed(structures: Structures) -> Booleans:
    """Which valencies from 0 to 8 each atom may have, `(atoms, 9)`.

    Example:
        >>> ammonium = Structures(np.zeros((1, 3)), [7], [1], charge=[1])
        >>> np.flatnonzero(allowed(ammonium)[0]).tolist()
        [4]
    """
    return np.asarray(_STABLE[isoelectronic(structures)])


def bonds(structures: Structures) -> Bonds:
    """The bonds that molecules came with, else those that follow from their distances.

    Example:
        >>> n2 = Structures.from_list([([7, 7], [[0, 0, 0], [0, 0, 1.1]])])
        >>> bonds(n2).order.tolist()
        [3]
    """
    return inferred(structures) if structures.bond is None else structures.bond


def inferred(structures: Structures) -> Bonds:
    """The bonds of all molecules that follow from distances."""
    found = []
    for i, j in pairs(structures):
        d = distances(structures, i, j)
        one, two, three = d < REACH[:, structures.number[i], structures.number[j]]
        order = one * (1 + two * (1 + three.astype(np.int64)))
        hit = np.flatnonzero(order)
        found.append(np.stack([i[hit], j[hit], order[hit]]))
    table = np.concatenate(found, axis=1) if found else np.zeros((3, 0), dtype=np.int64)
    pair, order = table[:2], table[2]
    if structures.charge.any():
        reach = REACH[:, structures.number[pair[0]], structures.number[pair[1]]]
        order = settle(structures, pair, order, reach, allowed(structures))
    return Bonds(pair, order, structures.owner[pair[0]])
