"""How near drawn images are to real ones, whether they are of their class, and if they are copies.

Distances are of the features of a judge, a small classifier trained on the part for training (see
`structdiff.metrics.judge`), or of any extractor that is handed in; without classes, of the
brightness of 8 x 8 cells. Real images of the test part are the reference; beside each number
stands that of as many other real ones. Whether images are copies is looked at in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from structdiff.domains.images.data import Data
from structdiff.domains.images.images import Images
from structdiff.metrics.comparison import Extractor
from structdiff.metrics.judge import JUDGING, Judge, Labelled
from structdiff.metrics.judgement import Judgement, Reals, cached_judge, judgement
from structdiff.training import TrainingConfig

__all__ = ["judge_images", "judge_of"]

_REFERENCE = 10_000  # real images that drawn ones are compared with
_HELD = 1_000  # real images whose neighbours are looked for
_BLOCK = 1 << 24  # numbers of training images held at a time


def judge_of(
    data: Data, *, folder: Path | str | None = None, config: TrainingConfig = JUDGING
) -> Judge:
    """The judge of some data: read, gone on with, or trained.

    Arguments:
        data: Images with classes; the part for training trains it, that for the test tells how
            good it is.
        folder: Where it is kept; by default `judges` in the cache, one for each data set.
        config: Settings of its training.

    Raises:
        ValueError: If the images have no classes, or there are none to look at it with.
    """
    train, held = _labelled(data.train), _labelled(_held(data))
    event, classes = data.train.shape, len(data.classes)
    return cached_judge(train, held, event, classes, folder=folder, config=config)


def _labelled(images: Images) -> Labelled:
    if images.labels is None:
        msg = "the images have no classes: there is nothing to train a judge for"
        raise ValueError(msg)
    return Labelled(images.labels, images.fields, images.identity())


def _held(data: Data) -> Images:
    """What was not trained on."""
    return data.test if len(data.test) else data.validation


def judge_images(
    drawn: Images,
    data: Data,
    judge: Judge | None,
    *,
    extractor: Extractor | None = None,
    seed: int = 0,
) -> Judgement:
    """Measures drawn images beside real ones.

    Arguments:
        drawn: Drawn images; with labels where classes were asked for.
        data: Real ones.
        judge: Says classes; None where there are none.
        extractor: What distances are measured in: by default the judge's features, or brightness.
        seed: Which real images are taken.

    Raises:
        ValueError: If there are fewer than three of either.
    """
    x, random = drawn.fields(), np.random.default_rng(seed)
    reference = _some(_held(data), _REFERENCE, random)
    others = _others(data, len(x), random).fields()
    held = _some(_held(data), _HELD, random).fields()
    reals = Reals(reference.fields(), others, held, partial(_blocks, data.train))
    return judgement(
        x, reals, judge, drawn.labels, unit="image", field="image", extractor=extractor
    )


def _some(images: Images, most: int, random: np.random.Generator) -> Images:
    """At most so many, drawn without replacement, in their order."""
    if len(images) <= most:
        return images
    return images.select(np.sort(random.permutation(len(images))[:most]))


def _others(data: Data, count: int, random: np.random.Generator) -> Images:
    """Real images beside the reference: for validation, or, where these are few, trained on."""
    pool = data.validation if len(data.validation) >= count and len(data.test) else data.train
    return _some(pool, count, random)


def _blocks(images: Images) -> Iterator[Tensor]:
    step = max(1, _BLOCK // int(np.prod(images.shape)))
    for start in range(0, len(images), step):
        yield images.fields(slice(start, start + step))
