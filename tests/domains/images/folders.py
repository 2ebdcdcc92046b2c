"""Folders of small images that tests read."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 6, width: int = 6, channels: int = 1) -> np.ndarray:
    """Random bytes, `(height, width)` or with channels behind."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(array: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    """An array as a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(buffer, "PNG", **options)
    return buffer.getvalue()


def folder(path: Path, kinds: dict[str, int], *, start: int = 0, **size: int) -> Path:
    """A folder with so many different images in each sub-folder; "" is the folder itself."""
    seed = start
    for name, count in kinds.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (path / name / f"{number:03}.png").write_bytes(png(pixels(seed, **size)))
            seed += 1
    return path


def packed(path: Path, source: Path, *, mode: str = "w:xz") -> Path:
    """A tar archive of a folder."""
    with tarfile.open(path, mode) as archive:
        for file in sorted(source.rglob("*")):
            archive.add(file, file.relative_to(source).as_posix(), recursive=False)
    return path


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    """An array of bytes as an idx file."""
    head = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(path: Path, train: int = 60, test: int = 20) -> Path:
    """A folder as MNIST is given: four packed idx files, of 3 classes."""
    path.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, 8, 8), np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        (path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return path
