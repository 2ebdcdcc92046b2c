"""Looking at images before training."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import numpy as np

from structdiff.domains.images.data import Data
from structdiff.domains.images.images import Images
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.domains.images.run import load_data

__all__ = ["examine"]

_SHOWN = 20
_LOOKED_AT = 2_000


def examine(path: str) -> str:
    """What training with the default settings would do with images, in words.

    Arguments:
        path: What training would be given as data.path.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If nothing in it can be trained on.
    """
    data = load_data(ImagesConfig.model_validate({"data": {"path": path}}))
    return "\n".join([data.report, *_classes(data), *_brightness(data.train), *_copies(data)])


def _classes(data: Data) -> list[str]:
    labels = data.train.labels
    if labels is None:
        return ["no classes: put the images of a class into a folder of its own to have some"]
    counts = np.bincount(labels, minlength=len(data.classes)).tolist()
    named = [f"{name} {count:,}" for name, count in zip(data.classes, counts, strict=True)]
    more = [f"{len(named) - _SHOWN} more"] * (len(named) > _SHOWN)
    lines = [f"training images by class: {', '.join([*named[:_SHOWN], *more])}"]
    if max(counts) > 10 * min(counts):
        lines.append("the classes are of very different sizes: rare ones will be drawn badly")
    return lines


def _brightness(images: Images) -> list[str]:
    some = images.pixels[:: max(1, len(images) // _LOOKED_AT)]
    mean, spread = float(some.mean()), float(some.std())
    lines = [f"brightness {mean:.0f} +- {spread:.0f} of 255"]
    flat = float((some.reshape(len(some), -1).std(1) < 1).mean())
    if flat:
        lines.append(f"{flat:.1%} of them hold one brightness only: remove them if not meant")
    return lines


def _copies(data: Data) -> list[str]:
    seen = Counter(
        blake2b(np.ascontiguousarray(one).data, digest_size=16).digest()
        for one in data.train.pixels
    )
    copies = sum(seen.values()) - len(seen)
    own = {
        blake2b(np.ascontiguousarray(one).data, digest_size=16).digest()
        for one in data.test.pixels
    }
    lines = []
    if copies:
        lines.append(f"{copies:,} training images are exact copies of others")
    if shared := len(own & seen.keys()):
        lines.append(f"{shared:,} images of the test part are in the training part too")
    return lines
