"""Images as records: `image`, numbers in [-1, 1], and the condition `label`."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.codecs import Codec
from structdiff.domains.images.data import Data
from structdiff.domains.images.images import LABEL, LEAF, Images

__all__ = ["ImageCodec"]


class ImageCodec(Codec[Images]):
    """The shape of images, and the names of their classes.

    A byte b becomes the number b / 127.5 - 1, and a number the nearest byte.

    Arguments:
        event: Channels, height and width.
        classes: Names of the classes; none where images have no class.

    Example:
        >>> import numpy as np
        >>> images = Images(np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4))
        >>> codec = ImageCodec.fit(images)
        >>> bool((codec.decode(codec.encode(images)).pixels == images.pixels).all())
        True
    """

    def __init__(self, event: tuple[int, int, int], classes: tuple[str, ...] = ()) -> None:
        self.event, self.classes = event, classes

    @classmethod
    def fit(cls, objects: Images, classes: tuple[str, ...] | None = None) -> Self:
        """The codec of images.

        Arguments:
            objects: Images.
            classes: Names of their classes; by default numbers.

        Raises:
            ValueError: If there are no images, or fewer names than classes.
        """
        if not len(objects):
            msg = "there are no images to fit to"
            raise ValueError(msg)
        known = 0 if objects.labels is None else int(objects.labels.max()) + 1
        names = tuple(map(str, range(known))) if classes is None else classes
        if len(names) < known:
            msg = f"the images have {known} classes, but there are {len(names)} names of classes"
            raise ValueError(msg)
        return cls(objects.shape, names)

    @classmethod
    def of(cls, data: Data) -> Self:
        """The codec of images that were read."""
        return cls(data.train.shape, data.classes)

    def encode(self, objects: Images) -> Batch:
        """A clean batch.

        Raises:
            ValueError: If the images have another shape, or a class that is not known.
        """
        if objects.shape != self.event:
            msg = (
                f"images must have shape {self.event}, as those of the model, got {objects.shape}"
            )
            raise ValueError(msg)
        batch, labels = Batch.of({LEAF: objects.fields()}), objects.labels
        if labels is None or not self.classes:
            return batch
        last = len(self.classes) - 1
        if len(labels) and not 0 <= labels.min() <= labels.max() <= last:
            has = f"{labels.min()} to {labels.max()}"
            msg = f"labels must be from 0 to {last}, the classes of the model, got {has}"
            raise ValueError(msg)
        return batch.with_condition({LABEL: torch.from_numpy(labels)})

    def decode(self, batch: Batch) -> Images:
        """Clean leaves as images, with their classes where they are known."""
        return Images.of_fields(batch[LEAF], batch.condition.get(LABEL))

    def label(self, name: str) -> int:
        """The number of a class.

        Raises:
            ValueError: If there is none of that name.
        """
        if not self.classes:
            msg = f"there is no class {name!r}: the model was trained on images without classes"
            raise ValueError(msg)
        if name not in self.classes:
            some = ", ".join(self.classes[:20]) + (", ..." if len(self.classes) > 20 else "")
            msg = f"there is no class {name!r}; there are {some}"
            raise ValueError(msg)
        return self.classes.index(name)

    def bits_per_dimension(self, log_prob: Tensor) -> Tensor:
        """Bits of each of the 256 levels, from a log-density of images in [-1, 1].

        A level is 1 / 127.5 wide: bits = (D log 127.5 - log p) / (D log 2), D numbers an image.

        Arguments:
            log_prob: Natural logarithm of the density of each image, `(samples,)`.
        """
        dimension = math.prod(self.event)
        return (math.log(127.5) - log_prob / dimension) / math.log(2)

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {"event": list(self.event), "classes": list(self.classes)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From what `state` gave.

        Raises:
            ValueError: If a part is missing, of another kind or out of range.
        """
        fault = _fault(state)
        if fault:
            msg = f"this is not the state of a codec of images: {fault}"
            raise ValueError(msg)
        channels, height, width = state["event"]
        return cls((channels, height, width), tuple(state["classes"]))


def _fault(state: Any) -> str:
    """What is wrong with a state."""
    if not isinstance(state, dict) or not {"event", "classes"} <= state.keys():
        return "event or classes is missing"
    event, classes = state["event"], state["classes"]
    whole = isinstance(event, list) and len(event) == 3
    if not whole or not all(type(n) is int and n > 0 for n in event):
        return "event must be channels, height and width"
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return "" if named and len(set(classes)) == len(classes) else "classes must be different names"
