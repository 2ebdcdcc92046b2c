"""Columns of equal length, which rows are broken, and what is asked of whatever holds columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fault", "Given", "Source", "Table", "flat_names"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fault:
    """Rows that share something that is wrong.

    Arguments:
        rows: Which, `(N,)` of bool.
        reason: What is wrong with each of them.
        first: What the first of them has.
        fix: How to mend it.
    """

    rows: NDArray[np.bool_]
    reason: str
    first: str
    fix: str


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, in the units of whoever wrote them.

    Arguments:
        columns: Name to values, `(N,)`, or `(N, *event)` where one column is an array.
        number: Which row of its source each is, `(N,)`; by default 0, 1, 2, ...
        place: What the source calls a row: line (from 1) or row (from 0).
        faults: Rows that could not be read; their numbers are NaN.

    Raises:
        ValueError: If there is no column, or the lengths differ.

    Example:
        >>> table = Table({"lat": np.array([52.5, 48.9]), "cov": np.ones((2, 1, 2))})
        >>> len(table), list(table.flat())
        (2, ['lat', 'cov_1_1', 'cov_1_2'])
    """

    columns: Mapping[str, NDArray[Any]]
    number: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    place: str = "row"
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            msg = f"columns must be at least one, all of one length, got {lengths}"
            raise ValueError(msg)
        if not len(self.number):
            object.__setattr__(self, "number", np.arange(len(self)))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def where(self, row: int) -> str:
        """What to call a row in an error."""
        return f"{self.place} {self.number[row]}"

    def select(self, rows: NDArray[Any]) -> Table:
        """These rows, of which none may be broken."""
        chosen = {name: column[rows] for name, column in self.columns.items()}
        return Table(chosen, self.number[rows], self.place)

    def flat(self) -> dict[str, list[Any]]:
        """Every number a cell of its own: the column cov of matrices is cov_1_1, cov_1_2, ..."""
        found = dict[str, list[Any]]()
        for name, column in self.columns.items():
            cells = column.reshape(len(column), -1).T.tolist()
            found |= dict(zip(flat_names(name, column.shape[1:]), cells, strict=True))
        return found


def flat_names(name: str, shape: Sequence[int]) -> list[str]:
    """The names of the entries of a column, counted from 1.

    Example:
        >>> flat_names("cov", (2, 2)), flat_names("lat", ())
        (['cov_1_1', 'cov_1_2', 'cov_2_1', 'cov_2_2'], ['lat'])
    """
    places = product(*(range(1, size + 1) for size in shape))
    return ["_".join([name, *map(str, place)]) for place in places]


class Source(ABC):
    """A file of columns that is looked at before it is read.

    Attributes:
        name: What errors call it.
        shapes: Name of each column to the shape of its entries: `()` for a number or a word.
        named: Whether the file gives names; else they are column_1, column_2, ...
        notes: What one should know of how it is read.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    named: bool
    notes: tuple[str, ...]

    @abstractmethod
    def head(self) -> Table:
        """Its first rows: the columns that hold numbers."""

    @abstractmethod
    def read(self, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
        """These columns.

        Arguments:
            numbers: Names of columns of numbers.
            words: Names of columns that are read as words.

        Raises:
            ValueError: If the file is damaged, or columns are not what they are asked to be.
        """


class Given(Source):
    """A table that is there already.

    Arguments:
        table: The table.
        name: What errors call it.
        notes: What one should know of it.
    """

    named = True

    def __init__(self, table: Table, name: str = "the table", notes: tuple[str, ...] = ()) -> None:
        self._table, self.name, self.notes = table, name, notes
        self.shapes = {name: column.shape[1:] for name, column in table.columns.items()}

    def head(self) -> Table:
        """All of it that is numbers."""
        numbers = {n: c for n, c in self._table.columns.items() if c.dtype.kind in "iuf"}
        return Table(numbers or {"": np.zeros(len(self._table))})

    def read(self, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
        """All of it."""
        del numbers, words
        return self._table
