"""Sizes and numbers of rings: the smallest set of smallest rings, by RDKit."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

from structdiff.domains.molecules.measures.laws import Values, variation
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.measures.valid import Valid

__all__ = ["compared", "ring_counts", "ring_sizes"]

_LARGEST = 10  # sizes above are one class


def ring_sizes(valid: Valid) -> Values:
    """The size of each ring; sizes above 10 are one kind, 11."""
    sizes = [_sizes(mol) for mol in valid.mols]
    owner = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
    kinds = np.array([min(size, _LARGEST + 1) for each in sizes for size in each], np.int64)
    return Values.of(np.ones(len(kinds)), owner, kinds)


def ring_counts(sizes: Values, molecules: int) -> Values:
    """How many rings each molecule has, from the rings."""
    count = np.bincount(sizes.owner, minlength=molecules)
    return Values.of(np.ones(molecules), np.arange(molecules), count)


def _sizes(mol: Chem.Mol) -> list[int]:
    return [len(ring) for ring in mol.GetRingInfo().AtomRings()]


def compared(
    drawn: tuple[Values, Values], real: tuple[Values, Values], counts: str
) -> list[Measure]:
    """Distances of the sizes of rings, and of how many a molecule has.

    Arguments:
        drawn: Sizes of rings and their numbers, of the molecules that are measured.
        real: Those of the reference.
        counts: How many molecules these are, in words.
    """
    protocols = {
        "ring sizes": f"total variation of 3 to {_LARGEST} and above, of all rings",
        "rings per molecule": "total variation",
    }
    return [
        Measure(name, variation(mine, theirs), len(mine), f"{how}; {counts}", "TV", 1.0)
        for (name, how), mine, theirs in zip(protocols.items(), drawn, real, strict=True)
    ]
