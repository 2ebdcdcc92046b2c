"""How near drawn sounds are to real ones, whether they are of their class, and if they are copies.

Sounds are looked at in log-mel spectrograms of their waves, whatever the model is of. Distances
are of the features of a judge, a small classifier that is trained on the part for training (see
`structdiff.metrics.judge`); without classes, of the loudness of 8 x 8 cells. Real sounds of the
test part are the reference; beside each number stands that of as many other real ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structdiff.domains.audio.clips import Clips, Data
from structdiff.domains.audio.forms import Spectra
from structdiff.domains.audio.metrics import mel_of
from structdiff.domains.audio.sounds import Sound
from structdiff.likelihood.intervals import Interval
from structdiff.metrics.comparison import Comparison, Extractor, accuracy, compared, pooled, told
from structdiff.metrics.judge import JUDGING, Judge, Labelled, logits, train_judge
from structdiff.metrics.laws import total_variation
from structdiff.metrics.nearest import Copying, copying
from structdiff.runs import checksum
from structdiff.training import TrainingConfig

__all__ = ["Judgement", "judge_of", "judged", "pictures_of"]

_CHUNK = 256


def pictures_of(clips: Clips) -> Tensor:
    """What sounds are judged by, `(clips, 1, bands, frames)` in [-1, 1]."""
    spectra = Spectra(mel_of(clips.length, clips.rate))
    waves = torch.from_numpy(clips.wave).unsqueeze(1)
    return torch.cat([spectra.fields(part) for part in torch.split(waves, _CHUNK)])


def judge_of(
    data: Data, *, folder: Path | str | None = None, config: TrainingConfig = JUDGING
) -> Judge:
    """The judge of some data: read, gone on with, or trained.

    Arguments:
        data: Sounds with classes; the part for training trains it, that for the test tells how
            good it is.
        folder: Where it is kept; by default `judges` in $STRUCTDIFF_CACHE, or in
            ~/.cache/structdiff, one for each data set.
        config: Settings of its training.

    Raises:
        ValueError: If the sounds have no classes, or there are none to look at it with.
    """
    train, test = _labelled(data.train), _labelled(held_of(data))
    if folder is None:
        known = [*(dict(part.identity) for part in (train, test)), config.model_dump(mode="json")]
        cache = Path(os.environ.get("STRUCTDIFF_CACHE") or "~/.cache/structdiff").expanduser()
        folder = cache / "judges" / checksum(repr(known).encode())
    event = train.fields(np.zeros(1, np.int64)).shape[1:]
    return train_judge(train, test, event, len(data.train.classes), folder=folder, config=config)


def _labelled(clips: Clips) -> Labelled:
    if clips.label is None:
        msg = "the sounds have no classes: there is nothing to train a judge for"
        raise ValueError(msg)
    pictures = pictures_of(clips)
    return Labelled(clips.label, lambda index: pictures[index], clips.identity())


def held_of(data: Data) -> Clips:
    """What was not trained on."""
    return data.test if len(data.test) else data.validation


@dataclass(frozen=True, eq=False)
class Judgement:
    """What was found of drawn sounds.

    Arguments:
        comparison: Distances and the like, with their protocol.
        copying: How near drawn and held-out sounds are to training sounds.
        right: How often the judge says the class that was asked for; None without classes.
        real: How often it is right on real sounds.
        classes: Total variation of the judge's classes, of drawn and of real sounds; None where
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
            name = "judged to be of the class asked for"
            rows.append([name, told(self.right), f"{self.real:.4g}"])
        if self.classes is not None:
            rows.append(["classes: total variation", f"{self.classes:.3g}", "0"])
        made, held = (
            float(side.distance.median()) for side in (self.copying.drawn, self.copying.held)
        )
        name = "distance to the nearest training spectrogram, median"
        rows.append([name, f"{made:.4g}", f"{held:.4g}"])
        rows.append(["nearer than 99 % of held-out sounds", told(self.copying.nearer), "0.01"])
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
            "nearest training spectrogram": near,
        }


def judged(
    drawn: Sequence[Sound],
    data: Data,
    judge: Judge | None,
    *,
    extractor: Extractor | None = None,
    seed: int = 0,
) -> Judgement:
    """Measures drawn sounds beside real ones.

    Arguments:
        drawn: Drawn sounds; with labels where classes were asked for.
        data: Real ones.
        judge: Says classes; None where there are none.
        extractor: What distances are measured in: by default the judge's features, or loudness.
        seed: Which real sounds are taken.

    Raises:
        ValueError: If there are fewer than three of either.
    """
    train, held = data.train, held_of(data)
    asked = judge is not None and all(sound.label for sound in drawn)
    clips = Clips.of(drawn, train.length, train.rate, train.classes if asked else ())
    x, reference = pictures_of(clips), pictures_of(held)
    known = pictures_of(train)
    order = np.sort(np.random.default_rng(seed).permutation(len(train))[: len(x)])
    other = pictures_of(data.validation) if _serves(data, len(x)) else known[order]
    comparison = compared(extractor or judge or pooled(), x, reference, other)
    near = copying(x, reference, lambda: [known])
    if judge is None:
        return Judgement(comparison, near)
    found = Comparison(comparison.lines, {**comparison.protocol, "judge": judge.about()})
    share = float(judge.facts["accuracy"])
    if clips.label is not None:
        return Judgement(found, near, accuracy(judge, x, clips.label), share)
    counts = [
        torch.bincount(logits(judge, part).argmax(1).cpu(), minlength=judge.classes).numpy()
        for part in (x, reference)
    ]
    return Judgement(found, near, classes=total_variation(*counts))


def _serves(data: Data, count: int) -> bool:
    """Whether the part for validation is large enough to stand beside so many drawn sounds."""
    return len(data.test) > 0 and len(data.validation) >= count
