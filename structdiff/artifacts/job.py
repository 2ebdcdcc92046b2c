"""Generation as a job: a folder that is filled part by part, and goes on where it was stopped.

A request for many samples is cut into parts. What a part holds follows from the request and the
part alone, so a part that was lost is made again, the same byte for byte. `job.json` says what was
asked and which parts are done; the files of a part, its shards, are named by its key. Shards are
written whole and recorded afterwards: a process killed at any moment leaves recorded shards and
nothing else that counts. Where memory runs out a part becomes two halves, which is recorded, for
the halves need not hold the numbers that the whole would have held.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from structdiff.artifacts.folder import differences
from structdiff.artifacts.store import read_json, remove_temporary, write_atomic, write_json

__all__ = ["Job", "Made", "Part", "partition", "piecewise"]

SCHEMA = 1
"""Version of what `job.json` holds."""

T = TypeVar("T")


class Part(NamedTuple):
    """Samples `low` to `high` (exclusive) of a request, made together.

    The key is the part's name: (3,) is the fourth part, (3, 0) and (3, 1) are its halves.

    Example:
        >>> [half.key for half in Part(0, 5, (3,)).halves()]
        [(3, 0), (3, 1)]
    """

    low: int
    high: int
    key: tuple[int, ...]

    def halves(self) -> tuple[Part, Part]:
        """The same samples in two parts."""
        middle = (self.low + self.high) // 2
        first = Part(self.low, middle, (*self.key, 0))
        return first, Part(middle, self.high, (*self.key, 1))


class Made(NamedTuple):
    """Content of the files of a part by suffix, and what is worth counting, for JSON."""

    files: Mapping[str, bytes]
    counts: Mapping[str, Any]


def partition(samples: int, size: int) -> list[Part]:
    """Samples cut into parts of a size, the last one smaller.

    Example:
        >>> [part.high for part in partition(5, 2)]
        [2, 4, 5]
    """
    lows = range(0, samples, size)
    return [Part(low, min(low + size, samples), (i,)) for i, low in enumerate(lows)]


def piecewise(
    parts: Iterable[Part],
    make: Callable[[Part], T],
    halved: Callable[[Part], None] | None = None,
) -> Iterator[tuple[Part, T]]:
    """Make parts one after the other; one for which memory runs out is made as two halves.

    Arguments:
        parts: The parts; the next one is asked for when the last one is made.
        make: What makes a part.
        halved: Called with a part before its halves are made.

    Raises:
        ValueError: If memory runs out for one sample alone.
    """
    for part in parts:
        made = _attempt(part, make)
        if made is not None:
            yield part, made[0]
            continue
        torch.cuda.empty_cache()
        if halved is not None:
            halved(part)
        yield from piecewise(part.halves(), make, halved)


def _attempt(part: Part, make: Callable[[Part], T]) -> tuple[T] | None:
    """What was made, or None if memory ran out; the frames that held it are gone by then."""
    try:
        return (make(part),)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        if part.high - part.low > 1:
            return None
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
    msg = (
        f"memory runs out for sample {part.low} alone ({why}): ask for smaller samples, or use a "
        "device with more memory"
    )
    raise ValueError(msg)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text


@dataclass(frozen=True)
class Record:
    """A part that is done: its files with their checksums, its counts, and the time it took."""

    low: int
    high: int
    key: tuple[int, ...]
    files: Mapping[str, str]
    counts: Mapping[str, Any]
    seconds: float


class Job:
    """A folder with `job.json` and the shards of the parts that are done.

    What differs from the record is not trusted: on opening, a part whose shard is missing or
    changed is no longer done, and shards that are not recorded are removed.

    Arguments:
        path: The folder; it is made if need be.
        asked: What was asked, for JSON; a folder goes on only with the same.
        stem: First word of the names of shards.
        about: What else is worth knowing (versions, paths), for JSON; it may differ.
        overwrite: Whether a job that was asked otherwise is replaced; its files are removed.

    Raises:
        ValueError: If the folder holds another job (it says what differs) or something else, or
            `job.json` is damaged.
        OSError: If the folder cannot be made or written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> def make(part):
        ...     return Made({".txt": b"x" * (part.high - part.low)}, {"last": part.high})
        >>> with TemporaryDirectory() as folder:
        ...     job = Job(Path(folder) / "out", {"seed": 0})
        ...     job.run(partition(5, 3), make)
        ...     [path.name for path in job.files()]
        ['samples-00000.txt', 'samples-00001.txt']
    """

    def __init__(
        self,
        path: Path | str,
        asked: Mapping[str, Any],
        *,
        stem: str = "samples",
        about: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path, self.stem = Path(path), stem
        self.asked: dict[str, Any] = json.loads(json.dumps(asked))
        self.about, self.index = dict(about or {}), self.path / "job.json"
        self.halved: set[tuple[int, ...]] = set()
        self.done: dict[tuple[int, ...], Record] = {}
        self.lost: tuple[str, ...] = ()
        self._make_folder()
        if self.index.exists():
            self._read(overwrite=overwrite)
        self._clean()
        self._write()

    def run(self, parts: Iterable[Part], make: Callable[[Part], Made]) -> None:
        """Make the parts that are not done, and record each.

        Arguments:
            parts: The partition before any halving, in the order of the samples; the next part is
                asked for when the last one is recorded.
            make: What makes a part; it must follow from what was asked and the part alone.

        Raises:
            ValueError: If memory runs out for one sample alone.
            OSError: If a file cannot be written.
        """
        start = time.perf_counter()
        for part, made in piecewise(self._open(parts), make, self._halve):
            now = time.perf_counter()
            self._keep(part, made, now - start)
            start = now

    def records(self) -> list[Record]:
        """The parts that are done, in the order of the samples."""
        return sorted(self.done.values(), key=lambda record: record.low)

    def files(self) -> list[Path]:
        """The shards, in the order of the samples."""
        return [self.path / name for record in self.records() for name in sorted(record.files)]

    def _open(self, parts: Iterable[Part]) -> Iterator[Part]:
        """What is left to make, cut as it is recorded."""
        for part in parts:
            if part.key in self.halved:
                yield from self._open(part.halves())
            elif part.key not in self.done:
                yield part

    def _keep(self, part: Part, made: Made, seconds: float) -> None:
        """Write the shards of a part, then record it."""
        name = "-".join([self.stem, f"{part.key[0]:05}", *map(str, part.key[1:])])
        sums = {}
        for suffix, content in made.files.items():
            write_atomic(self.path / f"{name}{suffix}", content)
            sums[f"{name}{suffix}"] = _checksum(content)
        counts = json.loads(json.dumps(made.counts))
        self.done[part.key] = Record(*part, sums, counts, round(seconds, 3))
        self._write()

    def _halve(self, part: Part) -> None:
        self.halved.add(part.key)
        self._write()

    def _write(self) -> None:
        parts = [asdict(record) for record in self.records()]
        content = {"schema": SCHEMA, "asked": self.asked, "about": self.about}
        write_json(self.index, {**content, "halved": sorted(self.halved), "parts": parts})

    def _make_folder(self) -> None:
        """Make the folder, or see that it is a job's.

        Raises:
            ValueError: If it is something else.
            OSError: If it cannot be made.
        """
        if self.path.is_dir():
            remove_temporary(self.index)
            if not self.index.exists() and any(self.path.iterdir()):
                msg = f"{self.path} is not empty and has no job.json: choose another folder"
                raise ValueError(msg)
            return
        try:
            self.path.mkdir(parents=True)
        except OSError as error:
            why = "it is a file" if self.path.is_file() else error.strerror
            msg = f"cannot create the folder {self.path}: {why}. Choose another one"
            raise type(error)(msg) from None

    def _read(self, *, overwrite: bool) -> None:
        """Take over what was done, if the same was asked.

        Raises:
            ValueError: If something else was asked, or the file is not that of a job.
        """
        content = _checked(self.index)
        changed = differences(content["asked"], self.asked)
        if changed and not overwrite:
            listed = "; ".join(changed)
            msg = (
                f"{self.path} holds a job that was asked otherwise: {listed}. Ask the same to go "
                "on, choose another folder, or allow --overwrite"
            )
            raise ValueError(msg)
        if changed:
            return
        try:
            self.halved = {tuple(key) for key in content["halved"]}
            records = [_record(item) for item in content["parts"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = (
                f"{self.index} is damaged: its parts cannot be read ({error}). Choose another "
                "folder"
            )
            raise ValueError(msg) from None
        whole = [record for record in records if self._whole(record)]
        self.done = {record.key: record for record in whole}
        kept = {name for record in whole for name in record.files}
        self.lost = tuple(n for record in records for n in record.files if n not in kept)

    def _whole(self, record: Record) -> bool:
        paths = [(self.path / name, checksum) for name, checksum in record.files.items()]
        return all(p.is_file() and _checksum(p.read_bytes()) == c for p, c in paths)

    def _clean(self) -> None:
        """Remove shards that are not recorded, and what a killed writer has left."""
        recorded = {path.name for path in self.files()}
        shard = re.compile(rf"(\.?){re.escape(self.stem)}-\d{{5,}}(-[01])*\.\w+(\.\d+\.tmp)?")
        for path in self.path.iterdir():
            if shard.fullmatch(path.name) and path.name not in recorded:
                path.unlink()


def _record(item: Mapping[str, Any]) -> Record:
    """A part as `job.json` has it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If it is not one.
    """
    key = tuple(int(step) for step in item["key"])
    files = {str(name): str(checksum) for name, checksum in item["files"].items()}
    changed = {"low": int(item["low"]), "high": int(item["high"]), "key": key, "files": files}
    record = Record(**{**item, **changed, "counts": dict(item["counts"])})
    if not 0 <= record.low < record.high:
        msg = f"low = {record.low} and high = {record.high} are no range"
        raise ValueError(msg)
    return record


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _checked(path: Path) -> dict[str, Any]:
    """The content of `job.json`.

    Raises:
        ValueError: If it is damaged, or of a newer version.
    """
    content = read_json(path)
    keys = {"schema", "asked", "halved", "parts"}
    if not isinstance(content, dict) or not keys <= content.keys():
        msg = f"{path} has no {', '.join(sorted(keys))}: it is not a job's, choose another folder"
        raise ValueError(msg)
    if not isinstance(content["schema"], int) or content["schema"] > SCHEMA:
        msg = (
            f"{path} has schema {content['schema']}, this version reads up to {SCHEMA}: upgrade "
            "structdiff"
        )
        raise ValueError(msg)
    return content
