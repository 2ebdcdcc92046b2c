"""Token ids on the disk, written once and read as memory-mapped arrays.

An entry is a folder: `entry.json` (kind, parts, vocabulary), the tokens of a part as unsigned
numbers of the fewest bytes that hold the vocabulary, and where its documents end. Its name is a
digest of the text, the vocabulary and this format. An entry is written beside its place and moved
there when it is whole, so a killed writer leaves no entry, and a second start finds the first one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entry", "Part", "Writer", "cache_folder", "entry_name", "opened"]

FORMAT = 1
_STALE = 86_400.0  # seconds after which what a killed writer left is removed


def cache_folder() -> Path:
    """Where tokens are kept: `text` in $STRUCTDIFF_CACHE, or in ~/.cache/structdiff."""
    given = os.environ.get("STRUCTDIFF_CACHE")
    return Path(given or "~/.cache/structdiff").expanduser() / "text"


@dataclass(frozen=True)
class Part:
    """Which tokens of an entry are for training, for validation or for the test.

    Arguments:
        tokens: Name of the file that has them.
        start: The first one in it.
        count: How many.
        documents: How many documents, whose ends are in a file beside it; 0 for running text.
    """

    tokens: str
    start: int
    count: int
    documents: int = 0


@dataclass(frozen=True)
class Entry:
    """What `entry.json` says.

    Arguments:
        kind: Type of the numbers: uint8, uint16 or uint32.
        vocabulary: State of the vocabulary, with its counts in the part for training.
        parts: The parts by name: train, validation, test.
    """

    kind: str
    vocabulary: Mapping[str, Any]
    parts: Mapping[str, Part]


def entry_name(*what: Any) -> str:
    """The name of the entry that is made of these."""
    text = json.dumps([FORMAT, *what], sort_keys=True)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def opened(folder: Path) -> Entry | None:
    """The entry in a folder; None where there is none that is whole."""
    try:
        content = json.loads((folder / "entry.json").read_text())
        parts = {name: Part(**part) for name, part in content["parts"].items()}
        entry = Entry(content["kind"], content["vocabulary"], parts)
        width = np.dtype(entry.kind).itemsize
        for part in parts.values():
            if (folder / part.tokens).stat().st_size < width * (part.start + part.count):
                return None
            if part.documents and ends_file(folder, part).stat().st_size != 8 * part.documents:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return entry


def ends_file(folder: Path, part: Part) -> Path:
    """Where the ends of a part's documents are."""
    return folder / f"{part.tokens}.ends"


def mapped(path: Path, kind: str, start: int, count: int) -> NDArray[Any]:
    """Numbers of a file, read when they are looked at."""
    if not count:
        return np.zeros(0, kind)
    offset = start * np.dtype(kind).itemsize
    return np.memmap(path, kind, "r", offset=offset, shape=(count,))


class Writer:
    """Writes an entry beside its place; use as a context, and `keep` what is whole.

    Arguments:
        folder: Where the entry is to be.
        size: Number of tokens of the vocabulary.

    Raises:
        ValueError: If the disk is full, or the folder may not be written.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.kind = str(np.min_scalar_type(size - 1))
        self._temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")

    def __enter__(self) -> Writer:
        try:
            self._temporary.mkdir(parents=True)
        except OSError as error:
            raise self._failed(error) from error
        for left in self.folder.parent.glob(f".{self.folder.name}.*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE:
                    shutil.rmtree(left)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _failed(self, error: OSError) -> ValueError:
        return ValueError(
            f"cannot write tokens to {self.folder.parent}: {error.strerror or error}; free some "
            "space, or set STRUCTDIFF_CACHE to a folder that may be written"
        )

    def running(self, pieces: Iterable[NDArray[np.int64]]) -> int:
        """Writes `tokens`, one piece after the other.

        Returns:
            How many they are.
        """
        count = 0
        try:
            with (self._temporary / "tokens").open("xb") as file:
                for piece in pieces:
                    file.write(piece.astype(self.kind).tobytes())
                    count += len(piece)
        except OSError as error:
            raise self._failed(error) from error
        return count

    def documents(
        self,
        texts: Iterable[str],
        encode: Callable[[str], NDArray[np.int64]],
        place: Callable[[str], str],
        names: tuple[str, ...],
    ) -> dict[str, Part]:
        """Writes each text to the part that it belongs to, and where it ends there.

        Arguments:
            texts: The documents.
            encode: Makes their tokens.
            place: Says the part of each.
            names: Of all parts.

        Returns:
            The parts.
        """
        total, count = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        try:
            with ExitStack() as stack:
                tokens, ends = (
                    {
                        n: stack.enter_context((self._temporary / f"{n}{end}").open("xb"))
                        for n in names
                    }
                    for end in ("", ".ends")
                )
                for text in texts:
                    ids, name = encode(text), place(text)
                    total[name] += len(ids)
                    count[name] += 1
                    tokens[name].write(ids.astype(self.kind).tobytes())
                    ends[name].write(total[name].to_bytes(8, "little"))
        except OSError as error:
            raise self._failed(error) from error
        return {name: Part(name, 0, total[name], count[name]) for name in names}

    def tokens(self, part: Part) -> NDArray[Any]:
        """The tokens of a part that has been written."""
        return mapped(self._temporary / part.tokens, self.kind, part.start, part.count)

    def keep(self, vocabulary: Mapping[str, Any], parts: Mapping[str, Part]) -> Entry:
        """Moves the entry to its place, where another writer's may already be.

        Returns:
            The entry.
        """
        entry = Entry(self.kind, vocabulary, parts)
        try:
            for path in self._temporary.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
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
        return entry
