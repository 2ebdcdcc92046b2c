"""How near drawn sounds are to real ones, whether they are of their class, and if they are copies.

Sounds are looked at in log-mel spectrograms of their waves, whatever the model is of. Distances
are of the features of a judge, a small classifier that is trained on the part for training (see
`structdiff.metrics.judge`); without classes, of the loudness of 8 x 8 cells. Real sounds of the
test part are the reference; beside each number stands that of as many other real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from structdiff.domains.audio.clips import Clips, Data
from structdiff.domains.audio.forms import Spectra
from structdiff.domains.audio.metrics import mel_of
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.comparison import Extractor
from structdiff.metrics.judge import JUDGING, Judge, Labelled
from structdiff.metrics.judgement import Judgement, Reals, cached_judge, judgement
from structdiff.training import TrainingConfig

__all__ = ["judge_of", "judged", "pictures_of"]

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
    event = train.fields(np.zeros(1, np.int64)).shape[1:]
    classes = len(data.train.classes)
    return cached_judge(train, test, event, classes, folder=folder, config=config)


def _labelled(clips: Clips) -> Labelled:
    if clips.label is None:
        msg = "the sounds have no classes: there is nothing to train a judge for"
        raise ValueError(msg)
    pictures = pictures_of(clips)
    return Labelled(clips.label, lambda index: pictures[index], clips.identity())


def held_of(data: Data) -> Clips:
    """What was not trained on."""
    return data.test if len(data.test) else data.validation


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
    pool = pictures_of(data.validation) if _serves(data, len(x)) else known
    # Clips stand class by class, so the first ones would be of the first classes.
    order = np.sort(np.random.default_rng(seed).permutation(len(pool))[: len(x)])
    other = pool[order]
    reals = Reals(reference, other, reference, lambda: [known])
    return judgement(
        x, reals, judge, clips.label, unit="sound", field="spectrogram", extractor=extractor
    )


def _serves(data: Data, count: int) -> bool:
    """Whether the part for validation is large enough to stand beside so many drawn sounds."""
    return len(data.test) > 0 and len(data.validation) >= count
