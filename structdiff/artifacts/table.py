"""Tables as CSV files, written whole or not at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from structdiff.artifacts.store import write_atomic

__all__ = ["Cell", "check_table", "csv_text", "facts_of", "write_csv"]

Cell = str | int | float


def write_csv(path: Path, columns: Mapping[str, Sequence[Cell]], *, digits: int = 8) -> None:
    """Write columns of equal length under their names; NaN is an empty cell.

    Arguments:
        path: The file.
        columns: Name to the cells, from the left.
        digits: Significant digits of floats.

    Raises:
        ValueError: If the lengths differ.
        OSError: If the file cannot be written.
    """
    write_atomic(path, csv_text(columns, digits=digits).encode())


def csv_text(columns: Mapping[str, Sequence[Cell]], *, digits: int = 8) -> str:
    r"""Columns of equal length as the text of a CSV file.

    Arguments:
        columns: Name to the cells, from the left.
        digits: Significant digits of floats; NaN is an empty cell.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> csv_text({"name": ["a"], "value": [0.5]})
        'name,value\na,0.5\n'
    """
    if len({len(column) for column in columns.values()}) > 1:
        lengths = {name: len(column) for name, column in columns.items()}
        msg = f"columns must have one length, got {lengths}"
        raise ValueError(msg)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(
        [_text(cell, digits) for cell in row] for row in zip(*columns.values(), strict=True)
    )
    return text.getvalue()


def facts_of(path: Path) -> Path:
    """Where it is told what the numbers of a table are."""
    return path.with_suffix(".json")


def check_table(*paths: Path, overwrite: bool) -> None:
    """Refuse, before any work is done, a table that cannot or must not be written.

    Arguments:
        paths: The table, and what is written beside it.
        overwrite: Whether they may be replaced.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the table is not a .csv, or something is there.
    """
    table = paths[0]
    if table.suffix.lower() != ".csv":
        msg = f"cannot write {table}: scores are a .csv; choose such a name"
        raise ValueError(msg)
    if not table.parent.is_dir():
        msg = f"no such folder: {table.parent}; create it first"
        raise FileNotFoundError(msg)
    for path in paths:
        if path.exists() and not overwrite:
            msg = f"{path} exists; choose another name, or allow --overwrite"
            raise ValueError(msg)


def _text(cell: Cell, digits: int) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.{digits}g}"
    return str(cell)
