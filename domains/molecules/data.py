"""Where molecules come from: the embedded 2,000 of QM9, named data sets, and anyone's files.

Reading never fails for one bad record: it is skipped, and `Loaded.skipped` says where and why.

References:
    Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan et al., 2014)
    https://doi.org/10.1038/sdata.2014.22
    The embedded molecules are from PyPI qm9pack 1.0.3 (MIT), the QM9 of its first author.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from structdiff.domains.molecules.readers.files import kind, lines, opened
from structdiff.domains.molecules.readers.packed import read_npz
from structdiff.domains.molecules.readers.records import Loaded, Record, Skipped, gather
from structdiff.domains.molecules.readers.sdf import read_sdf
from structdiff.domains.molecules.readers.smiles import read_list, read_table
from structdiff.domains.molecules.readers.sources import NAMES, locate
from structdiff.domains.molecules.readers.xyz import read_xyz
from structdiff.domains.molecules.structures import Structures

__all__ = ["EMBEDDED", "Loaded", "Skipped", "Structures", "embedded", "read"]

SUFFIXES = (".sdf", ".mol", ".xyz", ".npz", ".smi", ".smiles", ".txt", ".csv", ".tsv")
EMBEDDED = Path(__file__).with_name("qm9_mini2000.npz")
_NOTES = (".txt",)  # in a folder these are words about the molecules


def embedded() -> Structures:
    """Returns 2,000 molecules of QM9, drawn at random from EDM's train split.

    Example:
        >>> qm9 = embedded()
        >>> len(qm9), qm9.elements
        (2000, (1, 6, 7, 8, 9))
    """
    return read(EMBEDDED).structures


def read(path: Path | str, *, max_atoms: int = 500, bonded: bool = False) -> Loaded:
    """Reads molecules from a file, a folder of files, or a named data set.

    Records that are broken, have no 3-D coordinates, an unknown element, one atom only, two atoms
    at one point, more than `max_atoms` atoms or coordinates that are not finite are skipped; in a
    folder, so are files that cannot be read. SMILES get coordinates from RDKit (see `embedding`).

    Arguments:
        path: An SDF or mol file (V2000 or V3000), XYZ blocks (plain, extended, or of QM9), an npz
            (see `packed`), a list of SMILES (.smi, .smiles, .txt: `SMILES [name]` a line) or a
            table with a column `smiles` (.csv, .tsv), each also packed as .gz or .xz; a folder of
            such files (.txt excepted), read in the order of their names; or `qm9`.
        max_atoms: The largest molecule that is kept, hydrogens included.
        bonded: Whether to skip the molecules whose bonds are not known where most others' are;
            else all bonds are dropped.

    Raises:
        FileNotFoundError: If there is no such file, or a named data set cannot be had.
        ValueError: If the suffix is not known, or nothing in the file can be read.
    """
    path = locate(path)
    if not path.is_dir() and kind(path) not in SUFFIXES:
        raise ValueError(
            f"cannot read {path}: {_unknown(path)}; allowed are .sdf, .xyz and .npz, .mol, "
            ".smi, .smiles, .txt, .csv and .tsv, each also as .gz or .xz, a folder of them, or "
            f"the name of a data set: {', '.join(NAMES)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}; check the path given as data")
    items = _folder(path, max_atoms) if path.is_dir() else _file(path, max_atoms)
    loaded = gather(items, max_atoms, bonded=bonded)
    if not len(loaded.structures):
        raise ValueError(
            f"nothing in {path} could be used; mend the file or raise max_atoms ({max_atoms}):\n"
            f"{loaded.report()}"
        )
    return loaded


def _unknown(path: Path) -> str:
    if kind(path) in (".gz", ".xz"):
        return "it is compressed twice: unpack it once"
    return f"the suffix {kind(path)!r} is not known"


def _file(path: Path, max_atoms: int) -> Iterator[Record | Skipped]:
    with opened(path) as stream:
        faults: list[Skipped] = []
        yield from _reader(path, stream, faults, max_atoms)
        yield from faults


def _reader(
    path: Path, stream: IO[bytes], faults: list[Skipped], max_atoms: int
) -> Iterator[Record | Skipped]:
    """The records of a file by its suffix."""
    match kind(path):
        case ".npz":
            return read_npz(stream, path)
        case ".sdf" | ".mol":
            return read_sdf(lines(stream, faults))
        case ".xyz":
            return read_xyz(lines(stream, faults))
        case ".csv" | ".tsv":
            return read_table(lines(stream, faults), path, max_atoms)
        case _:
            return read_list(lines(stream, faults), max_atoms)


def _folder(folder: Path, max_atoms: int) -> Iterator[Record | Skipped]:
    """The records of all files below a folder; each says which file it is from.

    Raises:
        ValueError: If there is no file of a known suffix.
    """
    known = [suffix for suffix in SUFFIXES if suffix not in _NOTES]
    paths = sorted(p for p in folder.rglob("*") if kind(p) in known and p.is_file())
    paths = [p for p in paths if not any(s.startswith(".") for s in p.relative_to(folder).parts)]
    if not paths:
        raise ValueError(
            f"the folder {folder} has no file that ends in {', '.join(known)}, nor packed ones; "
            "give the folder that holds the molecules"
        )
    for path in paths:
        file = path.relative_to(folder).as_posix()
        try:
            for item in _file(path, max_atoms):
                where = f"{file}: {item.where}"
                if isinstance(item, Skipped):
                    yield replace(item, where=where)
                else:
                    yield item._replace(where=where)
        except ValueError as error:
            yield Skipped(file, str(error).replace(str(path), "the file"))
