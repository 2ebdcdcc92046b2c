"""Images as files: one picture each, a grid of many, or the bytes of all in an .npz.

`out.png` holds one image as it is, and several as a grid, row by row, small ones enlarged; a
folder holds one file an image; `out.npz` has `images`, bytes `(images, height, width, channels)`,
`labels` and `classes`, as `structdiff train images --data out.npz` reads them. A file is written
whole or not at all.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structdiff.artifacts import write_atomic
from structdiff.domains.images.images import Images

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "check_free", "encode", "grid", "png", "strip", "write", "write_each"]

SUFFIXES = (".png", ".npz")

_BETWEEN = 255  # brightness of the lines of a grid
_SEEN = 48  # pixels of a side that can be looked at


def grid(images: Images, columns: int | None = None, *, scale: int = 1, gap: int = 1) -> Image:
    """One picture of many, row by row.

    Arguments:
        images: At least one.
        columns: Images in a row; by default as many as rows.
        scale: Side of the square that a pixel becomes.
        gap: Pixels between neighbours, white.

    Raises:
        ValueError: If there are none, or a number is out of range.

    Example:
        >>> grid(Images(np.zeros((6, 1, 4, 4), np.uint8)), 3).size
        (16, 11)
    """
    from PIL import Image

    if not len(images) or (columns is not None and columns < 1) or scale < 1 or gap < 0:
        has = f"{len(images)} images, columns {columns}, scale {scale}, gap {gap}"
        msg = (
            f"a grid needs images, columns and scale of at least 1 and gap of 0 or more, got {has}"
        )
        raise ValueError(msg)
    columns = min(len(images), columns or math.ceil(math.sqrt(len(images))))
    channels, height, width = images.shape
    rows = math.ceil(len(images) / columns)
    high, wide = scale * height + gap, scale * width + gap
    sheet = np.full((channels, rows * high + gap, columns * wide + gap), _BETWEEN, np.uint8)
    for number, pixels in enumerate(images.pixels):
        top, left = (number // columns) * high + gap, (number % columns) * wide + gap
        large = pixels.repeat(scale, 1).repeat(scale, 2)
        sheet[:, top : top + high - gap, left : left + wide - gap] = large
    plain = sheet[0] if channels == 1 else sheet.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(plain))


def strip(frames: Sequence[Images], *, scale: int = 1) -> Image:
    """Images on their way: a row for each, from noise on the left to the image on the right.

    Arguments:
        frames: The same images at some moments, in the order of the walk.
        scale: Side of the square that a pixel becomes.

    Raises:
        ValueError: If there are no frames.
    """
    if not frames:
        msg = "a strip needs at least one frame"
        raise ValueError(msg)
    both: NDArray[np.uint8] = np.stack([frame.pixels for frame in frames], 1)
    return grid(Images(both.reshape(-1, *both.shape[2:])), len(frames), scale=scale)


def png(picture: Image) -> bytes:
    """A picture in PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False)
    return buffer.getvalue()


def encode(
    suffix: str, images: Images, *, columns: int | None = None, classes: Sequence[str] = ()
) -> bytes:
    """Images in the format of a suffix.

    Arguments:
        suffix: .png or .npz.
        images: The images.
        columns: Of the grid of several images.
        classes: Names of the classes, which an .npz keeps.
    """
    if suffix == ".png":
        if len(images) == 1:
            return png(images.pictures()[0])
        # Small images are enlarged by whole pixels: a grid is there to be looked at.
        return png(grid(images, columns, scale=max(1, _SEEN // max(images.shape[1:]))))
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"images": images.pixels.transpose(0, 2, 3, 1)}
    if images.labels is not None:
        arrays["labels"] = images.labels
        if classes:
            arrays["classes"] = np.array(classes)
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


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


def write(
    path: Path,
    images: Images,
    *,
    overwrite: bool = False,
    columns: int | None = None,
    classes: Sequence[str] = (),
) -> str:
    """Write images in the format of the suffix, and say so.

    Arguments:
        path: The file.
        images: The images.
        overwrite: Whether a file of that name may be replaced.
        columns: Of the grid of several images.
        classes: Names of the classes, which an .npz keeps.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
        OSError: If the file cannot be written.
    """
    check_free(path, overwrite=overwrite)
    write_atomic(path, encode(path.suffix.lower(), images, columns=columns, classes=classes))
    how = " as a grid" if path.suffix.lower() == ".png" and len(images) > 1 else ""
    return f"{len(images):,} image{'s' * (len(images) != 1)} written to {path}{how}"


def write_each(
    folder: Path, images: Images, classes: Sequence[str] = (), *, first: int = 0
) -> list[Path]:
    """Write each image as a PNG of its own, in a folder of its class if it has one.

    Arguments:
        folder: Where; it is made.
        images: The images.
        classes: Names of the classes.
        first: Number of the first one in its name.

    Returns:
        The files.
    """
    paths = []
    for number, picture in enumerate(images.pictures()):
        known = images.labels is not None and len(classes)
        inside = folder / _plain(classes[int(images.labels[number])]) if known else folder  # type: ignore[index]
        inside.mkdir(parents=True, exist_ok=True)
        paths.append(inside / f"{first + number:05}.png")
        write_atomic(paths[-1], png(picture))
    return paths


def _plain(name: str) -> str:
    """A class as the name of a folder, wherever its name is from."""
    return re.sub(r"[^\w .-]", "_", name).strip(". ") or "_"
