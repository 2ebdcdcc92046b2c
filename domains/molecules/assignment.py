"""Bonds of molecules that a model of bonds is to learn: theirs, or those of their distances.

Molecules that come with bonds (SDF, SMILES, npz) keep them, whatever RDKit thinks of them. Others
get those of EDM's distance table, if every atom then has an allowed valency; else those nearest to
it with which every atom has one (see `matching`), if they hold the molecule together as the
table's do; else they cannot be used, and it is said why. Formal charges are never made up: a
zwitterion without its charges is refused. Rings are written kekulized, with single and double
bonds, or aromatic, by RDKit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from structdiff.domains.molecules.aromaticity import aromatised, kekulised
from structdiff.domains.molecules.bonding import LARGEST, inferred
from structdiff.domains.molecules.chemistry import atom_valency
from structdiff.domains.molecules.matching import matched, valencies
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Structures

__all__ = ["assigned"]

_REASON = "an atom has no allowed valency by the distances"


def assigned(structures: Structures, *, aromatic: bool = False) -> tuple[Structures, list[str]]:
    """Molecules with bonds, and why the others have none.

    Arguments:
        structures: Molecules.
        aromatic: Whether bonds of aromatic rings are called aromatic, or single and double.

    Returns:
        The molecules whose bonds are known, and for every molecule a reason or "".

    Example:
        >>> water = ([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
        >>> found, reasons = assigned(Structures.from_list([water, ([8, 1], np.eye(3)[:2])]))
        >>> found.bond.order.tolist(), reasons
        ([1, 1], ['', 'an atom has no allowed valency by the distances'])
    """
    reasons = [""] * len(structures)
    if structures.bond is None:
        structures, reasons = _by_distance(structures)
    left = np.flatnonzero([not reason for reason in reasons])
    known = structures.select(left)
    if not aromatic and known.bond is not None and (known.bond.order < AROMATIC).all():
        return known, reasons
    written, faults = (aromatised if aromatic else kekulised)(known)
    for molecule, fault in zip(left.tolist(), faults, strict=True):
        reasons[molecule] = fault
    return written.select(np.flatnonzero([not fault for fault in faults])), reasons


def _by_distance(structures: Structures) -> tuple[Structures, list[str]]:
    """Every molecule with the bonds of its distances, and why they cannot be used."""
    found = inferred(structures)
    reasons = [""] * len(structures)
    valency = np.minimum(atom_valency(structures, found), LARGEST)
    bad = ~valencies(structures)[np.arange(len(valency)), valency]
    failing = np.unique(structures.owner[bad])
    if not len(failing):
        return replace(structures, bond=found), reasons
    parts = list(found.split(structures))
    for m, table in zip(failing.tolist(), matched(structures.select(failing)), strict=True):
        one = structures.select([m])
        if table is None or _pieces(table[:2], one) > _pieces(parts[m].pair, one):
            reasons[m] = _REASON
        else:
            parts[m] = Bonds(table[:2], table[2], np.zeros_like(table[2]))
    counts = structures.count.tolist()
    return replace(structures, bond=Bonds.joined(parts, counts, [1] * len(parts))), reasons


def _pieces(pair: np.ndarray, one: Structures) -> int:
    """How many fragments the bonds make of a molecule."""
    size = len(one.number)
    graph = coo_array((np.ones(pair.shape[1]), tuple(pair)), shape=(size, size))
    return int(connected_components(graph, directed=False, return_labels=False))
