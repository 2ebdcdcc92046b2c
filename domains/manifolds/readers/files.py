"""Files on the disk, unpacked on the way and read line by line.

Nothing here holds more than a block, whatever the size of a file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

__all__ = ["opened", "text_lines"]

_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError)
_LONGEST = 1 << 20  # bytes of a line


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, through gzip or xz if its first bytes say so.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, may not be read, is cut off, or packed twice.
    """
    if not path.exists():
        msg = f"no such file: {path}; check its name"
        raise FileNotFoundError(msg)
    if path.is_dir():
        msg = f"{path} is a folder: give a file, a table (.csv, .tsv) or an .npz"
        raise ValueError(msg)
    try:
        with path.open("rb") as raw:
            stream = _unpacked(raw)
            if stream is not raw and _unpacked(stream) is not stream:
                msg = f"cannot read {path}: it is compressed twice; unpack it once"
                raise ValueError(msg)
            yield stream
    except _FAULTS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        msg = f"cannot read {path}: {reason}; copy it again, or check its permissions"
        raise ValueError(msg) from error


def _unpacked(stream: io.BufferedReader) -> io.BufferedReader:
    first = stream.peek(6)
    if first.startswith(b"\x1f\x8b"):
        return io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream, mode="rb")))
    if first.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(cast(io.RawIOBase, lzma.LZMAFile(stream)))
    return stream


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file without their ends, each with its number, from 1; blank ones too.

    Bytes that are not UTF-8 become escapes: only names and words can have them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, is no text, or a line is far too long.
    """
    with opened(path) as stream:
        number = 0
        while line := stream.readline(_LONGEST + 1):
            number += 1
            if number == 1:
                line = _marked(line, path)
            if b"\0" in line:
                msg = (
                    f"{path}, line {number}, has a NUL byte: it is no table of text, or a damaged "
                    "copy; give a .csv, a .tsv or an .npz"
                )
                raise ValueError(msg)
            if len(line) > _LONGEST:
                msg = (
                    f"{path}, line {number}, has more than {_LONGEST:,} bytes: it is no table; "
                    "give one row a line"
                )
                raise ValueError(msg)
            yield number, line.decode("utf-8", "backslashreplace").rstrip("\r\n")


def _marked(line: bytes, path: Path) -> bytes:
    """The first line without a byte-order mark.

    Raises:
        ValueError: If it is UTF-16.
    """
    if line[:2] in (b"\xff\xfe", b"\xfe\xff"):
        msg = f"{path} is UTF-16: convert it (iconv -f UTF-16 -t UTF-8)"
        raise ValueError(msg)
    return line.removeprefix(b"\xef\xbb\xbf")
