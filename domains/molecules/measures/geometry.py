r"""Lengths, angles and dihedral angles of bonds, as distances between laws.

With unit vectors of bonds: an angle at an atom j bonded to i and k is acos(u_ji . u_jk), in
[0, 180] degrees; the dihedral of i-j-k-l, with b_1 = x_j - x_i, b_2 = x_k - x_j, b_3 = x_l - x_k,
is

    atan2(|b_2| b_1 . (b_2 x b_3), (b_1 x b_2) . (b_2 x b_3))    in (-180, 180],

positive clockwise as seen along the middle bond (IUPAC), the same from either end. Where three of
the four atoms lie on a line (to within 1 degree) there is no dihedral. A bond is of the kind of
its two elements and its order, an angle of its centre's element, a dihedral of its middle bond.
"""

from __future__ import annotations

import numpy as np

from structdiff.domains.molecules.measures.laws import (
    Numbers,
    Values,
    by_kind,
    wasserstein,
    wasserstein_on_circle,
)
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.structures import (
    AROMATIC,
    SYMBOLS,
    Booleans,
    Floats,
    Integers,
    Structures,
    distances,
    spread,
)

__all__ = ["angle_name", "angles", "bond_name", "compared", "dihedrals", "lengths"]

_SIGNS = {1: "-", 2: "=", 3: "#", AROMATIC: ":"}
_STRAIGHT = np.sin(np.radians(1.0))


def lengths(structures: Structures) -> Values:
    """The length of each bond in Angstrom, by elements and order."""
    bond = _bonds(structures)
    return Values.of(
        distances(structures, *bond[:2]), structures.owner[bond[0]], _kinds(structures, bond)
    )


def angles(structures: Structures) -> Values:
    """The angle of each two bonds at an atom in degrees, by the element of that atom."""
    centre, other = _directed(_bonds(structures))
    last = np.searchsorted(centre, centre, side="right")
    later = last - np.arange(len(centre)) - 1
    one = np.repeat(np.arange(len(centre)), later)
    two = spread(np.arange(len(centre)) + 1, later)
    position = structures.position.astype(np.float64)
    u, v = (position[other[row]] - position[centre[row]] for row in (one, two))
    angle = np.degrees(np.arctan2(_norm(np.cross(u, v)), (u * v).sum(1)))
    middle = centre[one]
    return Values.of(angle, structures.owner[middle], structures.number[middle].astype(np.int64))


def dihedrals(structures: Structures) -> Values:
    """The angle of each two bonds about a bond between them in degrees, by that bond's kind."""
    bond = _bonds(structures)
    row, left, right = _around(bond, len(structures.number))
    j, k = bond[0, row], bond[1, row]
    angle, defined = _dihedral(structures, left, j, k, right)
    kinds = _kinds(structures, bond)[row]
    return Values.of(angle[defined], structures.owner[left][defined], kinds[defined])


def _around(bond: Integers, atoms: int) -> tuple[Integers, Integers, Integers]:
    """Each bond j-k with each other neighbour of j and of k: its row, i and l of i-j-k-l."""
    centre, other = _directed(bond)
    first = np.searchsorted(centre, np.arange(atoms + 1))
    degree, (j, k) = np.diff(first), bond[:2]
    row = np.repeat(np.arange(bond.shape[1]), degree[j])
    left = other[spread(first[j], degree[j])]
    times = degree[k[row]]
    right = other[spread(first[k[row]], times)]
    left, row = np.repeat(left, times), np.repeat(row, times)
    proper = (left != k[row]) & (right != j[row]) & (left != right)
    return row[proper], left[proper], right[proper]


def _dihedral(
    structures: Structures, i: Integers, j: Integers, k: Integers, last: Integers
) -> tuple[Numbers, Booleans]:
    """The dihedral angles in degrees, and whether they are defined."""
    x = structures.position.astype(np.float64)
    one, two, three = x[j] - x[i], x[k] - x[j], x[last] - x[k]
    near, far = np.cross(one, two), np.cross(two, three)
    length = _norm(two)
    sine, cosine = length * (one * far).sum(1), (near * far).sum(1)
    bent = (_norm(near) > _STRAIGHT * length * _norm(one)) & (
        _norm(far) > _STRAIGHT * length * _norm(three)
    )
    return np.degrees(np.arctan2(sine, cosine)), bent


def _norm(vectors: Floats) -> Numbers:
    return np.asarray(np.sqrt((vectors**2).sum(1)))


def _bonds(structures: Structures) -> Integers:
    """The two atoms and the order of each bond, `(3, bonds)`."""
    assert structures.bond is not None
    return np.stack([*structures.bond.pair, structures.bond.order])


def _directed(bond: Integers) -> tuple[Integers, Integers]:
    """Each bond from both its ends, sorted by the atom that it leaves."""
    centre, other = np.concatenate([bond[0], bond[1]]), np.concatenate([bond[1], bond[0]])
    order = np.argsort(centre, kind="stable")
    return centre[order], other[order]


def _kinds(structures: Structures, bond: Integers) -> Integers:
    """One number for the two elements and the order of each bond."""
    ends = np.sort(structures.number[bond[:2]].astype(np.int64), axis=0)
    return np.asarray((ends[0] * 256 + ends[1]) * 8 + bond[2])


def bond_name(kind: int) -> str:
    """The words for a kind of bond: "C-H", "C=O", aromatic "C:N".

    Example:
        >>> bond_name((6 * 256 + 8) * 8 + 2)
        'C=O'
    """
    ends, order = divmod(int(kind), 8)
    low, high = divmod(ends, 256)
    names = (SYMBOLS[low], SYMBOLS[high])
    return _SIGNS[order].join(reversed(names) if low == 1 else names)


def angle_name(kind: int) -> str:
    """The words for a kind of angle."""
    return f"at {SYMBOLS[int(kind)]}"


def compared(
    drawn: tuple[Values, Values, Values], real: tuple[Values, Values, Values], counts: str
) -> list[Measure]:
    """Distances of lengths, angles and dihedrals.

    Arguments:
        drawn: Lengths, angles and dihedrals of the molecules that are measured.
        real: Those of the reference.
        counts: How many molecules these are, in words.
    """
    words = (
        ("bond lengths", wasserstein, "A", "by elements and order, aromatic by RDKit"),
        ("bond angles", wasserstein, "degrees", "by the element at the centre"),
        ("dihedral angles", wasserstein_on_circle, "degrees", "on the circle, by the middle bond"),
    )
    return [
        Measure(
            name,
            by_kind(distance, mine, theirs),
            2 * len(mine) + len(theirs),
            f"1-Wasserstein {how}, weighted as in the data; {_covered(mine, theirs)}{counts}",
            unit,
        )
        for (name, distance, unit, how), mine, theirs in zip(words, drawn, real, strict=True)
    ]


def _covered(drawn: Values, real: Values) -> str:
    """How much of the data is of kinds that were drawn, in words."""
    share = np.isin(real.kind, np.unique(drawn.kind)).mean() if len(real) else 0.0
    return "" if share == 1 else f"{share:.1%} of the data are of kinds drawn; "
