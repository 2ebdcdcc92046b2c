"""Bonds from distances, valencies, and why a molecule is invalid: the protocol of EDM.

Two atoms at distance d (pm) are bonded with order 1 if d < l_1 + 10, with order 2 if also
d < l_2 + 5, with order 3 if also d < l_3 + 3, where l_k is the typical length of a bond of order
k between their elements. An atom is stable if its bond orders sum to an allowed valency, a
molecule if all its atoms are. It is valid if RDKit sanitises the graph (which, as in EDM, may
complete missing hydrogens), connected if the graph is one piece. Atoms are counted from 0.

Structures without hydrogens are called implicit: RDKit adds the hydrogens, validity is meant with
them, and stability is not defined.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022)
    https://arxiv.org/abs/2203.17003, appendix C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from structdiff.domains.molecules.structures import (
    NUMBERS,
    SYMBOLS,
    Booleans,
    Floats,
    Integers,
    Structures,
    distances,
    pairs,
)

# Typical bond lengths in pm: per order, "element: partner length, ..." with each pair once.
_LENGTHS = {
    1: """
        H: H 74, B 119, C 109, N 101, O 96, F 92, Si 148, P 144, S 134, Cl 127, As 152, Br 141,
           I 161;
        B: Cl 175;
        C: C 154, N 147, O 143, F 135, Si 185, P 184, S 182, Cl 177, Br 194, I 214;
        N: N 145, O 140, F 136, P 177, S 168, Cl 175, Br 214, I 222;
        O: O 148, F 142, Si 163, P 163, S 151, Cl 164, Br 172, I 194;
        F: F 142, Si 160, P 156, S 158, Cl 166, Br 178, I 187;
        Si: Si 233, S 200, Cl 202, Br 215, I 243;
        P: P 221, S 210, Cl 203, Br 222;
        S: S 204, Cl 207, Br 225, I 234;
        Cl: Cl 199, Br 214;
        Br: Br 228;
        I: I 266
    """,
    2: "C: C 134, N 129, O 120, S 160; N: N 125, O 121; O: O 121, P 150; P: S 186",
    3: "C: C 120, N 116, O 113; N: N 110",
}
_MARGIN = {1: 10, 2: 5, 3: 3}  # pm, tuned by EDM on QM9
VALENCIES: dict[str, tuple[int, ...]] = {
    "H": (1,),
    "B": (3,),
    "C": (4,),
    "N": (3,),
    "O": (2,),
    "F": (1,),
    "Al": (3,),
    "Si": (4,),
    "P": (3, 5),
    "S": (4,),
    "Cl": (1,),
    "As": (3,),
    "Br": (1,),
    "I": (1,),
    "Hg": (1, 2),
    "Bi": (3, 5),
}
_LARGEST = 8  # more bonds than that at one atom are a heap of atoms, not a molecule
_SHOWN = 4  # atoms named among the reasons
_ORDERS = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def _thresholds(order: int) -> NDArray[np.float64]:
    """The largest distance in Angstrom, by the two atomic numbers; 0 where there is no bond."""
    table = np.zeros((len(SYMBOLS), len(SYMBOLS)))
    for row in _LENGTHS[order].split(";"):
        left, cells = row.split(":")
        i = NUMBERS[left.strip()]
        for right, length in (cell.split() for cell in cells.split(",")):
            j = NUMBERS[right]
            table[i, j] = table[j, i] = (int(length) + _MARGIN[order]) / 100
    return table


def _allowed() -> Booleans:
    table = np.zeros((len(SYMBOLS), _LARGEST + 1), dtype=np.bool_)
    for symbol, valencies in VALENCIES.items():
        table[NUMBERS[symbol], list(valencies)] = True
    return table


_REACH = tuple(_thresholds(order) for order in (1, 2, 3))
_STABLE = _allowed()


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonds of packed molecules, molecule by molecule.

    Arguments:
        pair: The two atoms i < j as indices into the packed atoms, `(2, bonds)`.
        order: The bond orders 1, 2 or 3, `(bonds,)`.
        molecule: The molecule of each bond, ascending, `(bonds,)`.
    """

    pair: Integers
    order: Integers
    molecule: Integers

    def __len__(self) -> int:
        return len(self.order)

    def split(self, structures: Structures) -> Iterator[Bonds]:
        """Yields the bonds of one molecule after the other, its atoms counted from 0."""
        cuts = np.searchsorted(self.molecule, np.arange(len(structures) + 1)).tolist()
        for m, first in enumerate(structures.offsets[:-1].tolist()):
            part = slice(cuts[m], cuts[m + 1])
            order = self.order[part]
            yield Bonds(self.pair[:, part] - first, order, np.zeros_like(order))


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


