"""Arrays of an npz: each is a column, with one row, matrix or number for each record."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from structdiff.domains.manifolds.readers.files import opened
from structdiff.domains.manifolds.readers.table import Source, Table

__all__ = ["Arrays"]

_LEAD = 1000
_MOST = 1 << 27  # numbers of an array, 1 GiB
_DENSEST = 1100  # how many bytes deflate makes of one, at most


class Arrays(Source):
    """An npz file. Nothing in it is unpickled.

    Arguments:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no npz, damaged, or has no array of numbers.
    """

    named = True

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        self._heads = _heads(path)
        numbers = {n: s for n, (s, kind) in self._heads.items() if s and kind.kind in "iuf"}
        self.shapes = {
            n: s[1:] for n, (s, kind) in self._heads.items() if s and not kind.hasobject
        }
        if not numbers:
            msg = f"{path} has no array of numbers, it has: {', '.join(self._heads) or 'nothing'}"
            raise ValueError(msg)
        said = ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in numbers.items())
        self.notes = (f"arrays {said}",)

    def head(self) -> Table:
        """The floating-point arrays that have the most rows, or the first of those."""
        floats = {n: s for n, (s, kind) in self._heads.items() if s and kind.kind == "f"}
        rows = max((shape[0] for shape in floats.values()), default=0)
        names = [name for name, shape in floats.items() if shape[0] == rows and rows]
        if not names:
            return Table({"": np.zeros(0)})
        whole = self.read(names)
        return whole.select(np.arange(min(rows, _LEAD)))

    def read(self, numbers: Sequence[str], words: Sequence[str] = ()) -> Table:
        """These arrays, which must have as many rows each."""
        columns = dict[str, NDArray[Any]]()
        for name in dict.fromkeys([*numbers, *words]):
            shape, kind = self._heads[name]
            if name in numbers and kind.kind not in "iuf":
                msg = f"{self.name}: the array {name} must hold real numbers, not {kind}"
                raise ValueError(msg)
            if name in words and len(shape) != 1:
                msg = f"{self.name}: the array {name} must be (rows,), its shape is {shape}"
                raise ValueError(msg)
            columns[name] = self._load(name)
        rows = {name: len(column) for name, column in columns.items()}
        if len(set(rows.values())) != 1:
            msg = f"{self.name}: arrays must have as many rows each, got {rows}"
            raise ValueError(msg)
        return Table(
            {
                n: c.astype(np.float64) if n in numbers else c.astype(np.str_)
                for n, c in columns.items()
            }
        )

    def _load(self, name: str) -> NDArray[Any]:
        try:
            with opened(self.path) as stream, np.load(stream, allow_pickle=False) as archive:
                return np.asarray(archive[name])
        except Exception as error:  # a broken zip or header fails in a dozen ways
            msg = f"cannot read the array {name} of {self.name}: {_said(error)}; copy it again"
            raise ValueError(msg) from error


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _heads(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array.

    Raises:
        ValueError: If it is no npz, an array is far too large, or its size is not what it says.
    """
    try:
        with opened(path) as stream, zipfile.ZipFile(stream) as archive:
            return dict(_head(archive, info) for info in archive.infolist())
    except FileNotFoundError:
        raise
    except Exception as error:
        msg = f"cannot read {path}: {_said(error)}; give a whole npz, as numpy.savez writes it"
        raise ValueError(msg) from error


def _head(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> tuple[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        version = npy.read_magic(file)  # type: ignore[no-untyped-call]
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read(file)  # type: ignore[no-untyped-call]
        start = file.tell()
    count = int(np.prod([int(size) for size in shape], dtype=object)) if shape else 1
    if count < 0 or count > _MOST:
        msg = f"the array {name} of shape {shape} is larger than {_MOST:,} numbers: split it"
        raise ValueError(msg)
    if not kind.hasobject and start + count * kind.itemsize != info.file_size:
        msg = f"the array {name} says it has shape {shape} but has {info.file_size} bytes"
        raise ValueError(msg)
    if info.file_size > _DENSEST * info.compress_size + 4096:
        msg = f"the array {name} says it has {info.file_size} bytes in {info.compress_size}"
        raise ValueError(msg)
    return name, (shape, kind)
