"""Looking at sounds before training."""

from __future__ import annotations

import numpy as np

from structdiff.domains.audio.clips import Clips, Data
from structdiff.domains.audio.recipe import AudioConfig
from structdiff.domains.audio.run import load_data

__all__ = ["examine"]

_SHOWN = 20


def examine(path: str) -> str:
    """What training with the default settings would do with sounds, in words.

    Arguments:
        path: What training would be given as data.path.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If nothing in it can be trained on.
    """
    data = load_data(AudioConfig.model_validate({"data": {"path": path}}))
    return "\n".join([data.report, *_classes(data.train), *_lengths(data.train), *_copies(data)])


def _classes(clips: Clips) -> list[str]:
    if clips.label is None:
        return [
            "no classes: put the recordings of a class into a folder of its own, or name them as "
            "in 7_jackson_32.wav, to have some"
        ]
    counts = np.bincount(clips.label, minlength=len(clips.classes)).tolist()
    named = [f"{name} {count:,}" for name, count in zip(clips.classes, counts, strict=True)]
    more = [f"{len(named) - _SHOWN} more"] * (len(named) > _SHOWN)
    lines = [f"training clips by class: {', '.join([*named[:_SHOWN], *more])}"]
    if max(counts) > 10 * min(counts):
        lines.append("the classes are of very different sizes: rare ones will be drawn badly")
    return lines


def _lengths(clips: Clips) -> list[str]:
    low, middle, high = np.quantile(clips.sizes / clips.rate, [0.05, 0.5, 0.95])
    silence = 1 - float(clips.sizes.sum()) / clips.wave.size
    return [
        f"lengths: {low:.3g}, {middle:.3g} and {high:.3g} s (5, 50 and 95 %); {silence:.0%} of "
        "the clips is silence after the end"
    ]


def _copies(data: Data) -> list[str]:
    own = {wave.tobytes() for wave in data.train.wave}
    shared = sum(wave.tobytes() in own for wave in data.test.wave)
    lines = []
    if copies := len(data.train) - len(own):
        lines.append(f"{copies:,} training clips are exact copies of others")
    if shared:
        lines.append(f"{shared:,} clips of the test part are in the training part too")
    return lines
