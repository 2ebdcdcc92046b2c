"""Clips in memory: sounds of one rate and one length, and data in three parts.

A shorter sound is followed by silence; what is padded is known, so it can be held in drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdiff.domains.audio.sounds import Sound, Wave
from structdiff.runs import checksum

__all__ = ["PARTS", "Clips", "Data", "peaked"]

PARTS = ("train", "validation", "test")
"""Of data."""

_PEAK = 0.95


@dataclass(frozen=True, eq=False)
class Clips:
    """Sounds of one rate and one length, padded with silence.

    Arguments:
        wave: Pressure in [-1, 1], `(clips, length)`.
        sizes: Samples of each clip before the padding, `(clips,)`.
        label: Number of the class of each, `(clips,)`; None without classes.
        names: Where each is from.
        rate: Samples in a second.
        classes: Names of the classes.

    Example:
        >>> clips = Clips.of([Sound(np.ones(3, np.float32), 8)], 4, 8)
        >>> clips.wave.tolist(), clips.sizes.tolist()
        ([[1.0, 1.0, 1.0, 0.0]], [3])
    """

    wave: NDArray[np.float32]
    sizes: NDArray[np.int64]
    label: NDArray[np.int64] | None
    names: tuple[str, ...]
    rate: int
    classes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, sounds: Sequence[Sound], length: int, rate: int, classes: Sequence[str] = ()
    ) -> Clips:
        """Sounds of that rate, cut or padded to that length.

        Arguments:
            sounds: The sounds.
            length: Samples of each.
            rate: The rate of each.
            classes: Names of the classes; without them labels are not kept.

        Raises:
            ValueError: If a sound has another rate, or a label that is none of the classes.
        """
        wave = np.zeros((len(sounds), length), np.float32)
        for place, sound in enumerate(sounds):
            if sound.rate != rate:
                msg = f"{sound.name or 'a sound'} has {sound.rate} Hz, not {rate}: resample it"
                raise ValueError(msg)
            kept = sound.wave[:length]
            wave[place, : len(kept)] = kept
        sizes = np.array([min(len(sound), length) for sound in sounds], np.int64)
        label = _numbers([sound.label for sound in sounds], classes) if classes else None
        names = tuple(sound.name for sound in sounds)
        return cls(wave, sizes, label, names, rate, tuple(classes))

    def __len__(self) -> int:
        return len(self.wave)

    @property
    def length(self) -> int:
        """Samples of each clip."""
        return int(self.wave.shape[1])

    def subset(self, indices: ArrayLike) -> Clips:
        """These clips, in this order."""
        chosen = np.asarray(indices, np.int64)
        label = None if self.label is None else self.label[chosen]
        names = tuple(self.names[i] for i in chosen)
        return Clips(self.wave[chosen], self.sizes[chosen], label, names, self.rate, self.classes)

    def sounds(self) -> list[Sound]:
        """The clips as sounds, without their padding."""
        labels = [""] * len(self) if self.label is None else [self.classes[i] for i in self.label]
        return [
            Sound(wave[:size], self.rate, label, name)
            for wave, size, label, name in zip(
                self.wave, self.sizes, labels, self.names, strict=True
            )
        ]

    def unlabelled(self) -> Clips:
        """The same clips without their classes."""
        return replace(self, label=None, classes=())

    def identity(self) -> dict[str, Any]:
        """What tells these clips from others: how many, of which shape, and a digest."""
        labels = b"" if self.label is None else self.label.astype("<i8").tobytes()
        waves = np.ascontiguousarray(self.wave.astype("<f4"))
        return {
            "samples": len(self),
            "length": self.length,
            "rate": self.rate,
            "classes": list(self.classes),
            "digest": checksum(waves.data.cast("B").tobytes(), labels),
        }


@dataclass(frozen=True, eq=False)
class Data:
    """Clips in three parts.

    Arguments:
        train: What is trained on.
        validation: What is looked at meanwhile; it may be empty.
        test: What is judged on; it may be empty.
        name: Where they are from.
        notes: What one should know of how they were read.
    """

    train: Clips
    validation: Clips
    test: Clips
    name: str
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """How many clips there are, of what kind, and the notes."""
        clips = self.train
        parts = zip(PARTS, (clips, self.validation, self.test), strict=True)
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts)
        kind = f"{clips.length:,} samples at {clips.rate:,} Hz ({clips.length / clips.rate:g} s)"
        said = f"classes {', '.join(clips.classes)}" if clips.classes else "no classes"
        head = f"{self.name}: clips {sizes}; {kind}; {said}"
        return "\n".join([head, *(f"  {note}" for note in self.notes)])


def peaked(wave: Wave) -> Wave:
    """A wave that is scaled so that its largest value is 0.95."""
    scaled: Wave = (wave * (_PEAK / np.abs(wave).max())).astype(np.float32)
    return scaled


def _numbers(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The number of each label.

    Raises:
        ValueError: If one is none of the classes.
    """
    number = {name: place for place, name in enumerate(classes)}
    unknown = sorted({label for label in labels if label not in number})
    if unknown:
        msg = f"the class {unknown[0]!r} is none of the classes {', '.join(classes)}"
        raise ValueError(msg)
    return np.array([number[label] for label in labels], np.int64)
