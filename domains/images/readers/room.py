"""Whether images fit into memory and onto the disk, before anything is scaled."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["check_disk", "check_memory"]

_UNIT = 1 << 30


def check_memory(images: int, shape: tuple[int, int, int], instead: str) -> None:
    """Refuse bytes that the machine cannot hold twice, as found and in parts.

    Arguments:
        images: How many there will be.
        shape: Channels, height and width of each.
        instead: What to do.

    Raises:
        ValueError: If they do not fit.
    """
    needed = 2 * _bytes(images, shape)
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > has:
        msg = f"{_taken(images, shape, needed)} of memory, this machine has {has / _UNIT:,.1f}"
        raise ValueError(f"{msg}: {instead}")


def check_disk(images: int, shape: tuple[int, int, int], folder: Path) -> None:
    """Refuse bytes for which a folder, which need not exist yet, has no room.

    Arguments:
        images: How many there will be.
        shape: Channels, height and width of each.
        folder: Where they are to be kept.

    Raises:
        ValueError: If they do not fit.
    """
    needed = _bytes(images, shape)
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        msg = f"{_taken(images, shape, needed)} in {folder}, where {free / _UNIT:,.1f} are free"
        raise ValueError(
            f"{msg}: take a smaller data.size, free some space, or set STRUCTDIFF_CACHE to a "
            "folder on a larger disk"
        )


def _bytes(images: int, shape: tuple[int, int, int]) -> int:
    channels, height, width = shape
    return images * channels * height * width


def _taken(images: int, shape: tuple[int, int, int], needed: int) -> str:
    channels, height, width = shape
    size = f"data.size {height}" if height == width else f"data.size, {height} x {width}"
    return f"{size}: {images:,} images of {channels} channel(s) take {needed / _UNIT:,.1f} GiB"
