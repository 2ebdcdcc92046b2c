"""Valencies, validity, and why a molecule is invalid: the protocol of EDM.

Bonds are those that a molecule came with, else they follow from distances (see `bonding`);
aromatic ones are counted as the single and double ones that RDKit writes for them. An atom is
stable if its bond orders sum to an allowed valency, a molecule if all its atoms are. It is valid
if RDKit sanitises the graph (which, as in EDM, may complete missing hydrogens), connected if the
graph is one piece. Atoms are counted from 0. Formal charges are part of the graph: N+ with four
bonds is stable and valid.

Structures without hydrogens are called implicit: RDKit adds the hydrogens, validity is meant with
them, and stability is not defined.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022)
    https://arxiv.org/abs/2203.17003, appendix C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

from structdiff.domains.molecules.aromaticity import kekulised
from structdiff.domains.molecules.bonding import (
    LARGEST,
    VALENCIES,
    allowed,
    bonds,
)
from structdiff.domains.molecules.matching import valencies
from structdiff.domains.molecules.mols import to_mol
from structdiff.domains.molecules.structures import (
    AROMATIC,
    SYMBOLS,
    Bonds,
    Booleans,
    Integers,
    Structures,
)

__all__ = [
    "VALENCIES",
    "Bonds",
    "Verdict",
    "atom_valency",
    "bonds",
    "implied",
    "judge",
    "plain_bonds",
    "stable_atoms",
    "to_mol",
]

_SHOWN = 4  # atoms named among the reasons


@dataclass(frozen=True)
class Verdict:
    """What is known about one molecule.

    Arguments:
        smiles: The canonical SMILES of the largest fragment, hydrogens folded in, if valid.
        valid: Whether RDKit sanitises the molecule.
        connected: Whether it is one fragment.
        stable: Whether every atom has an allowed valency; None without hydrogens.
        reasons: What is wrong, in words; empty if nothing is.
    """

    smiles: str | None
    valid: bool
    connected: bool
    stable: bool | None
    reasons: tuple[str, ...]


def atom_valency(structures: Structures, bonds: Bonds) -> Integers:
    """Sums the bond orders at each atom, `(atoms,)`; an aromatic bond is one and a half."""
    size = len(structures.number)
    aromatic = bonds.order == AROMATIC
    weights = np.tile(np.where(aromatic, 1.5, bonds.order), 2)
    return np.rint(np.bincount(bonds.pair.ravel(), weights, minlength=size)).astype(np.int64)


def stable_atoms(structures: Structures, bonds: Bonds) -> Booleans:
    """Tells which atoms have an allowed valency, `(atoms,)`; other elements are not stable."""
    return _stable(structures, atom_valency(structures, bonds))


def _heaped(structures: Structures, valency: Integers) -> Booleans:
    """Molecules RDKit cannot take: it counts bonds in 8 bits, and rings for hours."""
    heaped = structures.owner[valency > LARGEST]
    return np.asarray(np.bincount(heaped, minlength=len(structures)) > 0)


def plain_bonds(structures: Structures) -> Bonds:
    """Infers the bonds to write and draw: none in a heap, with over 8 bonds at an atom."""
    found = bonds(structures)
    keep = ~_heaped(structures, atom_valency(structures, found))[found.molecule]
    return Bonds(found.pair[:, keep], found.order[keep], found.molecule[keep])


def _stable(structures: Structures, valency: Integers) -> Booleans:
    table = _allowed(structures)
    return np.asarray(table[np.arange(len(table)), np.minimum(valency, LARGEST)])


def _allowed(structures: Structures) -> Booleans:
    """EDM's valencies; of sulphur, selenium and tellurium all usual ones where bonds are known."""
    return allowed(structures) if structures.bond is None else valencies(structures)


def implied(structures: Structures) -> bool:
    """Tells whether the hydrogens are implicit: there are none in any molecule."""
    return not (structures.number == 1).any()


