"""Valid molecules, ready for RDKit: what chemistry is measured of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from rdkit import Chem, rdBase
from tqdm import tqdm

from structdiff.domains.molecules.bonding import bonds
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.mols import bonds_of, to_mol
from structdiff.domains.molecules.structures import Bonds, Integers, Structures

__all__ = ["Valid"]

_NO_BONDS = np.zeros((3, 0), np.int64)


@dataclass(frozen=True, eq=False)
class Valid:
    """The valid molecules of a set.

    Arguments:
        structures: Those molecules, with the bonds that they were judged by; bonds of rings that
            RDKit calls aromatic are aromatic.
        mols: The same as sanitised molecules of RDKit, with their hydrogens.
        drawn: How many there were, valid or not.
        most: Of how many molecules what takes long is measured.
        progress: Whether to show bars.
    """

    structures: Structures
    mols: Sequence[Chem.Mol]
    drawn: int
    most: int = 1000
    progress: bool = False

    def __len__(self) -> int:
        return len(self.mols)

    @classmethod
    def of(
        cls,
        structures: Structures,
        *,
        implicit: bool | None = None,
        most: int = 1000,
        progress: bool = False,
    ) -> Valid:
        """Judges molecules and keeps the valid ones.

        Arguments:
            structures: The molecules.
            implicit: Whether hydrogens are left out; None means: if there are none at all.
            most: Of how many molecules what takes long is measured.
            progress: Whether to show bars.
        """
        good = [verdict.valid for verdict in judge(structures, implicit=implicit)]
        kept = structures.select(np.flatnonzero(good))
        with rdBase.BlockLogs():
            mols = [
                _sanitised(to_mol(*kept.molecule(m), local, kept.charges(m).tolist()))
                for m, local in enumerate(bonds(kept).split(kept))
            ]
        return cls(_with_bonds(kept, mols), mols, len(structures), most, progress)

    @cached_property
    def heavy(self) -> list[Chem.Mol]:
        """The molecules with hydrogens folded in."""
        with rdBase.BlockLogs():
            return [Chem.RemoveHs(mol) for mol in self.mols]

    @cached_property
    def smiles(self) -> list[str]:
        """The canonical SMILES of whole molecules, hydrogens folded in."""
        return [Chem.MolToSmiles(mol) for mol in self.heavy]

    def some(self, most: int | None = None) -> Integers:
        """Those that what takes long is measured of, chosen at random, the same each time."""
        top = self.most if most is None else min(self.most, most)
        chosen = np.random.default_rng(0).permutation(len(self))[:top]
        return np.asarray(np.sort(chosen))

    def each(self, mols: Sequence[Chem.Mol], words: str) -> Iterator[tuple[int, Chem.Mol]]:
        """Some of the molecules, one after the other, with their numbers and a bar."""
        chosen = self.some().tolist()
        with rdBase.BlockLogs():
            for m in tqdm(chosen, words, unit=" molecules", disable=not self.progress):
                yield m, mols[m]


def _sanitised(mol: Chem.Mol) -> Chem.Mol:
    Chem.SanitizeMol(mol)
    return mol


def _with_bonds(structures: Structures, mols: Sequence[Chem.Mol]) -> Structures:
    """The molecules with the bonds that RDKit sees."""
    tables = [found if (found := bonds_of(mol)) is not None else _NO_BONDS for mol in mols]
    whole = np.concatenate([_NO_BONDS, *tables], axis=1)
    molecule = np.repeat(np.arange(len(mols)), [table.shape[1] for table in tables])
    pair = whole[:2] + structures.offsets[molecule]
    return replace(structures, bond=Bonds(pair, whole[2], molecule))
