"""What is found of drawn samples: how near real ones, of their class, copied or not.

Every domain of fields puts its samples beside real ones in the same way: distances with their
protocol (see `structdiff.metrics.comparison`), the class that a judge says, and distances to the
nearest training samples (see `structdiff.metrics.nearest`). It brings the fields and the words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.likelihood.intervals import Interval
from structdiff.metrics.comparison import Comparison, Extractor, accuracy, compared, pooled, told
from structdiff.metrics.judge import JUDGING, Judge, Labelled, logits, train_judge
from structdiff.metrics.laws import total_variation
from structdiff.metrics.nearest import Copying, copying
from structdiff.runs.asked import checksum
from structdiff.training.config import TrainingConfig

__all__ = ["Judgement", "Reals", "cached_judge", "judgement"]


def cached_judge(
    train: Labelled,
    test: Labelled,
    event: Sequence[int],
    classes: int,
    *,
    folder: Path | str | None = None,
    config: TrainingConfig = JUDGING,
) -> Judge:
    """The judge of some data: read, gone on with, or trained.

    Arguments:
        train: What it learns from: the part for training alone.
        test: What it is looked at on.
        event: Channels, height and width of a field.
        classes: Number of classes.
        folder: Where it is kept; by default `judges` in $STRUCTDIFF_CACHE, or in
            ~/.cache/structdiff, one for each data set and each config.
        config: Settings of its training.

    Raises:
        ValueError: If there is nothing to train on or to look at, or a class is out of range.
    """
    if folder is None:
        known = [*(dict(part.identity) for part in (train, test)), config.model_dump(mode="json")]
        cache = Path(os.environ.get("STRUCTDIFF_CACHE") or "~/.cache/structdiff").expanduser()
        folder = cache / "judges" / checksum(repr(known).encode())
    return train_judge(train, test, event, classes, folder=folder, config=config)


@dataclass(frozen=True, eq=False)
class Reals:
    """The real samples that drawn ones are put beside, as fields `(samples, channels, h, w)`.

    Arguments:
        reference: What distances are measured to.
        others: What the same distances are told of, beside those of drawn samples.
        held: Samples that were not trained on, whose neighbours are looked for.
        train: Gives the training samples in blocks, from the first one, each time.
    """

    reference: Tensor
    others: Tensor
    held: Tensor
    train: Callable[[], Iterable[Tensor]]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found of drawn samples.

    Arguments:
        comparison: Distances and the like, with their protocol.
        copying: How near drawn and held-out samples are to training samples.
        unit: What a sample is called, as "image".
        field: What neighbours are looked for among, as "image" or "spectrogram".
        right: How often the judge says the class that was asked for; None without classes.
        real: How often it is right on real samples; None if it was not trained.
        classes: Total variation of the judge's classes, of drawn and of real samples; None where
            classes were asked for, or there are none.
    """

    comparison: Comparison
    copying: Copying
    unit: str
    field: str
    right: Interval | None = None
    real: float | None = None
    classes: float | None = None

    def rows(self) -> list[list[str]]:
        """A table, the head first."""
        rows = self.comparison.rows()
        if self.right is not None:
            real = "" if self.real is None else f"{self.real:.4g}"
            rows.append(["judged to be of the class asked for", told(self.right), real])
        if self.classes is not None:
            rows.append(["classes: total variation", f"{self.classes:.3g}", "0"])
        made, held = (
            float(side.distance.median()) for side in (self.copying.drawn, self.copying.held)
        )
        name = f"distance to the nearest training {self.field}, median"
        rows.append([name, f"{made:.4g}", f"{held:.4g}"])
        name = f"nearer than 99 % of held-out {self.unit}s"
        rows.append([name, told(self.copying.nearer), "0.01"])
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
            f"nearest training {self.field}": near,
        }


def judgement(
    x: Tensor,
    reals: Reals,
    judge: Judge | None,
    labels: NDArray[np.int64] | None,
    *,
    unit: str,
    field: str,
    extractor: Extractor | None = None,
) -> Judgement:
    """Measures drawn samples beside real ones.

    Arguments:
        x: Drawn fields, `(samples, channels, height, width)`.
        reals: Real ones.
        judge: Says classes; None where there are none.
        labels: Classes that were asked for, `(samples,)`; None if none were.
        unit: What a sample is called.
        field: What neighbours are looked for among.
        extractor: What distances are measured in: by default the judge's features, or the means
            of 8 x 8 cells.

    Raises:
        ValueError: If there are fewer than three of either.
    """
    comparison = compared(extractor or judge or pooled(), x, reals.reference, reals.others)
    near = copying(x, reals.held, reals.train)
    if judge is None:
        return Judgement(comparison, near, unit, field)
    protocol = {**comparison.protocol, "judge": judge.about()}
    found = Judgement(Comparison(comparison.lines, protocol), near, unit, field)
    if labels is not None:
        share = float(judge.facts["accuracy"]) if judge.facts else None
        return replace(found, right=accuracy(judge, x, labels), real=share)
    apart = total_variation(*(_counts(judge, part) for part in (x, reals.reference)))
    return replace(found, classes=apart)


def _counts(judge: Judge, x: Tensor) -> NDArray[np.int64]:
    """How many the judge puts into each class."""
    return torch.bincount(logits(judge, x).argmax(1).cpu(), minlength=judge.classes).numpy()