def judge(structures: Structures, *, implicit: bool | None = None) -> list[Verdict]:
    """Judges every molecule and says what is wrong with it.

    Arguments:
        structures: The molecules.
        implicit: Whether hydrogens are left out; None means: if there are none in any molecule.

    Example:
        >>> water = Structures.from_list(
        ...     [([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])]
        ... )
        >>> judge(water)
        [Verdict(smiles='O', valid=True, connected=True, stable=True, reasons=())]
    """
    implicit = implied(structures) if implicit is None else implicit
    if structures.bond is not None and (structures.bond.order == AROMATIC).any():
        structures, _ = kekulised(structures)
    found = bonds(structures)
    valency = atom_valency(structures, found)
    faults = _faults(structures, valency, implicit=implicit)
    finite = structures.finite.tolist()
    nameless = np.bincount(structures.owner[structures.number == 0], minlength=len(structures)) > 0
    hopeless = set(np.flatnonzero(nameless | _heaped(structures, valency)).tolist())
    verdicts = []
    with rdBase.BlockLogs():
        for m, local in enumerate(found.split(structures)):
            if finite[m]:
                charge = structures.charges(m).tolist()
                mol, words = to_mol(*structures.molecule(m), local, charge), faults.get(m, ())
                verdicts.append(_verdict(mol, words, try_it=m not in hopeless, implicit=implicit))
            else:
                stable = None if implicit else False
                reason = "coordinates are not finite"
                verdicts.append(Verdict(None, False, False, stable, (reason,)))
    return verdicts


def _faults(
    structures: Structures, valency: Integers, *, implicit: bool
) -> dict[int, tuple[str, ...]]:
    """Returns, for each molecule with atoms of a wrong valency, the words for it."""
    may = _allowed(structures)
    top = np.where(may.any(1), LARGEST - np.argmax(may[:, ::-1], axis=1), -1)
    over = valency > top  # the worse fault, so named first
    under = ~over & ~_stable(structures, valency) & (not implicit)  # RDKit may add hydrogens
    atoms: dict[int, list[str]] = {}
    for a in (*np.flatnonzero(over).tolist(), *np.flatnonzero(under).tolist()):
        m = int(structures.owner[a])
        symbol = SYMBOLS[structures.number[a]] + _sign(int(structures.charge[a]))
        atom = f"atom {a - structures.offsets[m]} ({symbol})"
        right = " or ".join(str(v) for v in np.flatnonzero(may[a]).tolist())
        text = f"{atom} has valence {valency[a]}, allowed {right}"
        atoms.setdefault(m, []).append(text if right else f"{atom} is not in EDM's tables")
    return {m: _first(texts) for m, texts in atoms.items()}


def _sign(charge: int) -> str:
    """The charge as it is written behind a symbol: +, -, 2+."""
    size = "" if abs(charge) == 1 else str(abs(charge))
    return f"{size}{'+' if charge > 0 else '-'}" if charge else ""


def _first(texts: list[str]) -> tuple[str, ...]:
    more = len(texts) - _SHOWN
    return (*texts[:_SHOWN], f"and {more} more such atoms") if more > 0 else tuple(texts)


def _verdict(mol: Chem.Mol, faults: tuple[str, ...], *, try_it: bool, implicit: bool) -> Verdict:
    reasons = list(faults)
    pieces = len(Chem.GetMolFrags(mol))
    if pieces > 1:
        reasons.append(f"{pieces} fragments")
    smiles = None
    try:
        if try_it:
            Chem.SanitizeMol(mol)
            smiles = _smiles(mol, whole=pieces == 1)
    except (ValueError, RuntimeError) as error:  # chemistry, and states, RDKit does not accept
        reasons.append(f"RDKit: {str(error).strip().splitlines()[0]}")
    stable = None if implicit else not faults
    return Verdict(smiles, smiles is not None, pieces == 1, stable, tuple(reasons))


def _smiles(mol: Chem.Mol, *, whole: bool) -> str:
    """The canonical SMILES of the largest fragment, hydrogens folded in."""
    if not whole:
        mol = max(Chem.GetMolFrags(mol, asMols=True), key=lambda part: part.GetNumAtoms())
    return str(Chem.MolToSmiles(Chem.RemoveHs(mol)))
