"""SDF and mol files, V2000 and V3000: elements, coordinates, charges, bonds and data fields.

Bonds are single, double, triple or aromatic, and kept as they are written. A record of several
atoms without any bond, or with one of another kind (dative, hydrogen, a query), is read, but its
bonds are not known (see `records`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile

import numpy as np

from structdiff.domains.molecules.readers.records import Record, Skipped
from structdiff.domains.molecules.structures import NUMBERS

__all__ = ["OURS", "read_sdf"]

OURS = ("VALID", "STABLE", "SMILES", "REASONS")  # fields of a verdict, not of the molecule
_FIELD = re.compile(r">.*?<([^<>]+)>")
_LONGEST = 200_000  # lines of a record
_CHARGE = 8  # a larger formal charge is a slip


def read_sdf(lines: Iterable[str]) -> Iterator[Record | Skipped]:
    """Reads the records of an SDF; nothing is sanitised and no hydrogen is removed."""
    for index, record in enumerate(_records(lines)):
        yield _record(record, f"record {index + 1}")


def _records(lines: Iterable[str]) -> Iterator[list[str]]:
    """Splits an SDF at its $$$$ lines; a last record without the mark counts too."""
    held: list[str] = []
    for line in lines:
        if line.startswith("$$$$"):
            yield held
            held = []
        elif len(held) <= _LONGEST:
            held.append(line)
    if any(line.strip() for line in held):
        yield held


def _record(lines: list[str], where: str) -> Record | Skipped:
    from rdkit import Chem, rdBase

    from structdiff.domains.molecules.mols import bonds_of

    title = (lines or [""])[0].strip()
    where = f"{where} ({title[:60]})" if title.isprintable() and title else where
    if len(lines) > _LONGEST or any("\0" in line for line in lines):
        return Skipped(where, "broken SDF record")
    head = takewhile(lambda line: not _FIELD.match(line), lines)
    if sum(line.rstrip() == "M  END" for line in head) > 1:
        return Skipped(where, "broken SDF record: $$$$ is missing before the next molecule")
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock("\n".join(lines), sanitize=False, removeHs=False)
    unknown = (
        _unknown(lines)
        if mol is None
        else [atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0]
    )
    if unknown:
        return Skipped(where, f"unknown element symbol {unknown[0]!r}")
    if mol is None:
        return Skipped(where, "broken SDF record")
    if mol.GetNumAtoms() == 0:
        return Skipped(where, "no atoms")
    position = mol.GetConformer().GetPositions() if mol.GetNumConformers() else np.zeros((1, 3))
    flat = len(position) > 1 and not position[:, 2].any() and lines[1][20:22] != "3D"
    if flat or not mol.GetNumConformers():
        return Skipped(where, "no 3-D coordinates")
    atoms = list(mol.GetAtoms())
    charge = [atom.GetFormalCharge() for atom in atoms]
    if max(map(abs, charge)) > _CHARGE:
        return Skipped(where, f"a formal charge beyond {_CHARGE}")
    number = np.array([atom.GetAtomicNum() for atom in atoms], np.uint8)
    isotopes = any(atom.GetIsotope() for atom in atoms)
    return Record(
        where, title, number, position, np.array(charge, np.int8), _fields(lines),
        isotopes=isotopes, bond=bonds_of(mol),
    )  # fmt: skip


def _fields(lines: list[str]) -> dict[str, str]:
    """The data fields `> <name>` below the molecule; the lines of a value are joined."""
    fields: dict[str, list[str]] = {}
    value: list[str] | None = None
    for line in lines:
        head = _FIELD.match(line) if value is None else None
        if head:
            value = fields.setdefault(head[1].strip(), [])
        elif not line.strip():
            value = None
        elif value is not None:
            value.append(line.strip())
    return {name: " ".join(rows) for name, rows in fields.items() if name not in OURS}


def _unknown(lines: list[str]) -> list[str]:
    """Returns the element symbols of a V2000 block that are no elements."""
    atoms = lines[3][:3].strip() if len(lines) > 3 else ""
    block = lines[4 : 4 + int(atoms)] if atoms.isdecimal() else []
    symbols = [line[31:34].strip() for line in block if not line.startswith("M")]
    return [symbol for symbol in symbols if symbol.isalpha() and symbol not in NUMBERS]
