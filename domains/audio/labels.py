"""Which class a recording has: the folder that it lies in, or the first word of its name.

A name of three words, as `7_jackson_32`, is the class, who speaks, and a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from os.path import commonpath
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

__all__ = ["Classes", "Words", "classes_by", "label_of", "words_of"]

Classes = Literal["auto", "folder", "name", "none"]
"""Where the class of a recording stands."""

_NAME = re.compile(r"(?P<label>[^_]+)_(?P<speaker>.+)_(?P<number>\d+)$")


class Words(NamedTuple):
    """What a name like `7_jackson_32` says."""

    label: str
    speaker: str
    number: int


def words_of(name: str) -> Words | None:
    """The words of a name, if it has three and the last is a number.

    Example:
        >>> words_of("recordings/7_jackson_32.wav")
        Words(label='7', speaker='jackson', number=32)
    """
    match = _NAME.match(PurePosixPath(name).stem)
    return Words(match["label"], match["speaker"], int(match["number"])) if match else None


def classes_by(names: Sequence[str], asked: Classes) -> Classes:
    """Where the classes of these recordings stand.

    By default in their folders, where there are several; else in their names, where all have
    three words; else nowhere.

    Arguments:
        names: Paths of the recordings below the data.
        asked: What is asked for; `auto` looks at the names.

    Example:
        >>> classes_by(["yes/1.wav", "no/1.wav"], "auto"), classes_by(["a.wav"], "auto")
        ('folder', 'none')
    """
    if asked != "auto":
        return asked
    if len({_folder(name) for name in below(names)}) > 1:
        return "folder"
    return "name" if names and all(words_of(name) for name in names) else "none"


def below(names: Iterable[str]) -> list[str]:
    """Names without the folder that all of them lie in."""
    names = list(names)
    common = commonpath([_folder(name) for name in names]) if names else ""
    return [str(PurePosixPath(name).relative_to(common or ".")) for name in names]


def label_of(name: str, where: Classes) -> str:
    """The class of a recording, "" where it has none.

    Arguments:
        name: Its path, see `below`.
        where: Where the class stands.
    """
    if where == "folder":
        return _folder(name)
    return PurePosixPath(name).stem.split("_")[0] if where == "name" else ""


def _folder(name: str) -> str:
    folder = PurePosixPath(name).parent.as_posix()
    return "" if folder == "." else folder