def bonds(structures: Structures) -> Bonds:
    """Infers the bonds of all molecules from distances; pairs EDM has no length for have none.

    Example:
        >>> n2 = Structures.from_list([([7, 7], [[0, 0, 0], [0, 0, 1.1]])])
        >>> bonds(n2).order.tolist()
        [3]
    """
    found = []
    for i, j in pairs(structures):
        reach = [table[structures.number[i], structures.number[j]] for table in _REACH]
        d = distances(structures, i, j)
        one, two, three = (d < limit for limit in reach)
        order = one * (1 + two * (1 + three.astype(np.int64)))
        hit = np.flatnonzero(order)
        found.append(np.stack([i[hit], j[hit], order[hit]]))
    table = np.concatenate(found, axis=1) if found else np.zeros((3, 0), dtype=np.int64)
    return Bonds(table[:2], table[2], structures.owner[table[0]])


def atom_valency(structures: Structures, bonds: Bonds) -> Integers:
    """Sums the bond orders at each atom, `(atoms,)`."""
    size = len(structures.number)
    weights = np.tile(bonds.order, 2)
    return np.bincount(bonds.pair.ravel(), weights, minlength=size).astype(np.int64)


def stable_atoms(structures: Structures, bonds: Bonds) -> Booleans:
    """Tells which atoms have an allowed valency, `(atoms,)`; other elements are not stable."""
    return _stable(structures, atom_valency(structures, bonds))


def _heaped(structures: Structures, valency: Integers) -> Booleans:
    """Molecules RDKit cannot take: it counts bonds in 8 bits, and rings for hours."""
    heaped = structures.owner[valency > _LARGEST]
    return np.asarray(np.bincount(heaped, minlength=len(structures)) > 0)


def plain_bonds(structures: Structures) -> Bonds:
    """Infers the bonds to write and draw: none in a heap, with over 8 bonds at an atom."""
    found = bonds(structures)
    keep = ~_heaped(structures, atom_valency(structures, found))[found.molecule]
    return Bonds(found.pair[:, keep], found.order[keep], found.molecule[keep])


def _stable(structures: Structures, valency: Integers) -> Booleans:
    return np.asarray(_STABLE[structures.number, np.minimum(valency, _LARGEST)])


def implied(structures: Structures) -> bool:
    """Tells whether the hydrogens are implicit: there are none in any molecule."""
    return not (structures.number == 1).any()


def to_mol(number: NDArray[np.uint8], position: Floats, bonds: Bonds) -> Chem.Mol:
    """Builds an RDKit molecule with a 3-D conformer; it is not sanitised.

    Arguments:
        number: Atomic numbers, `(n,)`.
        position: Coordinates in Angstrom, `(n, 3)`.
        bonds: Its bonds, with atoms counted from 0 (see `Bonds.split`).
    """
    mol = Chem.RWMol()
    for z in number.tolist():
        mol.AddAtom(Chem.Atom(z))
    for i, j, order in zip(*bonds.pair.tolist(), bonds.order.tolist(), strict=True):
        mol.AddBond(i, j, _ORDERS[order])
    conformer = Chem.Conformer(len(number))
    conformer.SetPositions(np.asarray(position, dtype=np.float64))
    conformer.Set3D(True)
    mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()


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
    inferred = bonds(structures)
    valency = atom_valency(structures, inferred)
    faults = _faults(structures, valency, implicit=implicit)
    finite = structures.finite.tolist()
    nameless = np.bincount(structures.owner[structures.number == 0], minlength=len(structures)) > 0
    hopeless = set(np.flatnonzero(nameless | _heaped(structures, valency)).tolist())
    verdicts = []
    with rdBase.BlockLogs():
        for m, local in enumerate(inferred.split(structures)):
            if finite[m]:
                mol, words = to_mol(*structures.molecule(m), local), faults.get(m, ())
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
    top = np.where(_STABLE.any(1), _LARGEST - np.argmax(_STABLE[:, ::-1], axis=1), -1)
    over = valency > top[structures.number]  # the worse fault, so named first
    under = ~over & ~_stable(structures, valency) & (not implicit)  # RDKit may add hydrogens
    atoms: dict[int, list[str]] = {}
    for a in (*np.flatnonzero(over).tolist(), *np.flatnonzero(under).tolist()):
        m = int(structures.owner[a])
        symbol = SYMBOLS[structures.number[a]]
        atom = f"atom {a - structures.offsets[m]} ({symbol})"
        allowed = " or ".join(str(v) for v in VALENCIES.get(symbol, ()))
        text = f"{atom} has valence {valency[a]}, allowed {allowed}"
        atoms.setdefault(m, []).append(text if allowed else f"{atom} is not in EDM's tables")
    return {m: _first(texts) for m, texts in atoms.items()}


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
