"""Tables of text: comma, tab, semicolon or blanks between cells, with or without a header.

Lines that are blank or begin with # are left out. The header is the first line before any number
that has as many cells as the rows below it; without one, columns are called 1, 2, 3, ... Only
columns that are asked for are kept, as numbers, block by block.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.manifolds.readers.files import text_lines
from structdiff.domains.manifolds.readers.table import Fault, Floats, Source, Table

__all__ = ["TextTable"]

_LEAD = 1000  # lines that are looked at before reading
_BLOCK = 1 << 15  # rows
_MOST = 1 << 27  # numbers kept of a file, 1 GiB
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "-", "?", ".", "--"))
_DELIMITERS = ("\t", ";", ",", None)
_NAMES = {"\t": "tabs", ";": "semicolons", ",": "commas", None: "blanks"}

Lines = list[tuple[int, str]]


class _Cells(NamedTuple):
    """Rows of a block: the cells that were asked for."""

    number: list[int]
    cells: list[list[str]]
    ragged: list[int]  # how many cells a row has that has the wrong number, else 0


class TextTable(Source):
    """A table of text.

    Arguments:
        path: The file, also packed as .gz or .xz.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, no text, or has no number.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        lead, comment = _lead(path)
        if not lead:
            what = "only comments and blank lines" if comment else "empty"
            msg = f"{path} is {what}: give a table, one row of numbers a line"
            raise ValueError(msg)
        self._delimiter = _delimiter(lead)
        rows = [(number, _split(line, self._delimiter)) for number, line in lead]
        first = next((i for i, (_, r) in enumerate(rows) if any(map(_is_number, r))), None)
        if first is None:
            msg = (
                f"{path} has no number in its first {len(lead)} lines, the first of which begins "
                f"{lead[0][1][:40]!r}: give a table of numbers, one row a line"
            )
            raise ValueError(msg)
        self._width = Counter(len(row) for _, row in rows[first:]).most_common(1)[0][0]
        above = [row for _, row in rows[:first]]
        if comment and comment[0] < rows[0][0]:
            above.append(_split(comment[1].lstrip("# "), self._delimiter))
        header = next((row for row in above if self._is_header(row)), None)
        self._start = rows[first][0]
        self.named = header is not None
        self._place = self._columns(header)
        self.shapes = dict.fromkeys(self._place, ())
        form = f"{self._width} columns between {_NAMES[self._delimiter]}"
        said = ", ".join(self._place) if self._width <= 12 else ""
        head = f"header {said}".strip() if self.named else "no header: columns are 1, 2, ..."
        self.notes = (f"{form}; {head}; rows from line {self._start}",)

    def _is_header(self, row: list[str]) -> bool:
        known = [cell for cell in row if cell.lower() not in _MISSING]
        return len(row) == self._width and bool(known) and not any(map(_is_number, row))

    def _columns(self, header: list[str] | None) -> dict[str, int]:
        """Name to place; what is not named, or twice, goes by its number."""
        names = header or [""] * self._width
        count = Counter(names)
        return {
            name if name and count[name] == 1 else str(i): i - 1 for i, name in enumerate(names, 1)
        }

    def head(self) -> Table:
        """The columns whose cells are numbers, of the first rows."""
        block = next(self._blocks([*self._place.values()], _LEAD))
        kept = {}
        for place, name in enumerate(self._place):
            values, unread = _numbers([row[place] for row in block.cells])
            if not unread.any():
                kept[name] = values
        number = np.asarray(block.number, np.int64)
        return Table(kept or {"": np.zeros(len(number))}, number, "line")

    def read(self, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
        """These columns; a row that cannot be read has NaN for numbers, and a fault."""
        wanted = [*dict.fromkeys([*numbers, *words])]
        places = [self._place[name] for name in wanted]
        parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in wanted}
        line, ragged, bad = list[NDArray[np.int64]](), list[NDArray[np.int64]](), _Bad()
        total = 0
        for block in self._blocks(places, _BLOCK):
            total += len(block.number)
            if total * len(wanted) > _MOST:
                msg = f"{self.name} has more than {_MOST:,} numbers: split it into several files"
                raise ValueError(msg)
            line.append(np.asarray(block.number, np.int64))
            ragged.append(np.asarray(block.ragged, np.int64))
            unread = np.zeros(len(block.number), bool)
            for place, name in enumerate(wanted):
                cells = [row[place] for row in block.cells]
                if name in words:
                    parts[name].append(np.asarray(cells, np.str_))
                if name in numbers:
                    values, wrong = _numbers(cells)
                    parts[name].append(values)
                    bad.see(name, cells, wrong & (ragged[-1] == 0))
                    unread |= wrong
            bad.end(unread & (ragged[-1] == 0))
        columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        faults = (*_ragged(np.concatenate(ragged), self._width), *bad.faults())
        return Table(columns, np.concatenate(line), "line", faults)

    def _blocks(self, places: list[int], size: int) -> Iterator[_Cells]:
        block = _Cells([], [], [])
        for number, line in text_lines(self.path):
            if number < self._start or not _counts(line):
                continue
            row = _split(line, self._delimiter)
            whole = len(row) == self._width
            block.number.append(number)
            block.cells.append([row[i] for i in places] if whole else [""] * len(places))
            block.ragged.append(0 if whole else len(row))
            if len(block.number) == size:
                yield block
                block = _Cells([], [], [])
        if block.number:
            yield block


