"""One SMILES becomes one conformer: hydrogens, ETKDGv3, MMFF94, or UFF where MMFF94 has no type.

The random seed is a hash of the SMILES, so a conformer does not depend on what stands beside it.
Isotope labels are dropped. Several fragments, radicals, and force fields that do not converge are
reasons to skip. Coordinates are rounded to 1e-4 Angstrom.

As a script it answers each line of its input, a JSON list of arguments, with a line of JSON; it
imports nothing of this package, so that it starts quickly.

References:
    Better informed distance geometry (Riniker and Landrum, 2015)
    https://doi.org/10.1021/acs.jcim.5b00654
    Merck molecular force field (Halgren, 1996) https://doi.org/10.1002/jcc.540170509
"""

from __future__ import annotations

import json
import sys
import time
from hashlib import sha256
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

__all__ = ["STEPS", "conformer"]

STEPS = 4_000  # of the force field
_BLOCK = 200  # steps between two looks at the clock
_ORDERS = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}


def conformer(smiles: str, max_atoms: int, limit: float) -> dict[str, Any]:
    """Embeds one molecule.

    Arguments:
        smiles: The molecule.
        max_atoms: The largest number of atoms, hydrogens included.
        limit: Seconds, of which only hopeless cases should need more than a few.

    Returns:
        `number`, `charge`, `position` in 1e-4 Angstrom, `bond` (the two atoms and the order of
        each, kekulized; None if one is dative) and `isotopes`; or a `reason`.

    Example:
        >>> conformer("O", max_atoms=10, limit=5.0)["number"]
        [8, 1, 1]
        >>> conformer("O", max_atoms=10, limit=5.0)["bond"]
        [[0, 1, 1], [0, 2, 1]]
        >>> conformer("[Na+].[Cl-]", max_atoms=10, limit=5.0)["reason"]
        '2 fragments: a record is one molecule'
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        reason = "RDKit cannot parse the SMILES" if mol is None else _unfit(mol, max_atoms)
        if reason:
            return {"reason": reason}
        isotopes = any(atom.GetIsotope() for atom in mol.GetAtoms())
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)
        mol = Chem.AddHs(mol)
        atoms = list(mol.GetAtoms())
        if not 1 < len(atoms) <= max_atoms:
            small = len(atoms) < 2
            return {"reason": "one atom: no geometry" if small else f"more than {max_atoms} atoms"}
        reason = _place(mol, smiles, time.monotonic() + limit)
    if reason:
        return {"reason": reason}
    return {
        "number": [atom.GetAtomicNum() for atom in atoms],
        "charge": [atom.GetFormalCharge() for atom in atoms],
        "position": (mol.GetConformer().GetPositions() * 1e4).round().astype(int).tolist(),
        "bond": _bonds(mol),
        "isotopes": isotopes,
    }


def _bonds(mol: Chem.Mol) -> list[list[int]] | None:
    """The bonds, with single and double ones in aromatic rings; None with other kinds."""
    plain = Chem.Mol(mol)
    Chem.Kekulize(plain, clearAromaticFlags=True)
    found = [
        [
            *sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())),
            _ORDERS.get(bond.GetBondType(), 0),
        ]
        for bond in plain.GetBonds()
    ]
    return None if any(order == 0 for *_, order in found) else sorted(found)


def _unfit(mol: Chem.Mol, max_atoms: int) -> str:
    """Why a molecule is not embedded, or ""."""
    if not mol.GetNumAtoms():
        return "no atoms"
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        return "unknown element '*'"
    if mol.GetNumAtoms() > max_atoms:
        return f"more than {max_atoms} atoms"
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        return f"{pieces} fragments: a record is one molecule"
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return "a radical"
    return ""


def _place(mol: Chem.Mol, smiles: str, deadline: float) -> str:
    """Gives the molecule a relaxed conformer, or says why not."""
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed = int.from_bytes(sha256(smiles.encode()).digest()[:4], "big") >> 1
    for settings.useRandomCoords in (False, True):
        settings.timeout = max(1, round(deadline - time.monotonic()))
        try:
            if rdDistGeom.EmbedMolecule(mol, settings) == 0:
                break
        except (RuntimeError, ValueError):
            continue
    else:
        return "cannot be embedded"
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        types = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, types)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
    else:
        return "no force field has all its atoms"
    field.Initialize()
    for _ in range(STEPS // _BLOCK):
        if field.Minimize(maxIts=_BLOCK) == 0:
            return ""
        if time.monotonic() > deadline:
            return "the time limit was reached"
    return f"the force field did not converge in {STEPS:,} steps"


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(conformer(*json.loads(line))), flush=True)
