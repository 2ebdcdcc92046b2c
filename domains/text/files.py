"""Text on the disk: read in blocks, unpacked and decoded on the way.

Nothing here holds more than a block, whatever the size of a file.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

__all__ = [
    "SUFFIXES",
    "TextFile",
    "digest",
    "embedded",
    "joined",
    "lines",
    "numbered",
    "text_files",
]

SUFFIXES = (".txt", ".text", ".md", ".rst")
"""Of the files that are read in a folder, each also as .gz or .xz."""

_PACKED = (".gz", ".xz")
_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError)
_BLOCK = 1 << 18
_LONGEST = 1 << 24  # characters of a line


class TextFile(NamedTuple):
    """A file, or what stands for one.

    Arguments:
        name: What errors call it.
        blocks: Opens it and gives its bytes, block by block.
    """

    name: str
    blocks: Callable[[], Iterator[bytes]]

    def pieces(self, errors: str = "strict") -> Iterator[str]:
        """Its text, piece by piece.

        Arguments:
            errors: What to do with bytes that are not UTF-8, as in `bytes.decode`.

        Raises:
            ValueError: If it is empty, not UTF-8, or has a NUL byte.
        """
        decoder = codecs.getincrementaldecoder("utf-8")(errors)
        offset, first = 0, True
        for block in chain(self.blocks(), [b""]):
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                waiting = len(error.object) - len(block)
                raise ValueError(self._not_utf8(error, offset - waiting)) from None
            if b"\0" in block:
                msg = (
                    f"{self.name} has a NUL byte, byte {offset + block.index(0)} (from 0): it is "
                    "no text, or a damaged copy; copy it again, or remove such bytes"
                )
                raise ValueError(msg)
            offset += len(block)
            text = text.removeprefix("\ufeff") if first and text else text
            first = first and not text
            if text:
                yield text
        if first:
            msg = f"{self.name} is empty: give a file with text"
            raise ValueError(msg)

    def _not_utf8(self, error: UnicodeDecodeError, start: int) -> str:
        place, byte = start + error.start, error.object[error.start]
        if place == 0 and byte in (0xFE, 0xFF):
            return f"{self.name} is UTF-16, not UTF-8: convert it (iconv -f UTF-16 -t UTF-8)"
        return (
            f"{self.name} is not UTF-8: byte {place} (from 0) is 0x{byte:02x} ({error.reason}); "
            "convert it (iconv -f LATIN1 -t UTF-8 for Latin-1), or train with --data.tokenizer "
            "bytes"
        )


def text_files(path: Path | str) -> list[TextFile]:
    """The file of a path, or the texts of a folder that are not empty, in the order of names.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it is a folder without texts, or has no name.
    """
    if not str(path):
        msg = "the path of the text is empty: give the name of a file or a folder"
        raise ValueError(msg)
    path = Path(path)
    if not path.exists():
        msg = f"no such file: {path}; check its name"
        raise FileNotFoundError(msg)
    if not path.is_dir():
        return [TextFile(str(path), lambda: _blocks(path))]
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if _kind(p) in SUFFIXES}
    names = sorted(
        name
        for name, p in found.items()
        if p.is_file()
        and p.stat().st_size
        and not any(part.startswith(".") for part in name.split("/"))
    )
    if not names:
        msg = (
            f"the folder {path} has no text, a file that ends in {', '.join(SUFFIXES)} or those "
            "with .gz or .xz: give the folder that holds the text, or a file"
        )
        raise ValueError(msg)
    return [TextFile(str(found[n]), lambda p=found[n]: _blocks(p)) for n in names]  # type: ignore[misc]


def embedded() -> TextFile:
    """The topics of Python's `help()`, some 460,000 characters of English about the language.

    They come with the running Python, so they differ a little from one version of Python to
    another (3.11, 3.12, ...); a run that was begun with one version says so under another.

    Raises:
        ValueError: If this Python was installed without them.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        from pydoc_data.topics import topics
    except ImportError:
        msg = f"this Python {version} comes without the topics of help(): give data.path a text"
        raise ValueError(msg) from None
    text = "\n".join(topics[name].strip("\n") + "\n" for name in sorted(topics))
    return TextFile(f"the topics of Python {version}", lambda: iter([text.encode()]))


def digest(files: Iterable[TextFile]) -> str:
    """What tells these files from others: a digest of their unpacked content, in order."""
    total = blake2b(digest_size=16)
    for file in files:
        one = blake2b(digest_size=16)
        for block in file.blocks():
            one.update(block)
        total.update(one.digest())
    return total.hexdigest()


def joined(files: Iterable[TextFile], errors: str = "strict") -> Iterator[str]:
    """The text of files one after the other, in pieces; each begins on a line of its own."""
    last = "\n"
    for file in files:
        if last != "\n":
            yield "\n"
        for text in file.pieces(errors):
            yield text
            last = text[-1]


def lines(files: Iterable[TextFile], errors: str = "strict") -> Iterator[str]:
    """The lines of files, without their ends; empty ones are left out.

    Raises:
        ValueError: If a line is longer than any document.
    """
    return (text for _, text in numbered(files, errors))


def numbered(files: Iterable[TextFile], errors: str = "strict") -> Iterator[tuple[int, str]]:
    """The lines of files, each with its number in its file, from 1; empty ones are left out.

    Raises:
        ValueError: If a line is longer than any document.
    """
    for file in files:
        number, rest = 1, list[str]()
        for text in file.pieces(errors):
            head, *tail = text.split("\n")
            rest.append(head)
            if tail:
                yield from _filled(["".join(rest), *tail[:-1]], number)
                number, rest = number + len(tail), [tail[-1]]
            if sum(map(len, rest)) > _LONGEST:
                msg = (
                    f"{file.name} has a line of more than {_LONGEST:,} characters: it is not one "
                    "document a line, use data.documents running"
                )
                raise ValueError(msg)
        yield from _filled(["".join(rest)], number)


def _filled(texts: list[str], first: int) -> Iterator[tuple[int, str]]:
    whole = enumerate((one.removesuffix("\r") for one in texts), first)
    return ((number, text) for number, text in whole if text)


def _kind(path: Path) -> str:
    """The suffix that says what a file holds: of a.txt.gz it is .txt."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _PACKED else suffix


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, through gzip or xz if its first bytes say so.

    Raises:
        ValueError: If it may not be read, is cut off, or packed twice.
    """
    try:
        with path.open("rb") as raw:
            stream = _unpacked(raw)
            if stream is not raw and _unpacked(stream) is not stream:
                msg = f"cannot read {path}: it is compressed twice; unpack it once"
                raise ValueError(msg)
            while block := stream.read(_BLOCK):
                yield block
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
