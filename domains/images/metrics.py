"""How near drawn images are to real ones, whether they are of their class, and if they are copies.

Distances are of the features of a judge, a small classifier trained on the part for training (see
`structdiff.metrics.judge`), or of any extractor that is handed in; without classes, of the
brightness of 8 x 8 cells. Real images of the test part are the reference; beside each number
stands that of as many other real ones. Whether images are copies is looked at in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.domains.images.cache import cache_folder, entry_name
from structdiff.domains.images.data import Data
from structdiff.domains.images.images import Images
from structdiff.likelihood.intervals import Interval
from structdiff.metrics.comparison import (
    Comparison,
    Extractor,
    accuracy,
    compared,
    pooled,
    told,
)
from structdiff.metrics.judge import JUDGING, Judge, Labelled, logits, train_judge
from structdiff.metrics.laws import total_variation
from structdiff.metrics.nearest import Copying, copying
from structdiff.training import TrainingConfig

__all__ = ["Judgement", "judge_images", "judge_of"]

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
    if folder is None:
        known = [dict(part.identity) for part in (train, held)]
        name = entry_name(known, config.model_dump(mode="json"))
        folder = cache_folder().parent / "judges" / name
    event, classes = data.train.shape, len(data.classes)
    return train_judge(train, held, event, classes, folder=folder, config=config)


def _labelled(images: Images) -> Labelled:
    if images.labels is None:
        msg = "the images have no classes: there is nothing to train a judge for"
        raise ValueError(msg)
    return Labelled(images.labels, images.fields, images.identity())


def _held(data: Data) -> Images:
    """What was not trained on."""
    return data.test if len(data.test) else data.validation


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found of drawn images.

    Arguments:
        comparison: Distances and the like, with their protocol.
        copying: How near drawn and held-out images are to training images.
        right: How often the judge says the class that was asked for; None without classes.
        real: How often it is right on real images.
        classes: Total variation of the judge's classes, of drawn and of real images; None where
            classes were asked for, or there are none.
    """

    comparison: Comparison
    copying: Copying
    right: Interval | None = None
    real: float | None = None
    classes: float | None = None

    def rows(self) -> list[list[str]]:
        """A table, the head first."""
        rows = self.comparison.rows()
        if self.right is not None:
            rows.append(
                ["judged to be of the class asked for", told(self.right), f"{self.real:.4g}"]
            )
        if self.classes is not None:
            rows.append(["classes: total variation", f"{self.classes:.3g}", "0"])
        made, held = (
            float(side.distance.median()) for side in (self.copying.drawn, self.copying.held)
        )
        name = "distance to the nearest training image, median"
        rows.append([name, f"{made:.4g}", f"{held:.4g}"])
        rows.append(["nearer than 99 % of held-out images", told(self.copying.nearer), "0.01"])
        return rows

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        near = {
            "median of drawn": float(self.copying.drawn.distance.median()),
            "median of held-out": float(self.copying.held.distance.median()),
            "threshold": self.copying.threshold,
            "share below": self.copying.nearer._asdict(),
        }
        return {
            "protocol": self.comparison.protocol,
            "measures": self.comparison.numbers(),
            "accuracy": None if self.right is None else self.right._asdict(),
            "accuracy of the judge": self.real,
            "classes, total variation": self.classes,
            "nearest training image": near,
        }


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
    features = extractor or judge or pooled()
    comparison = compared(features, x, reference.fields(), _others(data, len(x), random).fields())
    held = _some(_held(data), _HELD, random).fields()
    near = copying(x, held, partial(_blocks, data.train))
    asked = judge is not None and drawn.labels is not None
    if judge is None:
        return Judgement(comparison, near)
    protocol = {**comparison.protocol, "judge": judge.about()}
    found = Comparison(comparison.lines, protocol)
    share = float(judge.facts["accuracy"]) if judge.facts else None
    if asked and drawn.labels is not None:
        return Judgement(found, near, accuracy(judge, x, drawn.labels), share)
    apart = total_variation(_counts(judge, x), _counts(judge, reference.fields()))
    return Judgement(found, near, classes=apart)


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


def _counts(judge: Judge, x: Tensor) -> NDArray[np.int64]:
    guess = logits(judge, x).argmax(1).cpu()
    return torch.bincount(guess, minlength=judge.classes).numpy()
