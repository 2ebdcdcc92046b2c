"""Tables of text: comma, tab, semicolon or blanks between cells, with or without a header.

Lines that are blank or begin with # are left out. The header is the first line before any number
that has as many cells as the rows below it; without one, columns are called column_1, column_2 and
so on, names that are told from numbers when points are written and read again. Only columns that
are asked for are kept, as numbers, block by block.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class _Block(NamedTuple):
    """Lines that follow each other, with their numbers and how many cells each has."""

    number: NDArray[np.int64]
    lines: list[str]
    cells: NDArray[np.int64]


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
        head = (
            f"header {said}".strip()
            if self.named
            else "no header: columns are column_1, column_2, ..."
        )
        self.notes = (f"{form}; {head}; rows from line {self._start}",)

    def _is_header(self, row: list[str]) -> bool:
        known = [cell for cell in row if cell.lower() not in _MISSING]
        return len(row) == self._width and bool(known) and not any(map(_is_number, row))

    def _columns(self, header: list[str] | None) -> dict[str, int]:
        """Name to place; what is not named, or twice, is called by its number."""
        names = header or [""] * self._width
        count = Counter(names)
        place = {name: i for i, name in enumerate(names) if name and count[name] == 1}
        for i, name in enumerate(names):
            if not name or count[name] > 1:
                free = f"column_{i + 1}"
                while free in place:
                    free += "_"
                place[free] = i
        return dict(sorted(place.items(), key=lambda pair: pair[1]))

    def head(self) -> Table:
        """The columns whose cells are numbers, of the first rows."""
        block = next(self._blocks(_LEAD))
        kept = {}
        for name, place in self._place.items():
            values = _slow(self._column(block, place))
            if not np.isnan(values).any():
                kept[name] = values
        return Table(kept or {"": np.zeros(len(block.lines))}, block.number, "line")

    def read(self, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
        """These columns; a row that cannot be read has NaN for numbers, and a fault."""
        numbers, words = [*dict.fromkeys(numbers)], [*dict.fromkeys(words)]
        parts: list[list[NDArray[Any]]] = [[] for _ in (*numbers, *words)]
        line, ragged, bad = list[NDArray[np.int64]](), list[NDArray[np.int64]](), _Bad()
        total = 0
        for block in self._blocks(_BLOCK):
            total += len(block.lines) * (len(parts) + 2)
            if total > _MOST:
                msg = f"{self.name} has more than {_MOST:,} numbers: split it into several files"
                raise ValueError(msg)
            line.append(block.number)
            ragged.append(np.where(block.cells == self._width, 0, block.cells))
            values, unread = self._numbers(block, [self._place[name] for name in numbers])
            rows = unread.any(1) & (ragged[-1] == 0)
            if rows.any() and not bad.first:
                row = int(rows.argmax())
                name = numbers[int(unread[row].argmax())]
                bad.first = f"{name} = {self._column(block, self._place[name])[row][:40]!r}"
            bad.rows.append(rows)
            for part, column in zip(parts, values.T, strict=False):
                part.append(column)
            for part, column in zip(parts[len(numbers) :], self._words(block, words), strict=True):
                part.append(column)
        columns = {
            name: np.concatenate(part)
            for name, part in zip((*numbers, *words), parts, strict=True)
        }
        faults = (*_ragged(np.concatenate(ragged), self._width), *bad.faults())
        return Table(columns, np.concatenate(line), "line", faults)

    def _numbers(self, block: _Block, places: list[int]) -> tuple[Floats, NDArray[np.bool_]]:
        """Numbers `(rows, columns)`, NaN where a cell is none, and where that is."""
        if self._simple(block):
            try:
                values = self._load(block, places, np.float64)
                return values, np.isnan(values)
            except ValueError:  # some cell is missing or no number
                pass
        values = np.stack([_slow(self._column(block, place)) for place in places], 1)
        return values, np.isnan(values)

    def _words(self, block: _Block, names: list[str]) -> Iterator[NDArray[Any]]:
        """The cells of columns of words."""
        places = [self._place[name] for name in names]
        if places and self._simple(block):
            yield from np.char.strip(self._load(block, places, np.str_)).T
        else:
            yield from (np.asarray(self._column(block, place), np.str_) for place in places)

    def _simple(self, block: _Block) -> bool:
        """Whether numpy can read a block: all rows are whole, and no cell is in quotes."""
        whole = bool((block.cells == self._width).all())
        return whole and not any('"' in line for line in block.lines)

    def _load(self, block: _Block, places: list[int], kind: type[np.generic]) -> NDArray[Any]:
        return np.loadtxt(
            block.lines, kind, delimiter=self._delimiter, usecols=places, comments=None, ndmin=2
        )

    def _column(self, block: _Block, place: int) -> list[str]:
        """The cells of a column; empty in rows that have the wrong number of cells."""
        rows = (_split(line, self._delimiter) for line in block.lines)
        return [row[place] if len(row) == self._width else "" for row in rows]

    def _blocks(self, size: int) -> Iterator[_Block]:
        number, lines = list[int](), list[str]()
        for at, line in text_lines(self.path):
            if at < self._start or not _counts(line):
                continue
            number.append(at)
            lines.append(line)
            if len(lines) == size:
                yield self._block(number, lines)
                number, lines = [], []
        if lines:
            yield self._block(number, lines)

    def _block(self, number: list[int], lines: list[str]) -> _Block:
        cells = [_width(line, self._delimiter) for line in lines]
        return _Block(np.asarray(number, np.int64), lines, np.asarray(cells, np.int64))


class _Bad:
    """Rows with a cell that is no number, gathered while a table is read."""

    def __init__(self) -> None:
        self.rows, self.first = list[NDArray[np.bool_]](), ""

    def faults(self) -> list[Fault]:
        """All of them."""
        rows = np.concatenate(self.rows)
        if not rows.any():
            return []
        comma = "," in self.first.partition(" = ")[2]
        fix = "write decimal points, not commas" if comma else "fill it in, or leave the row out"
        return [Fault(rows, "a cell is missing or no number", self.first, fix)]


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
    text = line[:1] if line[:1].strip() else line.lstrip()[:1]
    return text not in ("", "#")


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


def _width(line: str, delimiter: str | None) -> int:
    if delimiter is None or '"' in line:
        return len(_split(line, delimiter))
    return line.count(delimiter) + 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell.lower() not in _MISSING


def _slow(cells: list[str]) -> Floats:
    """Cells as numbers, NaN where one is none."""
    return np.array([float(cell) if _is_number(cell) else np.nan for cell in cells])
