r"""What coordinates alone tell: their unit, contacts, twins, flatness.

The unit shows in the nearest neighbours: over atoms, the median of d / (r_i + r_j), with d the
distance to the nearest atom and r the covalent radii in Angstrom, is close to 1 for Angstrom, and
to how many of the unit make an Angstrom for any other.

References:
    Covalent radii revisited (Cordero et al., 2008), which RDKit follows.
    https://doi.org/10.1039/B801115J
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from scipy.spatial import cKDTree

from structdiff.domains.molecules.structures import (
    SYMBOLS,
    Booleans,
    Structures,
    distances,
    pairs,
)

__all__ = ["UNITS", "Contacts", "contacts", "flat", "twins", "unit_of"]

UNITS = {"Angstrom": 1.0, "Bohr": 1.8897, "nm": 0.1, "pm": 100.0}
"""How many of a unit make an Angstrom."""
_CLOSE = 0.6  # of the sum of covalent radii
_APART = 0.15  # how far, relatively, a scale may be from that of a unit


@dataclass(frozen=True)
class Contacts:
    """Distances to nearest atoms.

    Arguments:
        nearest: Median over atoms of the distance to the nearest other atom.
        scale: The same relative to covalent radii.
        close: Which molecules have two atoms much nearer than a bond, `(molecules,)`.
    """

    nearest: float
    scale: float
    close: Booleans


def contacts(structures: Structures) -> Contacts:
    """Look at the nearest neighbours of all atoms in molecules of two or more."""
    table = Chem.GetPeriodicTable()
    radius = np.array([0.0] + [table.GetRcovalent(z) for z in range(1, len(SYMBOLS))])
    nearest, scale = (np.full(len(structures.number), np.inf) for _ in range(2))
    for i, j in pairs(structures):
        d = distances(structures, i, j)
        relative = d / (radius[structures.number[i]] + radius[structures.number[j]])
        for atoms in (i, j):
            np.minimum.at(nearest, atoms, d)
            np.minimum.at(scale, atoms, relative)
    there = np.isfinite(nearest)
    if not there.any():
        return Contacts(np.nan, np.nan, np.zeros(len(structures), np.bool_))
    middle = float(np.median(scale[there]))
    owner = structures.owner[scale < _CLOSE * middle]
    close = np.bincount(owner, minlength=len(structures)) > 0
    return Contacts(float(np.median(nearest[there])), middle, np.asarray(close))


def unit_of(scale: float) -> str | None:
    """The unit that a scale of contacts belongs to, or None."""
    for unit, factor in UNITS.items():
        if abs(scale / factor - 1) < _APART:
            return unit
    return None


def flat(structures: Structures, within: float = 0.01) -> Booleans:
    """Which molecules have all atoms in a plane, `(molecules,)`; three atoms always do."""
    found = []
    for _, position in structures:
        centred = position - position.mean(0)
        thin = len(position) < 4 or np.linalg.svd(centred, compute_uv=False)[2] < within
        found.append(bool(thin))
    return np.array(found, np.bool_)


def twins(structures: Structures, within: float = 0.01) -> Booleans:
    """Which molecules have the geometry of an earlier one, `(molecules,)`.

    Compared are the distances of the atoms from the centre, sorted within each atom type: equal
    for turned, moved, mirrored and renumbered copies, and hardly ever for others.

    Arguments:
        structures: The molecules.
        within: Largest difference of a distance, Angstrom.
    """
    groups: dict[bytes, list[tuple[int, NDArray[np.float64]]]] = {}
    for m, (number, position) in enumerate(structures):
        charge = structures.charges(m)
        centred = position.astype(np.float64) - position.mean(0, dtype=np.float64)
        far = np.sqrt((centred**2).sum(1))
        order = np.lexsort((far, charge, number))
        key = number[order].tobytes() + b"|" + charge[order].tobytes()
        groups.setdefault(key, []).append((m, far[order]))
    found = np.zeros(len(structures), np.bool_)
    for group in groups.values():
        places = np.array([m for m, _ in group])
        tree = cKDTree(np.stack([far for _, far in group]))
        near = tree.query_pairs(within, p=np.inf, output_type="ndarray")
        found[places[near.max(1)]] = True
    return found
