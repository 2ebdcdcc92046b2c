"""Molecules of RDKit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from structdiff.domains.molecules.structures import AROMATIC, Bonds, Floats, Integers

__all__ = ["KINDS", "bonds_of", "to_mol"]

KINDS = {
    1: Chem.BondType.SINGLE,
    2: Chem.BondType.DOUBLE,
    3: Chem.BondType.TRIPLE,
    AROMATIC: Chem.BondType.AROMATIC,
}
_ORDERS = {kind: order for order, kind in KINDS.items()}


def bonds_of(mol: Chem.Mol) -> Integers | None:
    """The atoms i < j and the order of each bond, `(3, bonds)`; None if they are not all known.

    Known are single, double, triple and aromatic bonds. With a bond of another kind (dative, zero,
    a query) nothing is known of the molecule, and as little if several atoms have no bond at all:
    then the file has no bonds.

    Example:
        >>> bonds_of(Chem.MolFromSmiles("C=O")).tolist()
        [[0], [1], [2]]
    """
    table = []
    for bond in mol.GetBonds():
        order = _ORDERS.get(bond.GetBondType())
        if order is None:
            return None
        table.append((*sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())), order))
    if not table and mol.GetNumAtoms() > 1:
        return None
    return np.array(sorted(table), np.int64).reshape(-1, 3).T


def to_mol(
    number: NDArray[np.uint8], position: Floats, bonds: Bonds, charge: Sequence[int] = ()
) -> Chem.Mol:
    """Builds an RDKit molecule with a 3-D conformer; it is not sanitised.

    Arguments:
        number: Atomic numbers, `(n,)`.
        position: Coordinates in Angstrom, `(n, 3)`.
        bonds: Its bonds, with atoms counted from 0 (see `Bonds.split`).
        charge: Formal charges, `(n,)`; none by default.
    """
    mol = Chem.RWMol()
    for z in number.tolist():
        mol.AddAtom(Chem.Atom(z))
    for atom, q in enumerate(charge):
        mol.GetAtomWithIdx(atom).SetFormalCharge(int(q))
    for i, j, order in zip(*bonds.pair.tolist(), bonds.order.tolist(), strict=True):
        mol.AddBond(i, j, KINDS[order])
        if order == AROMATIC:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            for atom in (i, j):
                mol.GetAtomWithIdx(atom).SetIsAromatic(True)
    conformer = Chem.Conformer(len(number))
    conformer.SetPositions(np.asarray(position, dtype=np.float64))
    conformer.Set3D(True)
    mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()
