"""One file of an image to bytes of one size.

What a picture may be, and what becomes of it: grey, colour or with a palette, as it is; CMYK and
others, converted to red, green and blue; transparent, laid over white; 16 bits, the upper 8 of
them. A file of several frames, one that is cut off, and one with numbers that are no
brightness (32 bits) are faults.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["Facts", "Fitting", "Source", "decode", "fitted", "probe"]

T = TypeVar("T")

_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N"}
_WIDE = {"I", "F"}
_LARGEST = 1 << 27  # pixels of one image
_HEAVIEST = 1 << 28  # bytes of one file


class Source(NamedTuple):
    """A file, or what was in an archive.

    Arguments:
        name: Folders and name, with /.
        content: Its bytes, or the path that they are read from.
    """

    name: str
    content: bytes | str


class Facts(NamedTuple):
    """What the head of a file says."""

    width: int
    height: int
    colour: bool


class Fitting(NamedTuple):
    """What every image is brought to.

    Arguments:
        size: Side of a square, cut from the middle and scaled; None leaves images as they are.
        channels: 1 or 3.
    """

    size: int | None
    channels: int


def probe(source: Source) -> Facts | str:
    """The facts of a file, or what is wrong with it."""
    return _opened(source, lambda image: Facts(*image.size, image.mode not in _GREY))


def decode(source: Source, fitting: Fitting) -> NDArray[np.uint8] | str:
    """Bytes `(channels, height, width)` of a file, or what is wrong with it."""
    return _opened(source, lambda image: fitted(image, fitting))


def _opened(source: Source, use: Callable[[Image.Image], T]) -> T | str:
    """What is made of a file, or what is wrong with it."""
    try:
        if isinstance(source.content, str):
            with open(source.content, "rb") as file:
                content = file.read(_HEAVIEST + 1)
        else:
            content = source.content
        if not content:
            return "is empty, 0 bytes"
        if len(content) > _HEAVIEST:
            return f"has more than {_HEAVIEST:,} bytes"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pillow warns of oddities that are judged here
            with Image.open(io.BytesIO(content)) as image:
                return _fault(image) or use(image)
    except UnidentifiedImageError:
        return "is no image that pillow knows"
    # Pillow's readers of damaged files raise whatever their arithmetic does.
    except Exception as error:
        return f"cannot be read ({str(error).strip() or type(error).__name__})"


def _fault(image: Image.Image) -> str:
    frames = int(getattr(image, "n_frames", 1))
    if frames > 1:
        return f"has {frames} frames"
    if image.mode in _WIDE:
        return f"has 32 bits a pixel (mode {image.mode})"
    width, height = image.size
    if width * height > _LARGEST:
        return f"has {width} x {height} pixels, more than {_LARGEST:,}"
    return f"has {width} x {height} pixels, too few" if min(image.size) < 2 else ""


def fitted(image: Image.Image, fitting: Fitting) -> NDArray[np.uint8]:
    """Bytes `(channels, height, width)`: cut to a square from the middle, and scaled.

    Arguments:
        image: An image of pillow.
        fitting: What it is brought to.
    """
    plain = _plain(image).convert("L" if fitting.channels == 1 else "RGB")
    if fitting.size is not None and plain.size != (fitting.size, fitting.size):
        width, height = plain.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        plain = plain.crop((left, top, left + side, top + side))
        plain = plain.resize((fitting.size, fitting.size), Image.Resampling.LANCZOS)
    pixels: NDArray[np.uint8] = np.asarray(plain, np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _plain(image: Image.Image) -> Image.Image:
    """The image in 8 bits, over white where it is transparent."""
    if image.mode.startswith("I;16"):
        wide: NDArray[Any] = np.asarray(image)
        return Image.fromarray((wide.astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (255, 255, 255, 255))
        return Image.alpha_composite(below, above)
    return image
