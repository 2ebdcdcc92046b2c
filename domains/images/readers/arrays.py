"""Images that are arrays already: MNIST-style idx files, .npz, the digits of scikit-learn.

An idx file begins with two zero bytes, the type (8: bytes) and the number of axes, then the length
of each axis as a big-endian number of 4 bytes, then the numbers. Nothing that is read is
unpickled.
"""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.images.images import Images

__all__ = ["Arrays", "digits", "idx", "is_idx", "npz", "read_idx"]

_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError)
_NAMES = {
    "train": (
        ("images", "train_images", "x_train", "x"),
        ("labels", "train_labels", "y_train", "y"),
    ),
    "test": (("test_images", "x_test"), ("test_labels", "y_test")),
}


class Arrays(NamedTuple):
    """Images as they are found.

    Arguments:
        parts: `train`, and `test` where the data have one of its own.
        classes: Names of the classes; none where images have no class.
    """

    parts: dict[str, Images]
    classes: tuple[str, ...]


def digits() -> Arrays:
    """The handwritten digits that scikit-learn carries: 1,797 images of 8 x 8 in 10 classes.

    Their 17 levels are spread over the 256 of a byte.

    References:
        Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), the part for
        testing. https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * 255 / 16).astype(np.uint8)[:, None]
    images = Images(pixels, bunch.target.astype(np.int64))
    return Arrays({"train": images}, tuple(map(str, range(10))))


def is_idx(path: Path) -> bool:
    """Whether a path is an idx file, or a folder of such, by names as MNIST has them."""
    if path.is_dir():
        return any(is_idx(file) for file in path.iterdir() if file.is_file())
    return "idx" in path.name.lower() and "ubyte" in path.name.lower()


def idx(path: Path) -> Arrays:
    """The images of idx files, `*images*idx3-ubyte`, also as .gz or .xz, with their labels.

    Files whose name begins with `t10k` or `test` are the test set.

    Arguments:
        path: A folder, or the file of images; that of labels is looked for beside it.

    Raises:
        ValueError: If there are no images, or a file is damaged.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file for file in files if is_idx(file) and "images" in file.name.lower()]
    parts = dict[str, Images]()
    for file in found:
        name = "test" if file.name.lower().startswith(("t10k", "test")) else "train"
        if name in parts:
            msg = f"{path} has two files of images for {name}: leave one of them in the folder"
            raise ValueError(msg)
        parts[name] = _pair(file)
    if not parts:
        msg = f"{path} has no idx file of images: one whose name has `images` and `idx3-ubyte`"
        raise ValueError(msg)
    if "train" not in parts:  # one file is all there is
        parts = {"train": parts["test"]}
    return Arrays(parts, _numbered(path, parts))


