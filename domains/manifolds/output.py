"""Points as files: .csv, a column for each number under its name in the data, and .npz, arrays.

Angles are in the units of the data. A file is written whole or not at all.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from structdiff.artifacts import write_atomic
from structdiff.artifacts.table import csv_text
from structdiff.domains.manifolds.codec import Table

__all__ = ["SUFFIXES", "check_free", "encode", "write"]

SUFFIXES = (".csv", ".npz")


def encode(suffix: str, table: Table) -> bytes:
    """Points in the format of a suffix."""
    if suffix == ".csv":
        return csv_text(table.flat()).encode()
    buffer = io.BytesIO()
    columns: dict[str, Any] = dict(table.columns)
    np.savez(buffer, **columns)
    return buffer.getvalue()


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuses, before any work is done, a path that cannot or must not be written.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        msg = (
            f"cannot write {path}: the suffix {path.suffix!r} is not known; allowed are "
            f"{', '.join(SUFFIXES)}, or a folder, which has none"
        )
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"no such folder: {path.parent}; create it first"
        raise FileNotFoundError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists; choose another name, or allow --overwrite"
        raise ValueError(msg)


def write(path: Path, table: Table, *, overwrite: bool = False) -> str:
    """Write points in the format of the suffix, and say so.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
        OSError: If the file cannot be written.
    """
    check_free(path, overwrite=overwrite)
    write_atomic(path, encode(path.suffix.lower(), table))
    return f"{len(table):,} points written to {path}"
