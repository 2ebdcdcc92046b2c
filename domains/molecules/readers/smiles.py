"""Lists of SMILES: lines `SMILES [name]`, or tables with a column `smiles`.

The 3-D coordinates come from `embedding.embed`, the bonds from the SMILES, kekulized. Other
columns of a table are properties, but for `name`. A record is one molecule: salts and mixtures are
skipped, and so are radicals.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from structdiff.domains.molecules.readers.records import Record, Skipped

__all__ = ["read_list", "read_table"]


class Entry(NamedTuple):
    """A line of a list."""

    where: str
    smiles: str
    name: str
    properties: dict[str, str]


def read_list(lines: Iterable[str], max_atoms: int) -> Iterator[Record | Skipped]:
    """Reads lines `SMILES [name]`; a first line that begins with `smiles` and # lines are not."""
    entries = []
    for at, line in enumerate(lines, 1):
        smiles, *name = line.split(maxsplit=1)[:2] or [""]
        if smiles and not smiles.startswith("#") and not (at == 1 and smiles.lower() == "smiles"):
            entries.append(Entry(f"line {at}", smiles, " ".join(" ".join(name).split()), {}))
    yield from _embedded(entries, max_atoms)


def read_table(lines: Iterable[str], path: Path, max_atoms: int) -> Iterator[Record | Skipped]:
    """Reads a table with a header; cells are split by commas, tabs or semicolons.

    Raises:
        ValueError: If no column is called smiles, or two have one name.
    """
    rows = iter(lines)
    header = next((line for line in rows if line.strip()), "")
    table = csv.reader(chain([header], rows), delimiter=_delimiter(header))
    entries: list[Entry | Skipped] = []
    try:
        columns = [cell.strip() for cell in next(table, [])]
        lower = [column.lower() for column in columns]
        if "smiles" not in lower:
            shown = ", ".join(columns[:20])[:300]
            raise ValueError(
                f"{path} has no column smiles, it has: {shown}; rename the one that holds SMILES"
            )
        twice = sorted({c for c in lower if c and lower.count(c) > 1})
        if twice:
            raise ValueError(f"{path} has two columns called {', '.join(twice)}; rename one")
        for row in table:
            if any(cell.strip() for cell in row):
                entries.append(_entry(row, columns, lower, f"line {table.line_num}"))
    except csv.Error as error:
        entries.append(Skipped(f"line {table.line_num}", f"broken table: {error}"))
    yield from (entry for entry in entries if isinstance(entry, Skipped))
    yield from _embedded([e for e in entries if isinstance(e, Entry)], max_atoms)


def _delimiter(header: str) -> str:
    """The mark that sets a cell `smiles` free, else the most frequent one."""
    for mark in ",\t;":
        if "smiles" in [cell.strip(' "').lower() for cell in header.split(mark)]:
            return mark
    return max(",\t;", key=header.count)


def _entry(row: list[str], columns: list[str], lower: list[str], where: str) -> Entry | Skipped:
    if len(row) != len(columns):
        return Skipped(where, f"not {len(columns)} cells as in the header")
    cells = dict(zip(columns, row, strict=True))
    smiles = row[lower.index("smiles")].strip()
    name = row[lower.index("name")].strip() if "name" in lower else ""
    kept = {c: v for c, v in cells.items() if c and c.lower() not in ("smiles", "name")}
    return Entry(where, smiles, " ".join(name.split()), kept)


def _embedded(entries: list[Entry], max_atoms: int) -> Iterator[Record | Skipped]:
    from structdiff.domains.molecules.readers.embedding import embed

    made = embed([entry.smiles for entry in entries], max_atoms=max_atoms)
    for (where, smiles, name, properties), found in zip(entries, made, strict=True):
        if found.reason:
            short = smiles if len(smiles) <= 60 else f"{smiles[:60]}..."
            yield Skipped(f"{where} ({short})" if short.isprintable() else where, found.reason)
        else:
            position = found.position / np.float64(1e4)
            yield Record(
                where, name, found.number, position, found.charge, properties,
                isotopes=found.isotopes, bond=found.bond,
            )  # fmt: skip
