"""QM9 from the wheel of PyPI qm9pack: its tables become one npz.

Nothing of the wheel is installed, imported or unpickled: its csv files are read where they stand.
The molecules are in the order of their gdb index; that of EDM's split.

References:
    Quantum chemistry structures and properties of 134 kilo molecules (Ramakrishnan et al., 2014)
    https://doi.org/10.1038/sdata.2014.22
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from structdiff.domains.molecules.readers.files import write_atomically
from structdiff.domains.molecules.structures import NUMBERS

__all__ = ["MOLECULES", "TABLES", "convert", "convert_folder", "convert_wheel"]

MOLECULES = 130_831
TABLES = tuple(f"qm9_part{part}.csv" for part in (1, 2, 3))
COLUMNS = {  # the names that the embedded molecules have, with units
    "Dipole_debye": "mu_debye", "Polarizability_bohr3": "alpha_bohr3", "HOMO_au": "homo_ha",
    "LUMO_au": "lumo_ha", "HOMO_LUMO_gap_au": "gap_ha", "R2_bohr2": "r2_bohr2",
    "ZPVE_au": "zpve_ha", "InternalEnergy_0K_au": "U0_ha",
    "Heatcapacity_Cv_cal_mol_K": "Cv_cal_molK", "InternalEnergy_298K_au": "U_ha",
    "Enthalphy_298K_au": "H_ha", "GibbsFreeEnergy_298K_au": "G_ha", "RotA_GHz": "A_ghz",
    "RotB_GHz": "B_ghz", "RotC_GHz": "C_ghz",
}  # fmt: skip
_BRACKETS = str.maketrans("", "", "[] ")


def convert_wheel(wheel: Path, target: Path) -> None:
    """Converts the tables inside a wheel.

    Raises:
        ValueError: If it is not the wheel of qm9pack, or the target cannot be written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            convert([_inside(archive, f"qm9pack/data/{table}") for table in TABLES], target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel} is not a whole wheel of qm9pack: {error}") from error


def _inside(archive: zipfile.ZipFile, name: str) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(name)


def convert_folder(folder: Path, target: Path) -> None:
    """Converts the tables of an installed qm9pack."""
    convert([_beside(folder / table) for table in TABLES], target)


def _beside(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


def convert(tables: Sequence[Callable[[], IO[bytes]]], target: Path) -> None:
    """Converts tables into the layout of `packed`, sorted by gdb index.

    Arguments:
        tables: Functions that open one table each.
        target: The npz to write.

    Raises:
        ValueError: If a column is missing or a row is broken, or the target cannot be written.
    """
    index, props = list[int](), list[list[float]]()
    number, position = list[bytes](), list[bytes]()
    try:
        for row in tqdm(
            _rows(tables), total=MOLECULES, desc="QM9", unit="molecule", leave=False, disable=None
        ):
            symbols = json.loads(row["Elements"].replace("'", '"'))
            cells = row["XYZ_Ang"].replace("*^", "e").translate(_BRACKETS).split(",")
            place = np.array(cells, np.float64).reshape(len(symbols), 3)  # 0. is no JSON
            number.append(bytes(NUMBERS[symbol] for symbol in symbols))
            position.append(np.rint(place * 1e4).astype(np.int32).tobytes())
            props.append([float(row[column].replace("*^", "e")) for column in COLUMNS])
            index.append(int(row["Index"]))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"molecule {len(index) + 1} of the tables of qm9pack cannot be read ({error!r}); "
            "version 1.0.3 is known to work"
        ) from error
    order = np.argsort(index)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pos_1e4A=np.frombuffer(b"".join(position[i] for i in order), np.int32).reshape(-1, 3),
        z=np.frombuffer(b"".join(number[i] for i in order), np.uint8),
        n_atoms=np.array([len(number[i]) for i in order], np.uint8),
        gdb_index=np.array(index, np.int32)[order],
        props=np.array(props, np.float64)[order],
        prop_names=np.array([*COLUMNS.values()]),
    )
    write_atomically(target, buffer.getvalue())


def _rows(tables: Sequence[Callable[[], IO[bytes]]]) -> Iterator[dict[str, str]]:
    for table in tables:
        with table() as stream, io.TextIOWrapper(stream, "utf-8", newline="") as text:
            yield from csv.DictReader(text)
