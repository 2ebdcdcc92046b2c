"""What to draw, in the words of images: classes by name, pictures from files or arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.domains.images.codec import ImageCodec
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import TaskConfig
from structdiff.domains.images.tasks import Task, holed, operator_of
from structdiff.runs import whole
from structdiff.runs.fields.request import Given, Seen

__all__ = ["Labels", "Picture", "asked_of"]

Labels: TypeAlias = int | str | Sequence[int | str]
"""Classes by name or number."""

Picture: TypeAlias = Path | str | NDArray[Any] | Tensor | Images
"""A file; bytes, `(height, width)`, with channels behind, or `(n, channels, height, width)`;
numbers in [-1, 1], `(n, channels, height, width)`."""


def asked_of(
    codec: ImageCodec,
    config: TaskConfig,
    *,
    label: Labels | None,
    given: Picture | None,
    known: Picture | None,
    measured: Picture | None,
    task: Task | None,
    noise: float,
) -> dict[str, Any]:
    """Arguments of `FieldRun.request`.

    Raises:
        ValueError: If a class is not known or a picture does not fit.
    """
    found: dict[str, Any] = {}
    if label is not None:
        found["label"] = labels_of(codec, label)
    if known is not None and given is None:
        msg = "known says what is known of given: give both"
        raise ValueError(msg)
    task = task or (config.kind if config.kind != "none" else None)
    if given is not None:
        shown = config.kind == "inpainting"
        found["given"] = parts = given_of(codec, given, known, held=not shown)
        if shown:
            found["fields"] = {"seen": holed(parts.source, parts.known)}
    if measured is None:
        return found
    if task in (None, "none", "inpainting"):
        msg = f"measured needs a task, super-resolution or colourisation, got {task}"
        raise ValueError(msg)
    if task == "colourisation" and codec.event[0] == 1:
        msg = "the model's images are grey, so it cannot colour: take a model of colour images"
        raise ValueError(msg)
    operator = operator_of(task, codec.event, config.factor)
    channels, height, width = operator.measured if len(operator.measured) == 3 else codec.event
    y = fields_of_picture("measured", measured, (channels, height, width))
    if config.kind == task:
        found["fields"] = {"seen": y}
    else:
        found["seen"] = Seen(operator, y, noise)
    return found


def labels_of(codec: ImageCodec, label: Labels) -> list[int]:
    """Numbers of classes, from names or numbers.

    Raises:
        ValueError: If one is not known.
    """
    words = list(label) if isinstance(label, Iterable) and not isinstance(label, str) else [label]
    return [
        codec.label(word) if isinstance(word, str) else whole("label", word, 0) for word in words
    ]


def given_of(codec: ImageCodec, given: Picture, known: Picture | None, *, held: bool) -> Given:
    """A picture of which a part is known.

    Raises:
        ValueError: If it does not fit the model, or everything or nothing of it is known.
    """
    channels, height, width = codec.event
    mask: Tensor | None = None
    if isinstance(given, Path | str):
        name, (given, mask) = str(given), opened(given, codec.event)
    else:
        name = "given"
    source = fields_of_picture(name, given, codec.event)
    if known is not None:
        mask = mask_of(known, (height, width))
    if mask is None:
        msg = (
            "all of given is known: give a file that is transparent where it is not, or known, "
            "the mask of what is"
        )
        raise ValueError(msg)
    if not bool(mask.any()) or bool(mask.all()):
        much = "everything" if bool(mask.all()) else "nothing"
        msg = f"the mask of given says that {much} is known: mark some pixels, not all"
        raise ValueError(msg)
    return Given(source, mask, held)


def opened(path: Path | str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """A file as a field, and which pixels are not transparent; None where there is no such thing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not an image.
    """
    from PIL import Image, UnidentifiedImageError

    if not Path(path).is_file():
        msg = f"no such file: {path}; check its name"
        raise FileNotFoundError(msg)
    try:
        with Image.open(path) as image:
            picture = image.convert("RGBA")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        msg = f"{path} is not an image that can be read ({error}): save it as a PNG"
        raise ValueError(msg) from None
    bytes_ = np.asarray(picture)
    alpha = torch.from_numpy(bytes_[None, None, :, :, 3] >= 128)
    plain = picture.convert("L" if shape[0] == 1 else "RGB")
    pixels = np.asarray(plain)
    return _numbers(_laid(pixels)), None if bool(alpha.all()) else alpha


def fields_of_picture(name: str, picture: Picture, shape: tuple[int, ...]) -> Tensor:
    """A picture as fields of a shape, `(n, *shape)`, in [-1, 1].

    Raises:
        ValueError: If it has another shape, or numbers outside of [-1, 1].
    """
    if isinstance(picture, Path | str):
        name, (picture, _) = str(picture), opened(picture, shape)
    if isinstance(picture, Images):
        picture = picture.fields()
    if isinstance(picture, np.ndarray):
        picture = (
            _numbers(_laid(picture)) if picture.dtype == np.uint8 else torch.from_numpy(picture)
        )
    x = picture.detach().cpu()
    if not x.is_floating_point():
        msg = f"{name} must be bytes of numpy or numbers in [-1, 1], got {x.dtype}"
        raise ValueError(msg)
    x = x.float().reshape((-1, *shape)) if tuple(x.shape) == shape else x.float()
    if x.ndim != 4 or tuple(x.shape[1:]) != shape:
        msg = f"{name} must have shape {shape}, one or one for each image, got {tuple(x.shape)}"
        raise ValueError(f"{msg}: bring it to {shape[2]} x {shape[1]} pixels")
    if not bool(torch.isfinite(x).all()) or float(x.abs().max()) > 1 + 1e-5:
        msg = f"{name} must be numbers in [-1, 1], got {float(x.min()):g} to {float(x.max()):g}"
        raise ValueError(f"{msg}: give bytes, or scale them")
    return x


def mask_of(known: Picture, places: tuple[int, int]) -> Tensor:
    """A mask, `(n, 1, height, width)`.

    Raises:
        ValueError: If it has another shape.
    """
    if isinstance(known, Path | str):
        known, _ = opened(known, (1, *places))
        known = known > 0
    if isinstance(known, Images):
        known = known.fields().mean(1, keepdim=True) > 0
    mask = torch.as_tensor(known)
    if mask.dtype != torch.bool:
        msg = f"known must be bool, True where a pixel is known, got {mask.dtype}"
        raise ValueError(msg)
    mask = mask.reshape(-1, 1, *mask.shape[-2:]) if mask.ndim in (2, 3) else mask
    if mask.ndim != 4 or tuple(mask.shape[1:]) != (1, *places):
        msg = f"known must have the places {places} of the model's images, got {tuple(mask.shape)}"
        raise ValueError(msg)
    return mask


def _laid(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes as `(n, channels, height, width)`."""
    if pixels.ndim == 2:
        return pixels[None, None]
    return pixels.transpose(2, 0, 1)[None] if pixels.ndim == 3 else pixels


def _numbers(pixels: NDArray[np.uint8]) -> Tensor:
    return Images(np.ascontiguousarray(pixels)).fields()
