"""npz files: the atoms of all molecules one after the other.

`pos_1e4A` (int32, 1e-4 Angstrom, `(atoms, 3)`), `z` `(atoms,)` and `n_atoms` `(molecules,)` must
be there; `charge` `(atoms,)`, `name` and `gdb_index` may. Bonds are known if `bond_pair` is there,
`(2, bonds)`, the two atoms of each bond counted over all molecules from 0, and `bond_order`
`(bonds,)`, 1, 2, 3 or 4 (aromatic); a molecule without any then has none. Properties are `props`
`(molecules, k)` with `prop_names` (alpha_bohr3 is alpha in bohr^3), and every further array of
numbers or words with one row per molecule, called by its key; a key properties/alpha is alpha.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.molecules.readers.records import Record, tidy
from structdiff.domains.molecules.structures import Bonds, Structures

__all__ = ["BONDS", "PREFIX", "load_arrays", "read_npz", "split_unit"]

KEYS = ("pos_1e4A", "z", "n_atoms")
PREFIX = "properties/"
BONDS = ("bond_pair", "bond_order")
_OWN = (*KEYS, *BONDS, "charge", "name", "gdb_index", "valid", "props", "prop_names")
_UNITS = {
    "debye": "D", "bohr3": "bohr^3", "bohr2": "bohr^2", "ha": "Ha", "ev": "eV", "ghz": "GHz",
    "cal_molK": "cal/(mol K)", "kcal_mol": "kcal/mol", "kj_mol": "kJ/mol",
}  # fmt: skip


def split_unit(name: str) -> tuple[str, str]:
    """Splits a name such as alpha_bohr3 into the property and its unit, "" if it names none.

    Example:
        >>> split_unit("Cv_cal_molK"), split_unit("homo_energy")
        (('Cv', 'cal/(mol K)'), ('homo_energy', ''))
    """
    for suffix, unit in _UNITS.items():
        if name.endswith(f"_{suffix}"):
            return name.removesuffix(f"_{suffix}"), unit
    return name, ""


def read_npz(stream: IO[bytes], path: Path) -> Iterator[Record]:
    """Yields the molecules of a packed npz.

    Raises:
        ValueError: If it is not a whole npz with these arrays.
    """
    try:
        structures, units = _structures(load_arrays(stream))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cannot read {path}: {error}; it must be a whole npz with the arrays "
            f"{', '.join(KEYS)} (pos_1e4A in 1e-4 Angstrom)"
        ) from error
    names = structures.name or ("",) * len(structures)
    columns = {
        name: column.tolist() if column.ndim == 1 else column
        for name, column in structures.properties.items()
    }
    local = structures.bond.split(structures) if structures.bond is not None else repeat(None)
    for i, ((number, position), bond) in enumerate(zip(structures, local, strict=False)):
        where = names[i] or f"molecule {i + 1}"
        known = {name: column[i] for name, column in columns.items()}
        table = None if bond is None else np.stack([*bond.pair, bond.order])
        yield Record(
            where, names[i], number, position, structures.charges(i), known, units, bond=table
        )


def load_arrays(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an npz by name; nothing is unpickled.

    Raises:
        ValueError: If it is not a whole npz, whatever numpy and zipfile make of it.
    """
    zipped = stream.read(2) == b"PK"
    stream.seek(0)
    if not zipped:
        raise ValueError("it is no zip file")
    try:
        with np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # a broken zip or header fails in a dozen ways
        raise ValueError(str(error) or type(error).__name__) from error


def _check(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Refuses what numpy would take for numbers all the same."""
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise ValueError(f"keys {', '.join(missing)} are missing")
    for key, kinds in {"pos_1e4A": "iuf", "z": "iu", "n_atoms": "iu", "props": "biuf"}.items():
        if key in arrays and arrays[key].dtype.kind not in kinds:
            numbers = "numbers" if "f" in kinds else "whole numbers"
            raise ValueError(f"{key} must hold {numbers}, not {arrays[key].dtype}")
    number, count = arrays["z"], arrays["n_atoms"]
    if number.ndim != 1 or count.ndim != 1:
        raise ValueError(
            f"z must be (atoms,) and n_atoms (molecules,), not {number.shape} and {count.shape}"
        )
    if count.min(initial=1) > 0 and count.max(initial=0) > number.size:
        raise ValueError(f"n_atoms has {count.max()} atoms of {number.size} in z")


def _structures(arrays: Mapping[str, NDArray[Any]]) -> tuple[Structures, dict[str, str]]:
    _check(arrays)
    position, number, count = (arrays[key] for key in KEYS)
    name = tuple(str(text) for text in arrays.get("name", ()))
    name = name or tuple(f"gdb {i}" for i in arrays.get("gdb_index", ()))
    charge = arrays.get("charge", np.zeros(0, np.int8))
    if charge.size and (charge.dtype.kind not in "iu" or np.abs(charge).max() > 127):
        raise ValueError(f"charge must hold small whole numbers, not {charge.dtype}")
    properties, units = _properties(arrays, len(count))
    size = count.astype(np.int64)
    bond = _bonds(arrays, size)
    return Structures(position / 1e4, number, size, name, charge, properties, bond), units


def _bonds(arrays: Mapping[str, NDArray[Any]], count: NDArray[np.int64]) -> Bonds | None:
    """The bonds of an npz, if it has any."""
    given = [key for key in BONDS if key in arrays]
    if not given:
        return None
    if len(given) < len(BONDS):
        raise ValueError(f"bonds are {' and '.join(BONDS)}, it has {given[0]} only")
    pair, order = (arrays[key] for key in BONDS)
    whole = pair.dtype.kind in "iu" and order.dtype.kind in "iu"
    if not whole or order.ndim != 1 or pair.shape != (2, len(order)):
        raise ValueError(
            "bond_pair must be whole numbers (2, bonds) and bond_order (bonds,), not "
            f"{pair.dtype} {pair.shape} and {order.dtype} {order.shape}"
        )
    owner = np.repeat(np.arange(len(count)), count)
    if pair.size and not (pair.min() >= 0 and pair.max() < len(owner)):
        raise ValueError(f"bond_pair must hold atoms 0 to {len(owner) - 1}, it has others")
    table = tidy(pair.astype(np.int64), order.astype(np.int64))
    return Bonds(table[:2], table[2], owner[table[0]])


def _properties(
    arrays: Mapping[str, NDArray[Any]], molecules: int
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    found, units = dict[str, NDArray[Any]](), dict[str, str]()
    if "props" in arrays and "prop_names" in arrays:
        props, names = arrays["props"], [str(name) for name in arrays["prop_names"]]
        if props.shape != (molecules, len(names)):
            raise ValueError(
                f"props is {props.shape}, but there are {molecules} molecules and "
                f"{len(names)} prop_names"
            )
        for column, (name, unit) in zip(props.T, map(split_unit, names), strict=True):
            found[name] = column
            units |= {name: unit} if unit else {}
    for key, array in arrays.items():
        most = {"b": 2, "i": 2, "u": 2, "f": 2, "U": 1}.get(array.dtype.kind, 0)
        usable = 1 <= array.ndim <= most and array.size
        if key not in _OWN and usable and len(array) == molecules:
            found[key.removeprefix(PREFIX)] = array
    return found, units
