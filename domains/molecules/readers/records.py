"""What a reader yields: records and reasons; how records become packed molecules.

A property is numeric if every known value is a number: float64 with NaN where unknown. If every
known value is d > 1 numbers it is `(molecules, d)`. Else it holds words, "" where unknown. A field
with words longer than 256 characters is left out, and noted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdiff.domains.molecules.structures import Structures, distances, pairs

__all__ = ["Loaded", "Record", "Skipped", "columns", "gather"]

COINCIDENT = 1e-3  # Angstrom
LONGEST = 256  # characters of a word
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
Value: TypeAlias = float | tuple[float, ...] | str | None


class Record(NamedTuple):
    """One molecule of a file; without a name it is called by its place."""

    where: str
    name: str
    number: ArrayLike
    position: ArrayLike
    charge: ArrayLike | None = None
    properties: Mapping[str, object] = _NOTHING
    units: Mapping[str, str] = _NOTHING
    isotopes: bool = False


@dataclass(frozen=True)
class Skipped:
    """A record that was not read: where it stands and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What was read and what was skipped, the units of properties that say theirs, and remarks.

    `where` says of each molecule where it stands.
    """

    structures: Structures
    skipped: tuple[Skipped, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    where: tuple[str, ...] = ()

    def report(self, shown: int = 3) -> str:
        """Counts the skipped records by reason and names the first few of each."""
        lines = [f"{len(self.structures):,} molecules read, {len(self.skipped):,} skipped"]
        for reason, number in Counter(s.reason for s in self.skipped).most_common():
            where = [s.where for s in self.skipped if s.reason == reason][:shown]
            more = ", ..." if number > len(where) else ""
            lines.append(f"  {number:,} x {reason}: {', '.join(where)}{more}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def gather(items: Iterable[Record | Skipped], max_atoms: int) -> Loaded:
    """Packs the records whose geometry can be used.

    Arguments:
        items: What a reader yields.
        max_atoms: The largest molecule that is kept.
    """
    records, skipped = list[Record](), list[Skipped]()
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            records.append(item)
    packed = _pack(records)
    left, faults = _screen(packed, [record.where for record in records], max_atoms)
    records = [records[i] for i in left.tolist()]
    known, long = columns([record.properties for record in records])
    labelled = sum(record.isotopes for record in records)
    notes = [f"{labelled:,} molecules with isotopes: the labels were dropped"] * (labelled > 0)
    notes += [f"left out, words over {LONGEST} characters: {', '.join(long)}"] * bool(long)
    units = {name: unit for record in reversed(records) for name, unit in record.units.items()}
    return Loaded(
        packed.select(left).with_properties(known),
        (*skipped, *faults),
        {name: units[name] for name in known if name in units},
        tuple(notes),
        tuple(record.where for record in records),
    )


def _pack(records: Sequence[Record]) -> Structures:
    number = [np.asarray(record.number, dtype=np.uint8) for record in records]
    position = [np.asarray(record.position, dtype=np.float64) for record in records]
    charge = [
        np.zeros(len(z), np.int8) if record.charge is None else np.asarray(record.charge, np.int8)
        for record, z in zip(records, number, strict=True)
    ]
    return Structures(
        np.concatenate([np.zeros((0, 3)), *position]),
        np.concatenate([np.zeros(0, np.uint8), *number]),
        np.array([len(z) for z in number], dtype=np.int64),
        tuple(record.name or record.where for record in records),
        np.concatenate([np.zeros(0, np.int8), *charge]),
    )


def _screen(
    structures: Structures, where: Sequence[str], max_atoms: int
) -> tuple[NDArray[np.int64], list[Skipped]]:
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
        skipped += [Skipped(where[i], reason) for i in np.flatnonzero(mask & left).tolist()]
        left &= ~mask
    return np.flatnonzero(left), skipped


def columns(
    rows: Sequence[Mapping[str, object]],
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Turns the properties of each molecule into columns.

    Arguments:
        rows: What is known of each molecule, by name; a number, numbers, or text.

    Returns:
        The columns by name, and the names of those that are left out for their long words.

    Example:
        >>> columns([{"a": "1.5", "b": "x"}, {"b": "2"}])[0]
        {'a': array([1.5, nan]), 'b': array(['x', '2'], dtype='<U1')}
    """
    found, long = dict[str, NDArray[Any]](), list[str]()
    for name in dict.fromkeys(name for row in rows for name in row):
        column = _column([_parse(row.get(name)) for row in rows])
        if column.dtype.kind == "U" and column.dtype.itemsize > 4 * LONGEST:
            long.append(name)
        elif column.size:
            found[name] = column
    return found, long


def _column(values: Sequence[Value]) -> NDArray[Any]:
    """Numbers, rows of numbers, or words; empty if nothing is known."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, float) for value in known):
        return np.array([np.nan if v is None else v for v in values] if known else [], np.float64)
    widths = {len(value) if isinstance(value, tuple) else 0 for value in known}
    if len(widths) == 1 and 0 not in widths:
        blank = (math.nan,) * widths.pop()
        return np.array([blank if v is None else v for v in values], np.float64)
    words = [_words(value) for value in values]
    if max(map(len, words)) > LONGEST:
        return np.array(["x" * (LONGEST + 1)])
    return np.array(words, dtype=np.str_)


def _words(value: Value) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{x:.16g}" for x in value)
    return value if isinstance(value, str) else "" if value is None else f"{value:.16g}"


def _parse(value: object) -> Value:
    """A number, several numbers, a word, or None where nothing is known."""
    if isinstance(value, int | float):
        return None if math.isnan(value) else float(value)
    if value is None:
        return None
    if not isinstance(value, str):
        row = np.asarray(value, dtype=np.float64)
        return None if np.isnan(row).all() else tuple(row.tolist())
    cells = value.split()
    unknown = [cell.lower() == "nan" for cell in cells]
    if all(unknown):
        return None
    if not all(n or _NUMBER.fullmatch(c) for n, c in zip(unknown, cells, strict=True)):
        return " ".join(cells)
    return tuple(float(cell) for cell in cells) if len(cells) > 1 else float(cells[0])
