"""Where molecules come from: the embedded 2,000 of QM9, and .sdf, .xyz and .npz files.

Reading never fails for one bad record: it is skipped, and `Loaded.skipped` says where and why.

References:
    Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan et al., 2014)
    https://doi.org/10.1038/sdata.2014.22
    The embedded molecules are from PyPI qm9pack 1.0.3 (MIT), the QM9 of its first author.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from structdiff.domains.molecules.structures import (
    NUMBERS,
    SYMBOLS,
    Structures,
    distances,
    pairs,
)

__all__ = ["Loaded", "Skipped", "Structures", "embedded", "read"]

COINCIDENT = 1e-3  # Angstrom
KEYS = ("pos_1e4A", "z", "n_atoms")


class Record(NamedTuple):
    """One molecule of a text file."""

    where: str
    name: str
    number: ArrayLike
    position: ArrayLike


@dataclass(frozen=True)
class Skipped:
    """A record that was not read: where it stands and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What a file gave, and what was skipped."""

    structures: Structures
    skipped: tuple[Skipped, ...] = ()

    def report(self, shown: int = 3) -> str:
        """Counts the skipped records by reason and names the first few of each."""
        lines = [f"{len(self.structures):,} molecules read, {len(self.skipped):,} skipped"]
        for reason, number in Counter(s.reason for s in self.skipped).most_common():
            where = [s.where for s in self.skipped if s.reason == reason][:shown]
            more = ", ..." if number > len(where) else ""
            lines.append(f"  {number:,} x {reason}: {', '.join(where)}{more}")
        return "\n".join(lines)


def embedded() -> Structures:
    """Returns 2,000 molecules of QM9, drawn at random from EDM's train split.

    Example:
        >>> qm9 = embedded()
        >>> len(qm9), qm9.elements
        (2000, (1, 6, 7, 8, 9))
    """
    return read(Path(__file__).with_name("qm9_mini2000.npz")).structures


def read(path: Path | str, *, max_atoms: int = 500) -> Loaded:
    """Reads molecules with coordinates from an .sdf, .xyz or .npz file.

    Records that are broken, have no 3-D coordinates, an unknown element, one atom only, two atoms
    at one point, more than `max_atoms` atoms or coordinates that are not finite are skipped.

    Arguments:
        path: An SDF (V2000 or V3000), a file of one or more XYZ blocks, or an npz with `pos_1e4A`
            (int32, 1e-4 Angstrom, `(atoms, 3)`), `z` `(atoms,)` and `n_atoms` `(molecules,)`.
        max_atoms: The largest molecule that is kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the suffix is not known, or nothing in the file can be read.
    """
    path = Path(path)
    readers = {".sdf": _read_sdf, ".xyz": _read_xyz}
    if path.suffix.lower() not in (*readers, ".npz"):
        raise ValueError(
            f"cannot read {path}: the suffix {path.suffix!r} is not known; allowed are "
            ".sdf, .xyz and .npz"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; check the path given as data")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; give a file with at least one molecule")
    if path.suffix.lower() == ".npz":
        structures, skipped = _read_npz(path), []
        where = structures.name or tuple(f"molecule {i + 1}" for i in range(len(structures)))
    else:
        records = list(readers[path.suffix.lower()](path))
        skipped = [record for record in records if isinstance(record, Skipped)]
        kept = [record for record in records if not isinstance(record, Skipped)]
        structures = Structures.from_list(
            [(record.number, record.position) for record in kept],
            [record.name for record in kept],
        )
        where = tuple(record.where for record in kept)
    structures, faults = _screen(structures, where, max_atoms)
    loaded = Loaded(structures, (*skipped, *faults))
    if not len(structures):
        raise ValueError(
            f"nothing in {path} could be used; mend the file or raise max_atoms ({max_atoms}):\n"
            f"{loaded.report()}"
        )
    return loaded


def _screen(
    structures: Structures, where: tuple[str, ...], max_atoms: int
) -> tuple[Structures, list[Skipped]]:
    """Splits off molecules without a usable geometry; the first reason that holds is named."""
    size, owner = structures.count, structures.owner
    nameless = np.bincount(owner[structures.number == 0], minlength=len(structures)) > 0
    faults = {
        "one atom: no geometry": size == 1,
        f"more than {max_atoms} atoms": size > max_atoms,
        "unknown element (atomic number 0)": nameless,
        "coordinates are not finite": ~structures.finite,
    }
    good = np.flatnonzero(~np.logical_or.reduce([*faults.values()]))
    inside = structures.select(good)
    close = np.zeros(len(structures), dtype=np.bool_)
    for i, j in pairs(inside):
        close[good[inside.owner[i[distances(inside, i, j) < COINCIDENT]]]] = True
    faults[f"two atoms within {COINCIDENT:g} A"] = close
    skipped, left = list[Skipped](), np.ones(len(structures), dtype=np.bool_)
    for reason, mask in faults.items():
        skipped += [Skipped(where[i], reason) for i in np.flatnonzero(mask & left)]
        left &= ~mask
    return structures.select(np.flatnonzero(left)), skipped


def _read_npz(path: Path) -> Structures:
    """Reads the packed layout of qm9_mini2000.npz."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in KEYS if key not in archive]
            if missing:
                raise ValueError(f"keys {', '.join(missing)} are missing")
            position, number, count = (archive[key] for key in KEYS)
            name = tuple(str(name) for name in archive.get("name", ()))
            index = archive.get("gdb_index", ())
        name = name or tuple(f"gdb {i}" for i in index)
        return Structures(position / 1e4, number, count.astype(np.int64), name)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"cannot read {path}: {error}; it must be a whole npz with the arrays "
            f"{', '.join(KEYS)} (pos_1e4A in 1e-4 Angstrom)"
        ) from error


