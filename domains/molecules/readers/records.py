"""What a reader yields: records and reasons; how records become packed molecules.

A property is numeric if every known value is a number: float64 with NaN where unknown. If every
known value is d > 1 numbers it is `(molecules, d)`. Else it holds words as they are written, ""
where unknown. Unknown are empty cells and nan, and among numbers the marks NA, N/A, null, None, -,
? and . too. What is numeric in half of its cells or more, but not in all, is noted, and so is a
field with words longer than 256 characters, which is left out.

Bonds are kept if every molecule has them; else all are dropped, which is noted: a model is trained
on the bonds of all its molecules, and distances give them where they are not known. Where bonds
are wanted and few molecules have none, or none has hydrogens, without which distances do not
tell, those few are skipped instead.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdiff.domains.molecules.structures import (
    Bonds,
    Integers,
    Structures,
    distances,
    pairs,
)

__all__ = ["MISSING", "Loaded", "Record", "Skipped", "columns", "gather", "reported", "tidy"]

COINCIDENT = 1e-3  # Angstrom
LONGEST = 256  # characters of a word
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?", "."})
_BARE = "its bonds are not known, those of the others are"
_WORD = (-1,)  # in place of the shape of numbers
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
Value: TypeAlias = float | tuple[float, ...] | str | None


class Record(NamedTuple):
    """One molecule of a file; without a name it is called by its place.

    `bond` has the atoms i < j, counted from 0, and the order of each bond, `(3, bonds)`; it is
    None if the bonds are not known.
    """

    where: str
    name: str
    number: ArrayLike
    position: ArrayLike
    charge: ArrayLike | None = None
    properties: Mapping[str, object] = _NOTHING
    units: Mapping[str, str] = _NOTHING
    isotopes: bool = False
    bond: Integers | None = None


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
        return reported(len(self.structures), self.skipped, self.notes, shown)


def reported(read: int, skipped: Sequence[Skipped], notes: Sequence[str], shown: int = 3) -> str:
    """How many were read, and what was skipped by reason with the first few places of each."""
    lines = [f"{read:,} molecules read, {len(skipped):,} skipped"]
    for reason, number in Counter(s.reason for s in skipped).most_common():
        where = [s.where for s in skipped if s.reason == reason][:shown]
        more = ", ..." if number > len(where) else ""
        lines.append(f"  {number:,} x {reason}: {', '.join(where)}{more}")
    return "\n".join([*lines, *(f"  {note}" for note in notes)])


def gather(items: Iterable[Record | Skipped], max_atoms: int, *, bonded: bool = False) -> Loaded:
    """Packs the records whose geometry can be used.

    Arguments:
        items: What a reader yields.
        max_atoms: The largest molecule that is kept.
        bonded: Whether to skip the few molecules whose bonds are not known.
    """
    records, skipped = list[Record](), list[Skipped]()
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            records.append(item)
    packed = _pack(records)
    left, faults = _screen(packed, [record.where for record in records], max_atoms)
    if bonded:
        left, bare = _bonded(records, packed, left)
        faults += bare
    records = [records[i] for i in left.tolist()]
    places = [record.where for record in records]
    known, remarks = columns([record.properties for record in records], places)
    labelled = sum(record.isotopes for record in records)
    notes = [f"{labelled:,} molecules with isotopes: the labels were dropped"] * (labelled > 0)
    structures = packed.select(left).with_properties(known)
    bond, dropped = _bonds(records, structures)
    units = {name: unit for record in reversed(records) for name, unit in record.units.items()}
    return Loaded(
        replace(structures, bond=bond),
        (*skipped, *faults),
        {name: units[name] for name in known if name in units},
        (*notes, *dropped, *remarks),
        tuple(places),
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


def _bonded(
    records: Sequence[Record], packed: Structures, left: Integers
) -> tuple[Integers, list[Skipped]]:
    """The records to keep, and the few whose bonds are not known while those of others are."""
    bare = np.array([records[i].bond is None for i in left.tolist()], np.bool_)
    if not bare.any() or bare.all():
        return left, []
    if 2 * int(bare.sum()) >= len(bare) and (packed.select(left).number == 1).any():
        return left, []
    return left[~bare], [Skipped(records[i].where, _BARE) for i in left[bare].tolist()]


def _bonds(records: Sequence[Record], structures: Structures) -> tuple[Bonds | None, list[str]]:
    """The bonds of packed records if all have them, and a remark if only some have."""
    bare = [record for record in records if record.bond is None]
    if bare:
        some = len(records) - len(bare)
        note = (
            f"bonds of {some:,} molecules are dropped: {len(bare):,} have none that are known, "
            f"the first {bare[0].where}"
        )
        return None, [note] * (some > 0)
    tables = [record.bond for record in records if record.bond is not None]
    whole = np.concatenate([np.zeros((3, 0), np.int64), *tables], axis=1)
    molecule = np.repeat(np.arange(len(records)), [table.shape[1] for table in tables])
    return Bonds(whole[:2] + structures.offsets[molecule], whole[2], molecule), []


def tidy(pair: Integers, order: Integers) -> Integers:
    """Bonds in the order of their atoms, each with the lower one first, `(3, bonds)`.

    Raises:
        ValueError: If two atoms have two bonds, or an atom has one with itself.

    Example:
        >>> tidy(np.array([[0, 2], [1, 0]]), np.array([2, 1])).tolist()
        [[0, 0], [1, 2], [2, 1]]
    """
    low, high = pair.min(0), pair.max(0)
    place = np.lexsort((high, low))
    table = np.stack([low, high, order])[:, place].astype(np.int64)
    twice = (np.diff(table[:2]) == 0).all(0)
    if twice.any() or (low == high).any():
        raise ValueError("bonds must join two different atoms, each pair once")
    return table


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
    rows: Sequence[Mapping[str, object]], where: Sequence[str] = ()
) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Turns the properties of each molecule into columns.

    Arguments:
        rows: What is known of each molecule, by name; a number, numbers, or text.
        where: Where each molecule stands, for the remarks.

    Returns:
        The columns by name, and remarks on those that are left out or nearly numeric.

    Example:
        >>> columns([{"a": "1.5", "b": "x"}, {"a": "n/a", "b": "02"}])[0]
        {'a': array([1.5,  nan]), 'b': array(['x', '02'], dtype='<U2')}
    """
    found, notes, long = dict[str, NDArray[Any]](), list[str](), list[str]()
    for name in dict.fromkeys(name for row in rows for name in row):
        cells = [row.get(name) for row in rows]
        values = [_parse(cell) for cell in cells]
        shape, odd = _numeric(values)
        if shape is None and not odd:
            continue
        if shape is not None and not odd:
            found[name] = _table(values, shape)
            continue
        words = [
            "" if value is None or (shape is not None and _missing(value)) else _words(cell)
            for cell, value in zip(cells, values, strict=True)
        ]
        if max(map(len, words)) > LONGEST:
            long.append(name)
            continue
        found[name] = np.array(words, np.str_)
        if shape is not None:
            place = f" ({where[odd[0]]})" if where else ""
            notes.append(
                f"property {name!r} is numeric but for {len(odd):,} cell{'s' * (len(odd) > 1)}, "
                f"the first {_short(words[odd[0]])!r}{place}: taken as words"
            )
    notes += [f"left out, words over {LONGEST} characters: {', '.join(long)}"] * bool(long)
    return found, notes


