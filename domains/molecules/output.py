"""Molecules as files: .sdf, .xyz, .smi, .npz; pictures are made by `pictures`.

SDF and npz hold formal charges, properties and bonds, XYZ and SMILES lists do not. An SDF has the
bonds that molecules came with, aromatic ones as such (type 4), else those of their distances; an
npz has the former only.

A file is written whole or not at all: to a temporary file in the same folder, flushed to the
disk, then moved into place. What a format cannot hold is left out and counted.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from structdiff.domains.molecules.chemistry import Verdict, plain_bonds, to_mol
from structdiff.domains.molecules.pictures import grid, trajectory
from structdiff.domains.molecules.readers.files import check_free, write_atomically
from structdiff.domains.molecules.readers.packed import BONDS, PREFIX
from structdiff.domains.molecules.readers.sdf import OURS
from structdiff.domains.molecules.structures import SYMBOLS, Booleans, Integers, Structures

__all__ = ["Written", "check_free", "grid", "trajectory", "write", "write_atomically"]

_BRACKETS = str.maketrans("<>", "()")  # they end the name of an SDF field


@dataclass(frozen=True)
class Written:
    """What a file holds, and which molecules were left out of it."""

    path: Path
    molecules: int
    left_out: tuple[int, ...]

    def report(self) -> str:
        """Says in one line what was written."""
        text = f"{self.molecules:,} molecules written to {self.path}"
        if not self.left_out:
            return text
        why = "no SMILES" if self.path.suffix.lower() == ".smi" else "coordinates not finite"
        return f"{text}, {len(self.left_out):,} left out ({why})"


def write(
    path: Path | str,
    structures: Structures,
    verdicts: Sequence[Verdict],
    *,
    overwrite: bool = False,
) -> Written:
    """Writes molecules in the format of the suffix.

    Arguments:
        path: An .sdf (bonds, properties, and the fields VALID, STABLE, SMILES and
            REASONS), .xyz, .smi (valid molecules) or .npz (as `data.read` takes it).
        structures: The molecules.
        verdicts: One per molecule, see `chemistry.judge`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, the file exists, or it cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    content, kept = encode(path.suffix.lower(), structures, verdicts)
    write_atomically(path, content)
    missing = np.setdiff1d(np.arange(len(structures)), kept)
    return Written(path, len(kept), tuple(missing.tolist()))


def encode(
    suffix: str, structures: Structures, verdicts: Sequence[Verdict]
) -> tuple[bytes, Integers]:
    """Returns molecules in the format of a suffix, and which of them it can hold.

    Raises:
        ValueError: If there are not as many verdicts as molecules.
    """
    formats = {".sdf": _sdf, ".xyz": _xyz, ".smi": _smi, ".npz": _npz}
    if len(verdicts) != len(structures):
        raise ValueError(
            f"verdicts has {len(verdicts)} entries for {len(structures)} molecules; "
            "pass judge(structures)"
        )
    smiles = suffix == ".smi"
    usable = np.array([v.smiles is not None for v in verdicts]) if smiles else structures.finite
    kept = np.flatnonzero(usable)
    content = formats[suffix](
        structures.select(kept), [verdicts[i] for i in kept.tolist()], _names(structures, usable)
    )
    return content, kept


def _names(structures: Structures, usable: Booleans) -> list[str]:
    return [
        " ".join(structures.name[i].split()) if structures.name else f"molecule {i + 1}"
        for i in np.flatnonzero(usable)
    ]


def _sdf(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    text = io.StringIO()
    local = plain_bonds(structures).split(structures)
    with rdBase.BlockLogs():
        for m, (bond, verdict, name) in enumerate(zip(local, verdicts, names, strict=True)):
            mol = to_mol(*structures.molecule(m), bond, structures.charges(m).tolist())
            mol.SetProp("_Name", name)
            mol.UpdatePropertyCache(strict=False)
            text.write(Chem.MolToMolBlock(mol, includeStereo=False, kekulize=False))
            for field, value in (_known(structures, m) | _fields(verdict)).items():
                text.write(f">  <{field}>\n{value}\n\n")
            text.write("$$$$\n")
    return text.getvalue().encode()


def _known(structures: Structures, m: int) -> dict[str, str]:
    """The properties of one molecule as text; what is unknown is left out."""
    fields = {}
    for name, column in structures.properties.items():
        value = column[m]
        words = column.dtype.kind == "U"
        text = str(value) if words else " ".join(repr(float(x)) for x in np.atleast_1d(value))
        known = bool(text.strip()) if words else not np.isnan(value).all()
        title = " ".join(name.translate(_BRACKETS).split())
        if known and title not in OURS:
            fields[title] = " ".join(text.split())
    return fields


def _fields(verdict: Verdict) -> dict[str, str]:
    fields = {
        "VALID": str(verdict.valid),
        "STABLE": "undefined" if verdict.stable is None else str(verdict.stable),
        "SMILES": verdict.smiles or "",
        "REASONS": " ".join("; ".join(verdict.reasons).split()),
    }
    return {field: value for field, value in fields.items() if value}


def _xyz(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    blocks = []
    for (number, position), name in zip(structures, names, strict=True):
        rows = [
            f"{SYMBOLS[z]} {x:.6f} {y:.6f} {w:.6f}"
            for z, (x, y, w) in zip(number.tolist(), position.tolist(), strict=True)
        ]
        blocks.append("\n".join([str(len(number)), name, *rows]))
    return "".join(f"{block}\n" for block in blocks).encode()


def _smi(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    rows = [f"{v.smiles}\t{name}\n" for v, name in zip(verdicts, names, strict=True)]
    return "".join(rows).encode()


def _npz(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    more: dict[str, Any] = {
        f"{PREFIX}{name}": value for name, value in structures.properties.items()
    }
    if structures.bond is not None:
        more |= dict(zip(BONDS, (structures.bond.pair, structures.bond.order), strict=True))
    np.savez_compressed(
        buffer,
        pos_1e4A=np.rint(structures.position.astype(np.float64) * 1e4).astype(np.int32),
        z=structures.number,
        n_atoms=structures.count,
        charge=structures.charge,
        valid=np.array([verdict.valid for verdict in verdicts], dtype=np.bool_),
        name=np.array(names, dtype=np.str_),
        **more,
    )
    return buffer.getvalue()
