"""Files of sound: one, those of a folder, or those of a tar archive, read one after the other."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["SUFFIXES", "Entry", "entries"]

SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff")
"""Of the files that are read."""

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


class Entry(NamedTuple):
    """A file or a folder of the data.

    Arguments:
        name: Its path below the data, with slashes; of a folder it ends in one.
        content: Its bytes; None of a folder, and of a file that is no sound by its suffix.
    """

    name: str
    content: bytes | None


def entries(path: Path | str) -> Iterator[Entry]:
    """Files and folders below a path, in the order of names; of an archive, as they come.

    Hidden ones are passed over.

    Arguments:
        path: A file of sound, a folder, or a tar archive (.tar, also .gz, .xz, .bz2).

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If a file cannot be read, or is neither sound nor archive by its name.
    """
    if not str(path):
        msg = "data.path is empty: give the name of a folder, or leave it out"
        raise ValueError(msg)
    place = Path(path).expanduser()
    if not place.exists():
        msg = f"no such file or folder: {place}; check its name"
        raise FileNotFoundError(msg)
    if place.is_dir():
        return _folder(place)
    if place.name.lower().endswith(_ARCHIVES):
        return _archive(place)
    if not _is_sound(place.name):
        msg = (
            f"cannot read {place}: its suffix is none of {', '.join(SUFFIXES)}; give a folder of "
            "such files, a tar archive of them, or convert it"
        )
        raise ValueError(msg)
    return iter([Entry(place.name, _read(place))])


def _is_sound(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}; check its permissions"
        raise ValueError(msg) from None


def _folder(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if _hidden(name):
            continue
        if path.is_dir():
            yield Entry(f"{name}/", None)
        elif path.is_file():
            yield Entry(name, _read(path) if _is_sound(name) else None)


def _archive(path: Path) -> Iterator[Entry]:
    """The members of an archive, in one pass through it.

    Raises:
        ValueError: If it is damaged or cut off.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if _hidden(name):
                    continue
                if member.isdir():
                    yield Entry(f"{name}/", None)
                elif member.isfile():
                    stream = archive.extractfile(member) if _is_sound(name) else None
                    yield Entry(name, stream.read() if stream is not None else None)
    except _FAULTS as error:
        msg = f"cannot read {path}: {error or type(error).__name__}; copy it again"
        raise ValueError(msg) from error