def _numeric(values: Sequence[Value]) -> tuple[tuple[int, ...] | None, list[int]]:
    """The shape that at least half of the known values have as numbers, and who has it not."""
    shapes = [None if value is None or _missing(value) else _shape(value) for value in values]
    counts = Counter(shape for shape in shapes if shape is not None)
    usual = max(
        (shape for shape in counts if shape != _WORD), key=counts.__getitem__, default=None
    )
    if usual is None or 2 * counts[usual] < counts.total():
        return None, [i for i, shape in enumerate(shapes) if shape is not None]
    return usual, [i for i, shape in enumerate(shapes) if shape not in (None, usual)]


def _shape(value: Value) -> tuple[int, ...]:
    if isinstance(value, str):
        return _WORD
    return (len(value),) if isinstance(value, tuple) else ()


def _missing(value: Value) -> bool:
    return isinstance(value, str) and value.lower() in MISSING


def _table(values: Sequence[Value], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of one shape, NaN where nothing is known."""
    blank = (math.nan,) * shape[0] if shape else math.nan
    return np.array([blank if v is None or isinstance(v, str) else v for v in values], np.float64)


def _words(cell: object) -> str:
    """A cell as it is written, but for white space."""
    if isinstance(cell, str):
        return " ".join(cell.split())
    return " ".join(f"{x:.16g}" for x in np.ravel(np.asarray(cell, np.float64)))


def _short(word: str) -> str:
    return word if len(word) <= 24 else f"{word[:24]}..."


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
