"""Fragments and scaffolds that molecules share, by the definitions of MOSES.

Fragments are the pieces between the bonds that BRICS breaks, with marks where they were joined;
the scaffold of Bemis and Murcko is the rings and what joins them, of molecules with two rings or
more. The similarity of two sets is the cosine of the angle between the vectors of how often each
piece occurs, from 0 (nothing shared) to 1.

References:
    Molecular Sets (MOSES): A Benchmarking Platform for Molecular Generation Models (Polykovskiy
    et al., 2020). https://doi.org/10.3389/fphar.2020.565644
    On the Art of Compiling and Using Drug-Like Chemical Fragment Spaces (Degen et al., 2008).
    https://doi.org/10.1002/cmdc.200800178
    The Properties of Known Drugs. 1. Molecular Frameworks (Bemis and Murcko, 1996).
    https://doi.org/10.1021/jm9602928
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from rdkit import Chem

from structdiff.domains.molecules.measures.laws import Values, cosine
from structdiff.domains.molecules.measures.resampling import Measure
from structdiff.domains.molecules.measures.valid import Valid

__all__ = ["compared", "fragments", "fragments_of", "scaffold_of", "scaffolds"]


def fragments_of(mol: Chem.Mol) -> list[str]:
    """The BRICS fragments of a molecule as SMILES, each as often as it occurs.

    Example:
        >>> fragments_of(Chem.MolFromSmiles("CCOC"))
        ['[3*]OC', '[4*]CC']
    """
    return str(Chem.MolToSmiles(Chem.FragmentOnBRICSBonds(mol))).split(".")


def scaffold_of(mol: Chem.Mol) -> list[str]:
    """The scaffold as SMILES, none of molecules with fewer than two rings.

    Example:
        >>> scaffold_of(Chem.MolFromSmiles("CC1CC2(C1)CC2"))
        ['C1CC2(C1)CC2']
    """
    if mol.GetRingInfo().NumRings() < 2:
        return []
    return [str(Chem.MolToSmiles(Chem.MurckoDecompose(mol)))]


def fragments(valid: Valid) -> Values:
    """The fragments of some of the molecules."""
    return _pieces(valid, fragments_of, "fragments")


def scaffolds(valid: Valid) -> Values:
    """The scaffolds of some of the molecules."""
    return _pieces(valid, scaffold_of, "scaffolds")


def _pieces(valid: Valid, cut: Callable[[Chem.Mol], list[str]], words: str) -> Values:
    found = [(m, piece) for m, mol in valid.each(valid.heavy, words) for piece in cut(mol)]
    owner = np.array([m for m, _ in found], np.int64)
    return Values.of(np.ones(len(found)), owner, np.array([piece for _, piece in found], np.str_))


def compared(
    drawn: tuple[Values, Values], real: tuple[Values, Values], counts: str
) -> list[Measure]:
    """Similarities of fragments and of scaffolds.

    Arguments:
        drawn: Fragments and scaffolds of the molecules that are measured.
        real: Those of the reference.
        counts: How many molecules these are, in words.
    """
    protocols = {
        "fragment similarity": "cosine of the counts of BRICS fragments, MOSES",
        "scaffold similarity": "cosine of the counts of Murcko scaffolds with rings >= 2, MOSES",
    }
    return [
        Measure(
            name,
            cosine(mine, theirs),
            len(np.unique(mine.kind)) + len(theirs),
            f"{how}; {counts}",
            "cosine",
            1.0,
        )
        for (name, how), mine, theirs in zip(protocols.items(), drawn, real, strict=True)
    ]
