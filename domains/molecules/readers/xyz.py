"""XYZ files: plain, extended (`key=value` in the comment) and those of QM9."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np

from structdiff.domains.molecules.readers.records import MISSING, Record, Skipped
from structdiff.domains.molecules.structures import NUMBERS, SYMBOLS

__all__ = ["QM9_UNITS", "read_xyz"]

# What stands behind `gdb INDEX` in a file of QM9, in this order.
QM9_UNITS = {
    "A": "GHz", "B": "GHz", "C": "GHz", "mu": "D", "alpha": "bohr^3", "homo": "Ha", "lumo": "Ha",
    "gap": "Ha", "r2": "bohr^2", "zpve": "Ha", "U0": "Ha", "U": "Ha", "H": "Ha", "G": "Ha",
    "Cv": "cal/(mol K)",
}  # fmt: skip
_PAIR = re.compile(r"([A-Za-z_][\w.\-]*)=(\"[^\"]*\"|'[^']*'|\S+)")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_CELL = ("lattice", "pbc", "properties", "name")  # keys that are no property of the molecule
_HYDROGEN = ("D", "T")
_PLAIN = (0, slice(1, 4))  # columns of the element and of the coordinates


def read_xyz(lines: Iterable[str]) -> Iterator[Record | Skipped]:
    """Reads XYZ blocks: a number of atoms, a comment, then `symbol x y z` per atom."""
    rows = enumerate(lines, 1)
    lost = False
    for at, line in rows:
        head = line.strip()
        if head.isdecimal() and len(head) < 10:
            block = [row for _, row in islice(rows, int(head) + 1)]
            lost = _qm9(block[0]) is not None if block else False  # QM9's three lines follow
            yield _record(block, int(head), f"line {at}")
        elif head and not lost:
            lost = True
            yield Skipped(f"line {at}", "expected a number of atoms")


def _record(rows: list[str], count: int, where: str) -> Record | Skipped:
    name, properties, (element, place) = _comment(rows[0] if rows else "")
    units: Mapping[str, str] = {}
    qm9 = _qm9(rows[0]) if rows else None
    if qm9 is not None:
        (name, properties), units = qm9, QM9_UNITS
    table = [row.split() for row in rows[1:]]
    least = max(element + 1, place.stop)
    if count == 0 or len(table) < count or any(len(cells) < least for cells in table):
        return Skipped(where, f"broken XYZ block: not {count} rows of `symbol x y z`")
    symbols = [c if (c := cells[element]).isdecimal() else c.capitalize() for cells in table]
    labelled = [s in _HYDROGEN for s in symbols]
    symbols = ["H" if label else s for s, label in zip(symbols, labelled, strict=True)]
    number = [int(s[:4]) if s.isdecimal() else NUMBERS.get(s, 0) for s in symbols]
    bad = [s for s, z in zip(symbols, number, strict=True) if not 0 < z < len(SYMBOLS)]
    if bad:
        return Skipped(where, f"unknown element symbol {bad[0]!r}")
    try:  # QM9's own files write 1e-6 as 1*^-6
        position = [[float(cell.replace("*^", "e")) for cell in cells[place]] for cells in table]
    except ValueError:
        return Skipped(where, "broken XYZ block: a coordinate is not a number")
    return Record(
        where, name, np.array(number, np.uint8), np.array(position), None, properties, units,
        isotopes=any(labelled),
    )  # fmt: skip


def _comment(text: str) -> tuple[str, dict[str, str], tuple[int, slice]]:
    """The name, the properties and the columns of a comment.

    Without `Properties=` only pairs with a number, or a mark for a missing one, count: CC=O is a
    name.
    """
    found = {key: value.strip("\"'") for key, value in _PAIR.findall(text)}
    keys = {key.lower(): value for key, value in found.items()}
    if "properties" in keys:
        kept = {key: value for key, value in found.items() if key.lower() not in _CELL}
        return keys.get("name", ""), kept, _columns(keys["properties"])
    kept = {
        key: value
        for key, value in found.items()
        if _NUMBER.fullmatch(value) or value.lower() in MISSING
    }
    name = _PAIR.sub(lambda pair: "" if pair[1] in kept else pair[0], text)
    return " ".join(name.split()), kept, _PLAIN


def _columns(layout: str) -> tuple[int, slice]:
    """Finds species and pos in `species:S:1:pos:R:3:...`, or takes the plain order."""
    cells, at, found = layout.lower().split(":"), 0, dict[str, int]()
    for name, width in zip(cells[::3], cells[2::3], strict=False):
        found[name] = at
        at += int(width[:6]) if width.isdecimal() else 1
    element = found.get("species", found.get("z", 0))
    start = found.get("pos", 1)
    return element, slice(start, start + 3)


def _qm9(comment: str) -> tuple[str, dict[str, str]] | None:
    """The name and the properties of a comment `gdb INDEX`, then fifteen numbers."""
    cells = comment.replace("*^", "e").split()
    if len(cells) != 2 + len(QM9_UNITS) or cells[0] not in ("gdb", "gdb9"):
        return None
    if not all(_NUMBER.fullmatch(cell) for cell in cells[1:]):
        return None
    return f"gdb {cells[1]}", dict(zip(QM9_UNITS, cells[2:], strict=True))
