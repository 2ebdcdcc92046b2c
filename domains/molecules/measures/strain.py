"""The energy that a molecule has above that of its geometry relaxed, by the force field MMFF94.

Hydrogens that a molecule lacks are placed by RDKit and relaxed with its atoms held, before its
energy is taken. Then all atoms relax for at most 500 steps. Real geometries that were not made by
MMFF94 have some strain too: that of real molecules stands beside.

References:
    Merck Molecular Force Field. I (Halgren, 1996).
    https://doi.org/10.1002/(SICI)1096-987X(199604)17:5/6<490::AID-JCC1>3.0.CO;2-P
"""

from __future__ import annotations

import math

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers as fields

from structdiff.domains.molecules.measures.laws import Values, mean, median
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.measures.valid import Valid

__all__ = ["compared", "strain", "strain_energy"]

_STEPS = 500


def strain_energy(mol: Chem.Mol) -> float:
    """The strain in kcal/mol; NaN for several fragments, or without parameters.

    Arguments:
        mol: A sanitised molecule with a conformer, which is not changed.

    Example:
        >>> from rdkit.Chem import AllChem
        >>> ethane = Chem.AddHs(Chem.MolFromSmiles("CC"))
        >>> AllChem.EmbedMolecule(ethane, randomSeed=0), AllChem.MMFFOptimizeMolecule(ethane)
        (0, 0)
        >>> round(strain_energy(ethane), 2)
        0.0
    """
    if len(Chem.GetMolFrags(mol)) > 1:
        return math.nan
    atoms = mol.GetNumAtoms()
    whole = Chem.AddHs(mol, addCoords=True)
    parameters = fields.MMFFGetMoleculeProperties(whole)
    if parameters is None:
        return math.nan
    if whole.GetNumAtoms() > atoms:
        held = fields.MMFFGetMoleculeForceField(whole, parameters)
        for atom in range(atoms):
            held.AddFixedPoint(atom)
        held.Minimize(maxIts=_STEPS)
    field = fields.MMFFGetMoleculeForceField(whole, parameters)
    before = field.CalcEnergy()
    field.Minimize(maxIts=_STEPS)
    return float(before - field.CalcEnergy())


def strain(valid: Valid) -> Values:
    """The strain of some of the molecules in kcal/mol, NaN where there is none."""
    found = [strain_energy(mol) for _, mol in valid.each(valid.mols, "strain")]
    return Values.of(found, valid.some())


def compared(drawn: Values, counts: str) -> list[Measure]:
    """The median strain, and how many molecules have none.

    Arguments:
        drawn: The strain of the molecules that are measured.
        counts: How many molecules these are, in words.
    """
    known = np.isfinite(drawn.value)
    left = Values.of(drawn.value[known], drawn.owner[known])
    none = Values.of(~known, drawn.owner)
    how = f"energy above that after at most {_STEPS} steps of relaxation, median; {counts}"
    why = f"no parameters of MMFF94, or several fragments; {counts}"
    return [
        Measure("MMFF strain", median(left), len(left), how, "kcal/mol"),
        Measure("without MMFF strain", mean(none), len(none), why, "%", 1.0),
    ]
