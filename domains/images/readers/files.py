"""Folders and tar archives of images: their files in order, each decoded, in several processes.

An archive in a folder counts as a folder of its name (`train.tar.xz` as `train/`), and is read as
it streams: nothing is unpacked onto the disk.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import multiprocessing
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from structdiff.domains.images.readers.decode import Source

__all__ = ["ARCHIVES", "SUFFIXES", "files_of", "mapped", "sources"]

T = TypeVar("T")

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jp2", ".gif", ".webp", ".bmp", ".tga"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Of files that are taken for images."""
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

_CHUNK = 64  # files handed to a process together
_HEAVIEST = 1 << 28
_BLOCK = 1 << 20


def archive_stem(name: str) -> str:
    """The name of an archive without its suffix; empty if it is none.

    Example:
        >>> archive_stem("train.tar.xz"), archive_stem("a.png")
        ('train', '')
    """
    found = [suffix for suffix in ARCHIVES if name.lower().endswith(suffix)]
    return name[: -len(max(found, key=len))] if found else ""


def files_of(path: Path) -> list[Path]:
    """The images and archives of a folder, in the order of names; or the archive itself."""
    if path.is_file():
        return [path]
    return [file for file in sorted(path.rglob("*")) if _taken(file, path)]


def _taken(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    known = file.suffix.lower() in SUFFIXES or bool(archive_stem(file.name))
    return known and not hidden and file.is_file()


def sources(path: Path) -> Iterator[Source]:
    """The images of a folder or an archive, one after the other.

    Raises:
        ValueError: If an archive is damaged.
    """
    for file in files_of(path):
        stem = archive_stem(file.name)
        if path.is_file():
            yield from _members(file, "")
        elif stem:
            yield from _members(file, (file.parent / stem).relative_to(path).as_posix() + "/")
        else:
            yield Source(file.relative_to(path).as_posix(), str(file))


def _members(path: Path, before: str) -> Iterator[Source]:
    """The images of an archive, as it streams."""
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                hidden = any(part.startswith(".") for part in parts)
                known = Path(member.name).suffix.lower() in SUFFIXES
                if member.isfile() and known and not hidden:
                    file = archive.extractfile(member)
                    content = b"" if file is None else file.read(_HEAVIEST + 1)
                    yield Source(before + "/".join(parts), content)
            while stream.read(_BLOCK):  # tarfile does not see that a stream was cut
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        why = str(error).strip() or type(error).__name__
        msg = f"cannot read the archive {path}: {why}; copy it again, or unpack it into a folder"
        raise ValueError(msg) from error


def _unpacked(path: Path) -> IO[bytes]:
    """The bytes of an archive, through what its first bytes say that it is packed with."""
    with path.open("rb") as file:
        first = file.read(6)
    kinds = {b"\x1f\x8b": gzip.GzipFile, b"\xfd7zXZ\0": lzma.LZMAFile, b"BZh": bz2.BZ2File}
    found: Any = next(
        (kind for magic, kind in kinds.items() if first.startswith(magic)), Path.open
    )
    return cast("IO[bytes]", found(path, "rb"))


def mapped(
    use: Callable[[Source], T], items: Iterable[Source], workers: int
) -> Iterator[tuple[str, T]]:
    """Names, and what is made of each file, in order.

    Arguments:
        use: Called with each file; with workers it is sent to them.
        items: The files.
        workers: Processes that decode; with 0 this one does.

    Raises:
        ValueError: If the processes cannot work.
    """
    if not workers:
        yield from ((item.name, use(item)) for item in items)
        return
    items = iter(items)
    # Forked processes would share the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting = deque[Future[list[tuple[str, T]]]]()
        try:
            while chunk := list(islice(items, _CHUNK)):
                waiting.append(pool.submit(_together, use, chunk))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            msg = (
                f"the {workers} processes that decode have ended: in a script, call from under "
                'if __name__ == "__main__", or decode with workers = 0'
            )
            raise ValueError(msg) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _together(use: Callable[[Source], T], chunk: list[Source]) -> list[tuple[str, T]]:
    return [(item.name, use(item)) for item in chunk]
