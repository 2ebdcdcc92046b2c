"""Decoded images on the disk, written once and read as memory-mapped bytes.

An entry is a folder: `entry.json` (shape, classes, counts and digests of the parts, what was
skipped) and the bytes and labels of each part. Its name is a digest of the files' names, sizes
and times of change, of how images are brought to one size, and of this format. An entry is written
beside its place and moved there when it is whole, so a killed writer leaves no entry.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.images.images import Images

__all__ = ["PARTS", "Entry", "Writer", "cache_folder", "entry_name", "mapped", "opened", "part_of"]

FORMAT = 1
PARTS = ("train", "validation", "test")
_STALE = 86_400.0  # seconds after which what a killed writer left is removed


def cache_folder() -> Path:
    """Where images are kept: `images` in $STRUCTDIFF_CACHE, or in ~/.cache/structdiff."""
    given = os.environ.get("STRUCTDIFF_CACHE")
    return Path(given or "~/.cache/structdiff").expanduser() / "images"


@dataclass(frozen=True)
class Entry:
    """What `entry.json` says.

    Arguments:
        shape: Channels, height and width.
        classes: Names of the classes; none where images have no class.
        counts: Images of each part.
        skipped: Name of a file to why it was left out.
        notes: What else one should know.
    """

    shape: list[int]
    classes: list[str]
    counts: dict[str, int]
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def part_of(pixels: NDArray[np.uint8], *, own: bool) -> str:
    """The part of an image: one in twenty for validation, and one in ten for the test.

    Arguments:
        pixels: Its bytes.
        own: Whether the data have a test set of their own.
    """
    digest = blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest()
    number = int.from_bytes(digest, "little") % 20
    if number == 0:
        return "validation"
    return "test" if number in (1, 2) and not own else "train"


def entry_name(*what: Any) -> str:
    """The name of the entry that is made of these."""
    text = json.dumps([FORMAT, *what], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def opened(folder: Path) -> Entry | None:
    """The entry in a folder; None where there is none that is whole."""
    try:
        entry = Entry(**json.loads((folder / "entry.json").read_text()))
        channels, height, width = entry.shape
        size = channels * height * width
        for name in PARTS:
            count = entry.counts[name]
            if (folder / name).stat().st_size != count * size:
                return None
            if entry.classes and (folder / f"{name}.labels").stat().st_size != 8 * count:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry


def mapped(folder: Path, entry: Entry, name: str) -> Images:
    """A part of an entry, read when it is looked at."""
    shape = (entry.counts[name], *entry.shape)
    pixels: NDArray[np.uint8] = np.zeros(shape, np.uint8)
    labels: NDArray[np.int64] | None = None
    if entry.counts[name]:
        pixels = np.memmap(folder / name, np.uint8, "r", shape=shape)
    if entry.classes:
        labels = np.fromfile(folder / f"{name}.labels", "<i8").astype(np.int64)
    return Images(pixels, labels)


class Writer:
    """Writes an entry beside its place; use as a context, and `keep` what is whole.

    Arguments:
        folder: Where the entry is to be.

    Raises:
        ValueError: If the disk is full, or the folder may not be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.counts = folder, dict.fromkeys(PARTS, 0)
        self._temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
        self._files: Mapping[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._temporary.mkdir(parents=True)
            self._files = {
                name: (self._temporary / name).open("xb")
                for part in self.counts
                for name in (part, f"{part}.labels")
            }
        except OSError as error:
            raise self._failed(error) from error
        for left in self.folder.parent.glob(f".{self.folder.name}.*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE:
                    shutil.rmtree(left)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _failed(self, error: OSError) -> ValueError:
        return ValueError(
            f"cannot write images to {self.folder.parent}: {error.strerror or error}; free some "
            "space, or set STRUCTDIFF_CACHE to a folder that may be written"
        )

    def add(self, part: str, pixels: NDArray[np.uint8], label: int | None) -> None:
        """Writes an image to a part."""
        try:
            self._files[part].write(pixels.tobytes())
            if label is not None:
                self._files[f"{part}.labels"].write(label.to_bytes(8, "little"))
        except OSError as error:
            raise self._failed(error) from error
        self.counts[part] += 1

    def keep(self, entry: Entry) -> None:
        """Moves the entry to its place, where another writer's may already be."""
        try:
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            with (self._temporary / "entry.json").open("x") as text:
                json.dump(asdict(entry), text)
                text.flush()
                os.fsync(text.fileno())
            if opened(self.folder) is None:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._temporary.rename(self.folder)
        except OSError as error:
            if opened(self.folder) is None:
                raise self._failed(error) from error
