"""Many images of one size: bytes on the disk or in memory, numbers in [-1, 1] for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LABEL", "LEAF", "Images", "checksum"]

LEAF, LABEL = "image", "label"
"""Names of the leaf and of the condition."""

_BLOCK = 1 << 24  # bytes looked at together


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, each with its class if they have classes.

    Arguments:
        pixels: Bytes, `(images, channels, height, width)`, in memory or mapped from a file.
        labels: Number of the class of each, `(images,)`, or None.

    Raises:
        ValueError: If the shapes or types are others.

    Example:
        >>> images = Images(np.full((2, 1, 4, 4), 255, np.uint8))
        >>> images.fields([0]).shape, float(images.fields([0]).max())
        (torch.Size([1, 1, 4, 4]), 1.0)
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            has = f"{self.pixels.dtype} {self.pixels.shape}"
            msg = f"pixels must be uint8 (images, channels, height, width), got {has}"
            raise ValueError(msg)
        if self.labels is not None and self.labels.shape != self.pixels.shape[:1]:
            msg = f"labels must be ({len(self.pixels)},), one an image, got {self.labels.shape}"
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def select(self, index: Sequence[int] | NDArray[np.int64] | slice) -> Images:
        """Some of them, in this order."""
        labels = None if self.labels is None else self.labels[index]
        return Images(np.ascontiguousarray(self.pixels[index]), labels)

    def fields(self, index: Sequence[int] | NDArray[np.int64] | slice = slice(None)) -> Tensor:
        """Some of them as numbers in [-1, 1], `(images, channels, height, width)`; or all."""
        return torch.from_numpy(np.array(self.pixels[index])).float().div_(127.5).sub_(1.0)

    def conditions(
        self, index: NDArray[np.int64]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """What is known of some of them: their classes if they have any, and of all of them."""
        if self.labels is None:
            return {}, {}
        return {LABEL: torch.from_numpy(self.labels[index].astype(np.int64))}, {}

    def identity(self) -> dict[str, Any]:
        """What tells these images from others."""
        return {"images": len(self), "shape": list(self.shape), "digest": checksum(self)}

    @classmethod
    def of_fields(cls, x: Tensor, labels: Tensor | None = None) -> Images:
        """Images of numbers; what is outside of [-1, 1] is cut off.

        Arguments:
            x: `(images, channels, height, width)`.
            labels: Number of the class of each, or None.

        Raises:
            ValueError: If a number is not finite.
        """
        if not bool(torch.isfinite(x).all()):
            msg = "images must be finite numbers, got NaN or infinity: the model has diverged"
            raise ValueError(msg)
        pixels = x.detach().float().add(1.0).mul(127.5).round().clamp(0, 255)
        known = None if labels is None else labels.cpu().numpy().astype(np.int64)
        return cls(pixels.to(torch.uint8).cpu().numpy(), known)

    def pictures(self) -> list[Image]:
        """Each as an image of pillow.

        Raises:
            ValueError: If they have neither one nor three channels.
        """
        from PIL import Image

        if self.shape[0] not in (1, 3):
            msg = f"a picture has 1 or 3 channels, these images have {self.shape[0]}"
            raise ValueError(msg)
        plain = self.pixels[:, 0] if self.shape[0] == 1 else self.pixels.transpose(0, 2, 3, 1)
        return [Image.fromarray(np.ascontiguousarray(one)) for one in plain]


def checksum(images: Images) -> str:
    """A digest of pixels and labels, read block by block."""
    digest = blake2b(digest_size=16)
    digest.update(str((len(images), images.shape)).encode())
    step = max(1, _BLOCK // max(1, int(np.prod(images.shape))))
    for start in range(0, len(images), step):
        digest.update(np.ascontiguousarray(images.pixels[start : start + step]).data)
    if images.labels is not None:
        digest.update(np.ascontiguousarray(images.labels, "<i8").data)
    return digest.hexdigest()
