r"""Texts as files: .txt, one text a line, and .jsonl, one object `{"text": ...}` a line.

In .txt a line end inside a text is written as `\n`, a carriage return as `\r` and a backslash as
`\\`; `unescape` reads them back. A file is written whole or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from structdiff.artifacts import write_atomic

__all__ = ["SUFFIXES", "check_free", "encode", "escape", "objects", "unescape", "write"]

SUFFIXES = (".txt", ".jsonl")

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_PLAIN = {written: one for one, written in _ESCAPES.items()}


def escape(text: str) -> str:
    r"""A text as one line.

    Example:
        >>> print(escape("to be\nor not"))
        to be\nor not
    """
    return re.sub(r"[\\\n\r]", lambda match: _ESCAPES[match[0]], text)


def unescape(line: str) -> str:
    r"""The text of a line.

    Example:
        >>> unescape(escape("a\\n\n")) == "a\\n\n"
        True
    """
    return re.sub(r"\\[\\nr]", lambda match: _PLAIN[match[0]], line)


def encode(suffix: str, texts: Sequence[str]) -> bytes:
    """Texts in the format of a suffix."""
    make = {".txt": escape, ".jsonl": _object}[suffix]
    # Half a surrogate pair, of a vocabulary that has one, is no UTF-8 as it is.
    return "".join(f"{make(text)}\n" for text in texts).encode("utf-8", "backslashreplace")


def _object(text: str) -> str:
    return json.dumps({"text": text})


def objects(lines: Iterable[tuple[int, str]]) -> tuple[list[int], list[str]]:
    """The texts of numbered lines of .jsonl, and the numbers.

    Raises:
        ValueError: If a line is no object with a string of the name `text`.

    Example:
        >>> objects([(3, '{"text": "to be"}')])
        ([3], ['to be'])
    """
    numbers, texts = list[int](), list[str]()
    for number, line in lines:
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            msg = f'line {number} must be an object {{"text": ...}} of JSON, got {line[:60]!r}'
            raise ValueError(msg)
        numbers.append(number)
        texts.append(text)
    return numbers, texts


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


def write(path: Path, texts: Sequence[str], *, overwrite: bool = False) -> str:
    """Write texts in the format of the suffix, and say so.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
        OSError: If the file cannot be written.
    """
    check_free(path, overwrite=overwrite)
    write_atomic(path, encode(path.suffix.lower(), texts))
    lines = "; in a line, \\n is a line end" if path.suffix.lower() == ".txt" else ""
    return f"{len(texts):,} texts written to {path}, one a line{lines}"
