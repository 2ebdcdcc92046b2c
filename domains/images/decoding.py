"""Files of images, decoded once: heads first, then all of them into the cache.

Folders say the parts, where they are called `train`, `test` and the like, and the classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from structdiff.domains.images.cache import (
    PARTS,
    Entry,
    Writer,
    entry_name,
    mapped,
    opened,
    part_of,
)
from structdiff.domains.images.images import Images
from structdiff.domains.images.readers.decode import Facts, Fitting, decode, probe
from structdiff.domains.images.readers.files import SUFFIXES, files_of, sources
from structdiff.domains.images.readers.files import mapped as each
from structdiff.domains.images.readers.room import check_disk, check_memory

__all__ = ["decoded"]

_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_LISTED = 8


def decoded(
    path: Path,
    kept: Path,
    size: int | None,
    channels: int | None,
    *,
    labelled: bool,
    workers: int,
) -> tuple[dict[str, Images], Entry]:
    """The images of a folder or an archive by part: decoded now, unless the cache has them.

    Arguments:
        path: The folder or the archive.
        kept: The folder of the cache.
        size: Side of the square that images are brought to; None where they have one size.
        channels: 1, 3, or None for as they are.
        labelled: Whether sub-folders are classes.
        workers: Processes that decode.

    Raises:
        ValueError: If there is no image to train on, or sizes differ.
    """
    files = files_of(path)
    stamps = [
        [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
        for file, stat in ((file, file.stat()) for file in files)
    ]
    folder = kept / entry_name(stamps, size, channels, labelled)
    entry = opened(folder)
    if entry is None:
        _decode(path, folder, size, channels, labelled=labelled, workers=workers)
        entry = opened(folder)
        if entry is None:
            msg = f"{folder} was changed while it was written: read again"
            raise ValueError(msg)
    return {name: mapped(folder, entry, name) for name in PARTS}, entry


def _decode(
    path: Path,
    folder: Path,
    size: int | None,
    channels: int | None,
    *,
    labelled: bool,
    workers: int,
) -> None:
    """Looks at the head of every file, then writes all of them to the cache."""
    facts, skipped = dict[str, Facts](), dict[str, str]()
    for name, found in each(probe, sources(path), workers):
        if isinstance(found, str):
            skipped[name] = found
        else:
            facts[name] = found
    fitting = Fitting(size, channels or (3 if any(f.colour for f in facts.values()) else 1))
    shape = _shape(path, list(facts.values()), fitting, skipped)
    places = _placed(path, list(facts), labelled=labelled)
    classes = sorted({kind for _, kind in places.values() if kind is not None})
    own = any(part == "test" for part, _ in places.values())
    channels_, height, width = shape
    check_memory(1, (channels_, height, width), "take a smaller data.size")
    check_disk(len(facts), (channels_, height, width), folder.parent)
    with Writer(folder) as writer:
        for name, pixels in each(partial(decode, fitting=fitting), sources(path), workers):
            if isinstance(pixels, str) or name not in facts:
                skipped.setdefault(name, str(pixels))
                continue
            part, kind = places[name]
            label = None if kind is None else classes.index(kind)
            cut = part_of(pixels, own=own)
            writer.add(cut if part == "train" else part, pixels, label)
        notes = _notes(path, list(facts.values()), classes if labelled else [])
        entry = Entry(shape, classes, writer.counts, skipped, notes)
        if not writer.counts["train"]:
            raise ValueError(_nothing(path, skipped))
        writer.keep(entry)


def _nothing(path: Path, skipped: dict[str, str]) -> str:
    why = "; ".join(f"{name} {fault}" for name, fault in list(skipped.items())[:3])
    many = f": all {len(skipped):,} are left out, {why}" if skipped else ""
    known = ", ".join(SUFFIXES)
    return f"{path} has no image to train on{many}; give a folder of images ({known})"


def _shape(
    path: Path, facts: Sequence[Facts], fitting: Fitting, skipped: dict[str, str]
) -> list[int]:
    """Channels, height and width that all images will have.

    Raises:
        ValueError: If there are none, or of several sizes.
    """
    if not facts:
        raise ValueError(_nothing(path, skipped))
    if fitting.size is not None:
        return [fitting.channels, fitting.size, fitting.size]
    sizes = Counter((fact.width, fact.height) for fact in facts)
    if len(sizes) > 1:
        some = ", ".join(f"{n:,} of {w} x {h}" for (w, h), n in sizes.most_common(3))
        msg = (
            f"{path} has images of {len(sizes)} sizes ({some}): give data.size, the side of a "
            "square that all are cut to and scaled to"
        )
        raise ValueError(msg)
    width, height = next(iter(sizes))
    return [fitting.channels, height, width]


def _placed(
    path: Path, names: Iterable[str], *, labelled: bool
) -> dict[str, tuple[str, str | None]]:
    """Part and class of each file by its folders.

    Raises:
        ValueError: If some images have a class and some have none.
    """
    folders = {name: name.split("/")[:-1] for name in names}
    tops = {inner[0].lower() if inner else "" for inner in folders.values()}
    parted = tops <= _FOLDERS.keys() and any(_FOLDERS[top] == "train" for top in tops)
    found = dict[str, tuple[str, str | None]]()
    for name, inner in folders.items():
        part = _FOLDERS[inner[0].lower()] if parted else "train"
        kinds = inner[1:] if parted else inner
        found[name] = part, kinds[0] if kinds and labelled else None
    loose = [name for name, (_, kind) in found.items() if kind is None]
    if labelled and loose and len(loose) < len(found):
        msg = (
            f"{path} has images in sub-folders, which are their classes, and {len(loose):,} in "
            f"none ({loose[0]}): move them, or give data.labelled False, "
            "at the command line --data.no-labelled"
        )
        raise ValueError(msg)
    return found


def _notes(path: Path, facts: Sequence[Facts], classes: Sequence[str]) -> list[str]:
    notes = []
    if path.is_dir() and classes:
        inner = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")]
        groups = inner if any(p.name.lower() in _FOLDERS for p in inner) else [path]
        known = {p.name for group in groups for p in group.iterdir() if p.is_dir()}
        empty = sorted(known - set(classes) - set(_FOLDERS))
        if empty:
            notes.append(f"folders without an image are no classes: {', '.join(empty[:_LISTED])}")
    grey = sum(not fact.colour for fact in facts)
    if 0 < grey < len(facts):
        notes.append(f"{grey:,} of {len(facts):,} images are grey, the others have colour")
    return notes