class _Bad:
    """Cells that are no numbers, counted while a table is read."""

    def __init__(self) -> None:
        self._masks, self._first = list[NDArray[np.bool_]](), ""

    def see(self, name: str, cells: list[str], wrong: NDArray[np.bool_]) -> None:
        """Remembers the first one."""
        if not self._first and wrong.any():
            cell = cells[int(wrong.argmax())]
            self._first = f"{name} = {cell[:40]!r}"

    def end(self, wrong: NDArray[np.bool_]) -> None:
        """The rows of a block that have one."""
        self._masks.append(wrong)

    def faults(self) -> list[Fault]:
        """All rows that have one."""
        rows = np.concatenate(self._masks)
        if not rows.any():
            return []
        comma = "," in self._first
        fix = "write decimal points, not commas" if comma else "fill it in, or leave the row out"
        return [Fault(rows, "a cell is missing or no number", self._first, fix)]


def _ragged(cells: NDArray[np.int64], width: int) -> list[Fault]:
    rows = cells > 0
    if not rows.any():
        return []
    first = f"{cells[rows][0]} {'cell' if cells[rows][0] == 1 else 'cells'}"
    fix = f"give every row {width} cells"
    return [Fault(rows, f"not {width} cells as in other rows", first, fix)]


def _lead(path: Path) -> tuple[Lines, tuple[int, str] | None]:
    """The first lines that count, and the last comment before them."""
    lead, comment = list[tuple[int, str]](), None
    for number, line in text_lines(path):
        if _counts(line):
            lead.append((number, line))
        elif not lead and line.strip():
            comment = number, line
        if len(lead) == _LEAD or number > 100 * _LEAD:
            break
    return lead, comment


def _counts(line: str) -> bool:
    text = line.lstrip()
    return bool(text) and not text.startswith("#")


def _delimiter(lead: Lines) -> str | None:
    """What most lines agree on; the earlier of `_DELIMITERS` where several do as well."""
    best, score = ",", 0
    for delimiter in _DELIMITERS:
        counts = Counter(len(_split(line, delimiter)) for _, line in lead[-200:])
        cells, lines = counts.most_common(1)[0]
        if cells > 1 and lines > score:
            best, score = delimiter, lines  # type: ignore[assignment]
    return best


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    except (csv.Error, StopIteration):
        return [line]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in _MISSING


def _numbers(cells: list[str]) -> tuple[Floats, NDArray[np.bool_]]:
    """Cells as numbers, NaN where one is none; and where that is."""
    try:
        values = np.asarray(cells, np.str_).astype(np.float64)
    except ValueError:
        values = np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])
    return values, np.isnan(values)
