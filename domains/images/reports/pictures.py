"""Pictures of an evaluation: images by class, pairs with their nearest training images, films."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from structdiff.artifacts import write_atomic
from structdiff.domains.images.images import Images
from structdiff.domains.images.output import grid, png, strip
from structdiff.metrics.nearest import Neighbours

__all__ = ["Film", "by_class", "pairs"]

_WIDE = 640  # pixels that a picture should have at least
_ROWS = 10
_COLUMNS = 10


def by_class(drawn: Images, path: Path) -> None:
    """A grid of drawn images, a row for each class if they have classes.

    Arguments:
        drawn: The images.
        path: The PNG to write.
    """
    chosen = np.arange(min(len(drawn), _ROWS * _COLUMNS))
    columns = _COLUMNS
    if drawn.labels is not None:
        kinds = np.unique(drawn.labels)[:_ROWS]
        places = [np.flatnonzero(drawn.labels == kind)[:_COLUMNS] for kind in kinds]
        columns = min(map(len, places))
        chosen = np.concatenate([place[:columns] for place in places])
    _write(drawn.select(chosen), columns, path)


def pairs(drawn: Images, found: Neighbours, train: Images, path: Path) -> None:
    """The drawn images that are nearest to training images, each above the one that it is near.

    Arguments:
        drawn: The images.
        found: Their nearest training images.
        train: The training images.
        path: The PNG to write.
    """
    nearest = found.distance.argsort()[: 2 * _COLUMNS].cpu().numpy()
    rows = []
    for start in range(0, len(nearest), _COLUMNS):
        index = nearest[start : start + _COLUMNS]
        rows.append(drawn.pixels[index])
        rows.append(train.pixels[found.place.cpu().numpy()[index]])
    # A short last row would pull its pairs apart.
    columns = min(_COLUMNS, len(nearest))
    whole = [row for row in rows if len(row) == columns]
    _write(Images(np.concatenate(whole)), columns, path)


def _write(images: Images, columns: int, path: Path) -> None:
    scale = max(1, _WIDE // max(1, columns * images.shape[2]))
    write_atomic(path, png(grid(images, columns, scale=min(scale, 8))))


class Film:
    """Images on their way: what the model holds them to be, at some steps.

    Arguments:
        images: How many are followed.
        frames: How many moments are shown.
    """

    def __init__(self, images: int = 6, frames: int = 10) -> None:
        self.images, self.frames = images, frames
        self.seen: dict[int, Tensor] = {}

    def watch(self, step: int, x: Tensor) -> None:
        """Keep the first images of a step."""
        self.seen[step] = x[: self.images].detach().cpu()

    def chosen(self) -> Sequence[Images]:
        """Some of the moments, from noise to images."""
        steps = sorted(self.seen)
        places = np.unique(np.linspace(0, len(steps) - 1, self.frames).astype(int)).tolist()
        return [Images.of_fields(torch.nan_to_num(self.seen[steps[i]])) for i in places]

    def write(self, path: Path) -> bool:
        """Write the strip; whether there was anything to show."""
        if not self.seen:
            return False
        frames = self.chosen()
        scale = max(1, _WIDE // (len(frames) * frames[0].shape[2]))
        write_atomic(path, png(strip(frames, scale=min(scale, 8))))
        return True
