"""Tables as CSV files, written whole or not at all."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from structdiff.artifacts.store import write_atomic

__all__ = ["Cell", "write_csv"]

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
    write_atomic(path, text.getvalue().encode())


def _text(cell: Cell, digits: int) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.{digits}g}"
    return str(cell)