def _pair(file: Path) -> Images:
    pixels = read_idx(file)
    if pixels.ndim not in (3, 4):
        msg = f"{file} has {pixels.ndim} axes: images have 3 (images, height, width) or 4"
        raise ValueError(msg)
    pixels = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, -1, 1)
    stem = file.name.replace("images", "labels")
    beside = {stem.replace("idx3", "idx1").replace("idx4", "idx1"), stem}
    labels = next((file.with_name(name) for name in beside if file.with_name(name).exists()), None)
    if labels is None:
        return Images(pixels)
    known = read_idx(labels)
    if known.shape != pixels.shape[:1]:
        msg = f"{labels} has shape {known.shape}, but {file} has {len(pixels)} images"
        raise ValueError(msg)
    return Images(pixels, known.astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file of bytes, plain, .gz or .xz.

    Raises:
        ValueError: If it is none, has numbers of another type, or is cut off.
    """
    content = _unpacked(path)
    if len(content) < 4 or content[:2] != b"\0\0" or not content[3]:
        msg = f"{path} is no idx file: it begins with {content[:4].hex(' ') or 'nothing'}"
        raise ValueError(msg)
    if content[2] != 8:
        msg = f"{path} has numbers of type 0x{content[2]:02x}, not bytes (0x08): convert it"
        raise ValueError(msg)
    axes = content[3]
    start = 4 + 4 * axes
    shape = np.frombuffer(content[4:start].ljust(4 * axes, b"\0"), ">u4").astype(object)
    must = start + int(np.prod(shape))
    if len(content) != must:
        has = f"{len(content):,} bytes, its head says {must:,}"
        msg = f"{path} is damaged: it has {has}; copy it again"
        raise ValueError(msg)
    return np.frombuffer(content, np.uint8, offset=start).reshape([int(n) for n in shape])


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        return lzma.decompress(content) if content.startswith(b"\xfd7zXZ\0") else content
    except _FAULTS as error:
        why = str(error).strip() or type(error).__name__
        msg = f"cannot read {path}: {why}; copy it again, or check its permissions"
        raise ValueError(msg) from error


def npz(path: Path) -> Arrays:
    """The images of an .npz file.

    Arrays: `images` (or `x`, `train_images`, `x_train`), bytes `(images, height, width)` or
    `(images, height, width, channels)` or `(images, channels, height, width)`; whole `labels`
    (`y`, ...); `test_images` and `test_labels` for a test set of its own; and `classes`, names.

    Raises:
        ValueError: If it is no .npz, or an array is missing or of another kind.
    """
    try:
        with path.open("rb") as raw:
            arrays = _arrays(raw, path)
    except (*_FAULTS, ValueError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        why = str(error).strip() or type(error).__name__
        msg = f"cannot read {path}: {why}"
        raise ValueError(msg) from None
    parts = dict[str, Images]()
    for part, (images, labels) in _NAMES.items():
        name = next((name for name in images if name in arrays), None)
        if name is None:
            continue
        other = next((name for name in labels if name in arrays), None)
        pixels = _pixels(arrays[name], f"{name} of {path}")
        known = (
            None if other is None else _labels(arrays[other], len(pixels), f"{other} of {path}")
        )
        parts[part] = Images(pixels, known)
    if "train" not in parts:
        msg = f"{path} has no array `images`, it has {', '.join(arrays) or 'none'}"
        raise ValueError(msg)
    classes = _numbered(path, parts)
    if "classes" in arrays and classes:
        classes = _named(arrays["classes"], classes, path)
    return Arrays(parts, classes)


def _arrays(raw: IO[bytes], path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(raw):
        msg = "it is no .npz, or was cut off: copy it again, or write it with numpy.savez"
        raise ValueError(msg)
    raw.seek(0)
    with np.load(raw, allow_pickle=False) as file:
        return {name: _array(file, name, path) for name in file.files}


def _array(file: Any, name: str, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(file[name])
    except ValueError:
        msg = f"its array {name!r} holds Python objects, which are not unpickled: save numbers"
        raise ValueError(msg) from None


def _pixels(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        hint = "multiply numbers in [0, 1] by 255, round them, and convert with astype('uint8')"
        msg = f"{name} must be bytes (uint8), got {array.dtype}: {hint}"
        raise ValueError(msg)
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    must = "(images, height, width), or with 1 or 3 channels as the last axis or the second"
    msg = f"{name} must have shape {must}, got {array.shape}"
    raise ValueError(msg)


def _labels(array: NDArray[Any], images: int, name: str) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu" or array.shape not in ((images,), (images, 1)):
        must = f"whole numbers of shape ({images},)"
        msg = f"{name} must be {must}, got {array.dtype} {array.shape}"
        raise ValueError(msg)
    return array.reshape(-1).astype(np.int64)


def _numbered(path: Path, parts: dict[str, Images]) -> tuple[str, ...]:
    """Names of classes that are numbers from 0.

    Raises:
        ValueError: If a part has none while another has, or a number is out of range.
    """
    labels = [images.labels for images in parts.values()]
    known = [each for each in labels if each is not None and len(each)]
    if not known:
        return ()
    if len(known) < len(labels):
        msg = f"{path} has labels of one part only, of {', '.join(parts)}: add the others"
        raise ValueError(msg)
    low, high = (int(f([f(each) for each in known])) for f in (np.min, np.max))
    if low < 0 or high >= 100_000:
        msg = f"labels of {path} must be classes from 0, got {low} to {high}"
        raise ValueError(msg)
    return tuple(map(str, range(high + 1)))


def _named(names: NDArray[Any], numbers: tuple[str, ...], path: Path) -> tuple[str, ...]:
    found = tuple(map(str, names.tolist())) if names.ndim == 1 and names.dtype.kind == "U" else ()
    if len(found) < len(numbers) or len(set(found)) < len(found):
        msg = f"classes of {path} must be {len(numbers)} different names, got {names.shape}"
        raise ValueError(msg)
    return found