def _read_sdf(path: Path) -> Iterator[Record | Skipped]:
    """Reads the records of an SDF; nothing is sanitised and no hydrogen is removed."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for index, lines in enumerate(_records(file)):
            yield _sdf_record(lines, f"record {index + 1}")


def _records(lines: Iterable[str]) -> Iterator[list[str]]:
    """Splits an SDF at its $$$$ lines; a last record without the mark counts too."""
    held: list[str] = []
    for line in lines:
        if line.startswith("$$$$"):
            yield held
            held = []
        else:
            held.append(line.rstrip("\r\n"))
    if any(line.strip() for line in held):
        yield held


def _sdf_record(lines: list[str], where: str) -> Record | Skipped:
    from rdkit import Chem, rdBase

    title = (lines or [""])[0].strip()
    name = title or where
    where = f"{where} ({title})" if title else where
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
    return Record(where, name, [atom.GetAtomicNum() for atom in mol.GetAtoms()], position)


def _unknown(lines: list[str]) -> list[str]:
    """Returns the element symbols of a V2000 block that are no elements."""
    atoms = lines[3][:3].strip() if len(lines) > 3 else ""
    block = lines[4 : 4 + int(atoms)] if atoms.isdigit() else []
    symbols = [line[31:34].strip() for line in block if not line.startswith("M")]
    return [symbol for symbol in symbols if symbol.isalpha() and symbol not in NUMBERS]


def _read_xyz(path: Path) -> Iterator[Record | Skipped]:
    """Reads XYZ blocks: a number of atoms, a comment, then `symbol x y z` per atom."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    at, lost = 0, False
    while at < len(lines):
        head = lines[at].strip()
        if head.isdecimal():
            lost = False
            end = at + 2 + int(head)
            yield _xyz_record(lines[at + 1 : end], int(head), f"line {at + 1}")
            at = end
            continue
        if head and not lost:
            lost = True
            yield Skipped(f"line {at + 1}", "expected a number of atoms")
        at += 1


def _xyz_record(rows: list[str], count: int, where: str) -> Record | Skipped:
    cells = [row.split()[:4] for row in rows[1:]]
    if count == 0 or len(cells) < count or any(len(row) < 4 for row in cells):
        return Skipped(where, f"broken XYZ block: not {count} rows of `symbol x y z`")
    symbols = [row[0] if row[0].isdecimal() else row[0].capitalize() for row in cells]
    number = [int(s) if s.isdecimal() else NUMBERS.get(s, 0) for s in symbols]
    bad = [s for s, z in zip(symbols, number, strict=True) if not 0 < z < len(SYMBOLS)]
    if bad:
        return Skipped(where, f"unknown element symbol {bad[0]!r}")
    try:  # QM9's own files write 1e-6 as 1*^-6
        position = [[float(cell.replace("*^", "e")) for cell in row[1:]] for row in cells]
    except ValueError:
        return Skipped(where, "broken XYZ block: a coordinate is not a number")
    return Record(where, rows[0].strip() or where, number, position)
