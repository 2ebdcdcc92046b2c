"""Where images come from: the embedded digits, anyone's folders, archives and arrays.

Files are decoded once into a cache of bytes and read from there, so memory does not grow with
them; idx files, .npz and the embedded digits are held in memory, a byte a number, as they are.

Where the data have a test set of their own (`t10k` of idx files, `test_images` of an .npz, folders
or archives `train` and `test`), it is the test part, and one image in twenty of the others is for
validation. Otherwise one in ten is for the test too. A digest of its pixels says an image's part,
so equal images are in one part, wherever they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from structdiff.domains.images.cache import PARTS, cache_folder, part_of
from structdiff.domains.images.decoding import decoded
from structdiff.domains.images.images import Images
from structdiff.domains.images.readers import arrays
from structdiff.domains.images.readers.decode import Fitting, fitted
from structdiff.domains.images.readers.files import archive_stem
from structdiff.domains.images.readers.room import check_memory

__all__ = ["Data", "read"]

_LISTED = 8


@dataclass(frozen=True, eq=False)
class Data:
    """Images in three parts.

    Arguments:
        train: What is trained on.
        validation: What is looked at meanwhile; it may be empty.
        test: What is judged on; it may be empty.
        classes: Names of the classes; none where images have no class.
        name: Where they are from.
        notes: What one should know of how they were read.
        skipped: Name of a file to why it was left out.
    """

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    name: str
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def report(self) -> str:
        """How many images there are, the notes, and what was left out."""
        sizes = ", ".join(
            f"{len(part):,} {name}"
            for name, part in zip(PARTS, (self.train, self.validation, self.test), strict=True)
        )
        channels, height, width = self.train.shape
        kind = "grey" if channels == 1 else "colour"
        many = f"{len(self.classes)} classes" if self.classes else "no classes"
        head = f"{self.name}: {kind} images of {height} x {width}, {sizes}; {many}"
        lines = [f"  {name} {why}" for name, why in self.skipped[:_LISTED]]
        if self.skipped:
            lines = [f"{len(self.skipped):,} files are left out:", *lines]
        more = len(self.skipped) - _LISTED
        return "\n".join([head, *self.notes, *lines, *([f"  and {more:,} more"] * (more > 0))])


def read(
    path: Path | str | None = None,
    *,
    size: int | None = None,
    channels: int | None = None,
    labelled: bool = True,
    workers: int = 0,
    cache: Path | str | None = None,
) -> Data:
    """Reads images and splits them.

    Arguments:
        path: A folder of images, whose sub-folders are classes; a tar archive of one; idx files as
            MNIST has them, or their folder; an .npz, see `readers.arrays.npz`; without one, the
            handwritten digits of scikit-learn.
        size: Side of a square that images are cut to, from the middle, and scaled to by
            Lanczos' filter; by default they must have one size.
        channels: 1 for grey, 3 for colour; by default as the images are.
        labelled: Whether images have classes, if there are any.
        workers: Processes that decode files; with 0 this one does.
        cache: Folder in which decoded files are kept for the next start; anything in it may be
            deleted. By default `images` in $STRUCTDIFF_CACHE, or in ~/.cache/structdiff.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If there is no image, sizes differ, or an argument is out of range.

    Example:
        >>> data = read()
        >>> data.train.shape, len(data.train) + len(data.validation) + len(data.test)
        ((1, 8, 8), 1797)
    """
    _check(size, channels, workers)
    if path is None:
        name, found = "handwritten digits of scikit-learn", arrays.digits()
        return _split(found, name, size, channels, labelled=labelled)
    if not str(path):
        msg = "the path of the images is empty: give the name of a folder or a file"
        raise ValueError(msg)
    path = Path(path)
    if not path.exists():
        msg = f"no such file: {path}; check its name"
        raise FileNotFoundError(msg)
    if path.suffix.lower() == ".npz":
        return _split(arrays.npz(path), str(path), size, channels, labelled=labelled)
    if arrays.is_idx(path):
        return _split(arrays.idx(path), str(path), size, channels, labelled=labelled)
    if path.is_file() and not archive_stem(path.name):
        msg = f"{path} is no folder, no tar archive, no .npz and no idx file: give one of these"
        raise ValueError(msg)
    kept = cache_folder() if cache is None else Path(cache)
    parts, entry = decoded(path, kept, size, channels, labelled=labelled, workers=workers)
    return _checked(parts, tuple(entry.classes), str(path), entry.notes, entry.skipped.items())


def _check(size: int | None, channels: int | None, workers: int) -> None:
    if size is not None and size < 2:
        msg = f"data.size must be at least 2, got {size}"
        raise ValueError(msg)
    if channels not in (None, 1, 3):
        msg = f"data.channels must be 1 (grey) or 3 (colour), got {channels}"
        raise ValueError(msg)
    if workers < 0:
        msg = f"data.workers must be 0 or more, got {workers}"
        raise ValueError(msg)


def _split(
    found: arrays.Arrays, name: str, size: int | None, channels: int | None, *, labelled: bool
) -> Data:
    """Arrays in parts, each image brought to one size."""
    parts = {key: _scaled(images, name, size, channels) for key, images in found.parts.items()}
    if len(shapes := {images.shape for images in parts.values()}) > 1:
        msg = f"{name} has parts of different shapes, {sorted(shapes)}: give data.size"
        raise ValueError(msg)
    whole, own = parts["train"], "test" in parts
    place = np.array([part_of(one, own=own) for one in whole.pixels])
    split = {key: whole.select(np.flatnonzero(place == key)) for key in PARTS}
    split.update({key: images for key, images in parts.items() if key != "train"})
    classes = found.classes
    if not labelled or not classes:
        split, classes = {key: Images(images.pixels) for key, images in split.items()}, ()
    return _checked(split, classes, name, [])


def _scaled(images: Images, name: str, size: int | None, channels: int | None) -> Images:
    has, height, width = images.shape
    if not len(images) or min(height, width) < 2:
        msg = f"{name} has {len(images)} images of {height} x {width}: there is nothing to learn"
        raise ValueError(msg)
    if (size is None or height == width == size) and channels in (None, has):
        return images
    fitting = Fitting(size, has if channels is None else channels)
    if size is not None:
        shape = (fitting.channels, size, size)
        check_memory(len(images), shape, "take a smaller data.size, or give fewer images")
    scaled = np.stack([fitted(one, fitting) for one in images.pictures()])
    return Images(scaled, images.labels)


def _checked(
    parts: dict[str, Images],
    classes: tuple[str, ...],
    name: str,
    notes: list[str],
    skipped: Iterable[tuple[str, str]] = (),
) -> Data:
    """The parts, if something can be learned from them."""
    train, found = parts["train"], list(notes)
    if not len(train):
        msg = f"{name} has no image for training: give more images"
        raise ValueError(msg)
    for key in PARTS[1:]:
        if not len(parts[key]):
            found.append(f"the part for {key} has no image")
    if len(classes) == 1:
        found.append(f"there is one class, {classes[0]}: images are taken without classes")
        parts, classes = {key: Images(images.pixels) for key, images in parts.items()}, ()
        train = parts["train"]
    if classes and train.labels is not None:
        counts = np.bincount(train.labels, minlength=len(classes))
        lacking = [one for one, count in zip(classes, counts, strict=True) if not count]
        if lacking:
            found.append(f"classes without a training image: {', '.join(lacking[:_LISTED])}")
    return Data(
        train,
        parts["validation"],
        parts["test"],
        classes,
        name,
        tuple(found),
        tuple(skipped),
    )
