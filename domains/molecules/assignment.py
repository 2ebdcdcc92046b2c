"""Bonds of molecules that a model of bonds is to learn: theirs, or those of their distances.

Molecules that come with bonds (SDF, SMILES) keep them. Others get those of EDM's distance table,
if every atom then has an allowed valency; else they cannot be used, and it is said why. Rings are
written kekulized, with single and double bonds, or aromatic, by RDKit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from structdiff.domains.molecules.aromaticity import aromatised, kekulised
from structdiff.domains.molecules.bonding import inferred
from structdiff.domains.molecules.chemistry import stable_atoms
from structdiff.domains.molecules.structures import AROMATIC, Structures

__all__ = ["assigned"]


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
        found = inferred(structures)
        structures = replace(structures, bond=found)
        bad = ~stable_atoms(structures, found)
        count = np.bincount(structures.owner[bad], minlength=len(structures))
        for molecule in np.flatnonzero(count).tolist():
            reasons[molecule] = "an atom has no allowed valency by the distances"
    left = np.flatnonzero([not reason for reason in reasons])
    known = structures.select(left)
    if not aromatic and known.bond is not None and (known.bond.order < AROMATIC).all():
        return known, reasons
    written, faults = (aromatised if aromatic else kekulised)(known)
    for molecule, fault in zip(left.tolist(), faults, strict=True):
        reasons[molecule] = fault
    return written.select(np.flatnonzero([not fault for fault in faults])), reasons
