"""Molecules of SMILES for tests of bonds: with any coordinates, or with a conformer."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from structdiff.domains.molecules.mols import bonds_of
from structdiff.domains.molecules.readers.conformer import conformer
from structdiff.domains.molecules.structures import Bonds, Structures

_HERE = Path(__file__).parents[3].parent / "shared" / "data"


def plain(smiles: str) -> str:
    """The canonical SMILES without stereo."""
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def scattered(smiles: str) -> Structures:
    """A molecule with kekulized bonds and with coordinates that say nothing."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    bond = bonds_of(mol)
    return _packed(
        np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)) * 5,
        [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        [atom.GetFormalCharge() for atom in mol.GetAtoms()],
        bond,
    )


def shaped(smiles: str) -> Structures:
    """A molecule with kekulized bonds and a conformer of RDKit."""
    made = conformer(smiles, 300, 30.0)
    assert "reason" not in made, (smiles, made["reason"])
    place = np.array(made["position"]) / 1e4
    return _packed(place, made["number"], made["charge"], np.array(made["bond"]).T)


def _packed(position, number, charge, bond) -> Structures:
    bonds = Bonds(bond[:2], bond[2], np.zeros(bond.shape[1], np.int64))
    return Structures(position, number, [len(number)], charge=charge, bond=bonds)


def stored(*parts: str) -> Path:
    """A file of the data folder; the test is skipped if it is not there."""
    for folder in (os.environ.get("STRUCTDIFF_DATA"), _HERE):
        path = Path(folder, *parts) if folder else None
        if path is not None and path.is_file():
            return path
    pytest.skip(f"{'/'.join(parts)} is not below STRUCTDIFF_DATA")


def lines(*parts: str) -> list[str]:
    """The lines of a packed file of the data folder."""
    with lzma.open(stored(*parts), "rt") as rows:
        return rows.read().splitlines()
