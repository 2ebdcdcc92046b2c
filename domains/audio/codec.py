"""Sounds as records: `wave`, one row for each clip, with the condition `label`."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

import numpy as np
import torch

from structdiff.batch import Batch
from structdiff.codecs import Codec
from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.readers.recording import RATES, resampled
from structdiff.domains.audio.sounds import Sound

__all__ = ["AudioCodec"]


class AudioCodec(Codec[list[Sound]]):
    """The rate and the length of clips, and their classes.

    Arguments:
        rate: Samples in a second.
        length: Samples of a clip.
        classes: Names of the classes; none where there are less than two.
        counts: Training clips of each class.

    Example:
        >>> sounds = [Sound(np.ones(2, np.float32), 8000, label) for label in ("no", "yes")]
        >>> codec = AudioCodec.fit(sounds)
        >>> batch = codec.encode(sounds)
        >>> batch["wave"].shape, batch.condition["label"].tolist()
        (torch.Size([2, 1, 2]), [0, 1])
        >>> [sound.label for sound in codec.decode(batch)]
        ['no', 'yes']
    """

    def __init__(
        self, rate: int, length: int, classes: tuple[str, ...] = (), counts: tuple[int, ...] = ()
    ) -> None:
        self.rate, self.length, self.classes, self.counts = rate, length, classes, counts

    @classmethod
    def fit(cls, objects: list[Sound]) -> Self:
        """Read the rate, the length of the longest and the classes off sounds.

        Raises:
            ValueError: If there is no sound.
        """
        if not objects:
            msg = "there is no sound to fit to"
            raise ValueError(msg)
        tally = Counter(sound.label for sound in objects if sound.label)
        names = tuple(sorted(tally)) if len(tally) > 1 else ()
        length = max(len(sound) for sound in objects)
        return cls(objects[0].rate, length, names, tuple(tally[name] for name in names))

    @classmethod
    def of(cls, clips: Clips) -> Self:
        """The codec of clips that were read."""
        counts = np.bincount(
            np.zeros(0, np.int64) if clips.label is None else clips.label,
            minlength=len(clips.classes),
        )
        return cls(clips.rate, clips.length, clips.classes, tuple(counts.tolist()))

    @property
    def event(self) -> tuple[int, int]:
        """Shape of a wave."""
        return (1, self.length)

    def encode(self, objects: list[Sound]) -> Batch:
        """A clean batch; sounds are resampled, and cut or padded to the length.

        Where no sound has a label, the batch has none.

        Raises:
            ValueError: If a sound has a label that is none of the classes.
        """
        known = self.classes if any(one.label for one in objects) else ()
        brought = [
            Sound(resampled(one.wave, one.rate, self.rate), self.rate, one.label, one.name)
            for one in objects
        ]
        clips = Clips.of(brought, self.length, self.rate, known)
        batch = Batch.of({"wave": torch.from_numpy(clips.wave).unsqueeze(1)})
        if clips.label is None:
            return batch
        return batch.with_condition({"label": torch.from_numpy(clips.label)})

    def decode(self, batch: Batch) -> list[Sound]:
        """The sounds of a batch; what lies beyond the full scale is clipped."""
        waves = batch["wave"].detach().float().clamp(-1, 1)[:, 0].cpu().numpy()
        labels = self._labels(batch)
        return [
            Sound(wave, self.rate, label, f"clip {number}")
            for wave, label, number in zip(waves, labels, batch.ids.tolist(), strict=True)
        ]

    def number(self, label: str) -> int:
        """The number of a class.

        Raises:
            ValueError: If there is none of that name.
        """
        if label not in self.classes:
            there = f"the classes are {', '.join(self.classes)}" if self.classes else "it has none"
            msg = f"there is no class {label!r}: {there}"
            raise ValueError(msg)
        return self.classes.index(label)

    def _labels(self, batch: Batch) -> list[str]:
        """The class of each sample, "" where it is not known."""
        if not self.classes or "label" not in batch.condition:
            return [""] * batch.samples
        known = batch.present.get("label", torch.ones(batch.samples, dtype=torch.bool)).tolist()
        numbers = batch.condition["label"].tolist()
        return [self.classes[k] if there else "" for k, there in zip(numbers, known, strict=True)]

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {
            "rate": self.rate,
            "length": self.length,
            "classes": list(self.classes),
            "counts": list(self.counts),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From what `state` gave.

        Raises:
            ValueError: If a part is missing, of another kind or out of range.
        """
        fault = _fault(state)
        if fault:
            msg = f"this is not the state of an audio codec: {fault}"
            raise ValueError(msg)
        classes, counts = tuple(state["classes"]), tuple(state["counts"])
        return cls(state["rate"], state["length"], classes, counts)


def _fault(state: Any) -> str:
    """What is missing or out of range in a state."""
    names = {"rate", "length", "classes", "counts"}
    if not isinstance(state, dict) or state.keys() != names:
        return f"it must have {', '.join(sorted(names))}"
    for name, (low, high) in {"rate": RATES, "length": (1, 10**9)}.items():
        if type(state[name]) is not int or not low <= state[name] <= high:
            return f"{name} must be a whole number from {low:,} to {high:,}, got {state[name]!r}"
    classes, counts = state["classes"], state["counts"]
    if not isinstance(classes, list) or not all(isinstance(word, str) for word in classes):
        return f"classes must be a list of words, got {classes!r}"
    if len(set(classes)) != len(classes) or len(classes) == 1:
        return f"classes must differ, and be none or several, got {classes}"
    if not isinstance(counts, list) or len(counts) != len(classes):
        return f"counts must have a number for each of the classes, got {counts!r}"
    if not all(type(count) is int and count >= 0 for count in counts):
        return f"counts must be whole numbers from 0 on, got {counts}"
    return ""
