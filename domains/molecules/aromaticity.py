"""Aromatic rings written two ways: with aromatic bonds, or with single and double ones (Kekule).

RDKit decides, by its model of aromaticity and its assignment of double bonds; hydrogens must be
there, since a ring nitrogen tells by its hydrogen what it gives to the ring. Each way back gives
a molecule with the same canonical SMILES; bonds that are not aromatic stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rdkit import Chem, rdBase

from structdiff.domains.molecules.bonding import LARGEST
from structdiff.domains.molecules.mols import KINDS, to_mol
from structdiff.domains.molecules.structures import (
    AROMATIC,
    Bonds,
    Booleans,
    Integers,
    Structures,
)

__all__ = ["aromatised", "kekulised"]

_HEAP = f"an atom is not known, or has more than {LARGEST} bonds"
_ORDERS = {kind: order for order, kind in KINDS.items()}


def aromatised(structures: Structures) -> tuple[Structures, list[str]]:
    """The same molecules with the bonds of aromatic rings called aromatic.

    Arguments:
        structures: Molecules with bonds.

    Returns:
        The molecules, and for each why it is left as it was, or "".
    """
    return _rewritten(structures, Chem.SanitizeMol, np.ones(len(structures), np.bool_))


def kekulised(structures: Structures) -> tuple[Structures, list[str]]:
    """The same molecules with aromatic bonds as single and double ones.

    Arguments:
        structures: Molecules with bonds.

    Returns:
        The molecules, and for each why it is left as it was, or "".
    """
    bond = _of(structures)
    ringed = np.bincount(bond.molecule[bond.order == AROMATIC], minlength=len(structures)) > 0
    return _rewritten(structures, _kekulise, ringed)


def _kekulise(mol: Chem.Mol) -> None:
    Chem.SanitizeMol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)


def _of(structures: Structures) -> Bonds:
    if structures.bond is None:
        msg = "the molecules have no bonds to be written another way: assign them first"
        raise ValueError(msg)
    return structures.bond


def _rewritten(
    structures: Structures, rewrite: Callable[[Chem.Mol], object], which: Booleans
) -> tuple[Structures, list[str]]:
    """Some molecules after RDKit rewrote their bonds, which keep their places."""
    bond, reasons = _of(structures), [""] * len(structures)
    heaps = _heaps(structures, bond)
    parts = []
    with rdBase.BlockLogs():
        for m, local in enumerate(bond.split(structures)):
            order = local.order
            if which[m]:
                order, reasons[m] = (
                    (order, _HEAP) if heaps[m] else _one(structures, m, local, rewrite)
                )
            parts.append(order)
    order = np.concatenate([np.zeros(0, np.int64), *parts])
    return replace(structures, bond=replace(bond, order=order)), reasons


def _heaps(structures: Structures, bond: Bonds) -> Booleans:
    """Molecules whose rings RDKit would look for without end: heaps of atoms, atoms unnamed."""
    degree = np.bincount(bond.pair.ravel(), minlength=len(structures.number))
    hopeless = structures.owner[(degree > LARGEST) | (structures.number == 0)]
    return np.asarray(np.bincount(hopeless, minlength=len(structures)) > 0)


def _one(
    structures: Structures, m: int, local: Bonds, rewrite: Callable[[Chem.Mol], object]
) -> tuple[Integers, str]:
    """The orders of one molecule's bonds, and why they are as they were, or ""."""
    mol = to_mol(*structures.molecule(m), local, structures.charges(m).tolist())
    try:
        rewrite(mol)
    except (ValueError, RuntimeError) as error:  # chemistry, and states, RDKit does not accept
        return local.order, f"RDKit: {str(error).strip().splitlines()[0]}"
    found = np.array([_ORDERS.get(bond.GetBondType(), 0) for bond in mol.GetBonds()], np.int64)
    order = np.where((local.order == AROMATIC) | (found == AROMATIC), found, local.order)
    return (order, "") if order.all() else (local.order, "an aromatic bond is of no known order")
