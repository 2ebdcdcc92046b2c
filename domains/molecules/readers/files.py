"""Files: read as streams, unpacked on the way; written whole or not at all.

A file is written to a temporary one beside it, flushed to the disk, then moved into place.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, cast
from uuid import uuid4

from structdiff.domains.molecules.readers.records import Skipped

__all__ = ["FAULTS", "cache_folder", "check_free", "kind", "lines", "opened", "write_atomically"]

SUFFIXES = (".sdf", ".xyz", ".smi", ".npz", ".png")  # that are written
FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError)  # what unpacking a bad file raises
_PACKED = (".gz", ".xz")
_WIDEST = 1 << 20  # characters of a line; a longer one comes in pieces


def cache_folder() -> Path:
    """Where results are kept: $STRUCTDIFF_CACHE, or ~/.cache/structdiff."""
    given = os.environ.get("STRUCTDIFF_CACHE")
    return Path(given or "~/.cache/structdiff").expanduser()


def kind(path: Path) -> str:
    """The suffix that says what a file holds: of m.sdf.gz it is .sdf."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _PACKED else suffix


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, through gzip or xz if its first bytes say so.

    Raises:
        ValueError: If it is empty, packed twice, or may not be read.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    with raw:
        stream = _unpacked(raw)
        try:
            first = stream.peek(6)
        except FAULTS as error:
            raise ValueError(f"cannot read {path}: {_words(error)}; copy it again") from error
        if not first:
            raise ValueError(f"{path} is empty; give a file with at least one molecule")
        if stream is not raw and _unpacked(stream) is not stream:
            raise ValueError(f"cannot read {path}: it is compressed twice; unpack it once")
        yield stream


def _unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    first = stream.peek(6)
    if first.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream, mode="rb")))
    if first.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(cast(io.RawIOBase, lzma.LZMAFile(stream)))
    return stream


def lines(stream: IO[bytes], faults: list[Skipped]) -> Iterator[str]:
    """Yields lines without their ends; a file that breaks off adds a reason to `faults`."""
    first = cast(io.BufferedReader, stream).peek(2)[:2]
    encoding = "utf-16" if first in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace")
    number = 0
    try:
        while line := text.readline(_WIDEST):
            number += 1
            yield line.rstrip("\n")
    except FAULTS as error:
        faults.append(Skipped(f"after line {number}", f"cannot be read: {_words(error)}"))
    finally:
        if not text.closed:
            text.detach()  # the stream is closed by who opened it


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuses, before any work is done, a path that cannot or must not be written.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, the file exists and may not be replaced, or is a
            folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write {path}: the suffix {path.suffix!r} is not known; allowed are "
            f"{', '.join(SUFFIXES[:-1])}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}; create it first")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or allow --overwrite")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        ValueError: If the disk is full or the folder may not be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a "
            "folder that may be written"
        ) from error
