"""Where sounds come from: anyone's folder of recordings, or synthesised tones.

Recordings are mixed down to one channel, brought to one rate, scaled, and cut or padded to one
length. What cannot be used is left out, counted and listed; the waves are held in memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from structdiff.domains.audio.clips import PARTS, Clips, Data, peaked
from structdiff.domains.audio.labels import Classes, below, classes_by, label_of
from structdiff.domains.audio.readers.files import Entry, entries
from structdiff.domains.audio.readers.recording import read_recording, resampled
from structdiff.domains.audio.sounds import Sound, Wave
from structdiff.domains.audio.split import By, split
from structdiff.domains.audio.tones import tones
from structdiff.runs import Settings

__all__ = ["Clips", "Data", "DataConfig", "Loaded", "load_sounds", "read"]

_SHOWN = 3  # names in a note
_MOST_SECONDS = 4.0
_LEAST_SECONDS = 0.02
_ROUND = 128


class DataConfig(Settings):
    """Which sounds."""

    path: str | None = None
    """A folder of recordings (.wav, .flac, .ogg, .aiff), a tar archive of one, or one recording;
    without one, synthesised tones of four timbres."""
    classes: Classes = "auto"
    """Where the class of a recording stands: in its folder, in the first word of its name (up to
    the first _), or nowhere; by default in the folder, where there are several, else in the name,
    where all are like 7_jackson_32."""
    rate: int | None = Field(default=None, ge=1_000, le=768_000)
    """Samples in a second; by default those of most recordings."""
    seconds: float | None = Field(default=None, gt=0, le=600)
    """How long a clip is; by default as 95 of 100 recordings, at most 4."""
    long: Literal["first", "windows"] = "first"
    """What becomes of a longer recording: its beginning, or clips side by side."""
    loudness: Literal["peak", "keep"] = "peak"
    """Whether each clip is scaled to one peak, or left as loud as it is."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Share of the recordings that is looked at during training."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Share of the recordings that is kept for judging."""
    split_by: By = "auto"
    """What says the part of a recording: its number in a name like 7_jackson_32 (the first tenth
    of each class and speaker is for the test), its speaker, or its content; by default the number,
    where all have one."""
    split_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the order of speakers or contents."""

    @model_validator(mode="after")
    def _leaves_some(self) -> DataConfig:
        if self.validation + self.test >= 1:
            msg = (
                f"data.validation + data.test = {self.validation + self.test:g} leaves nothing to "
                "train on: choose smaller shares"
            )
            raise ValueError(msg)
        return self


class Loaded(NamedTuple):
    """What was read.

    Arguments:
        sounds: The sounds, each at its own rate.
        name: Where they are from.
        notes: What one should know of how they were read.
    """

    sounds: list[Sound]
    name: str
    notes: tuple[str, ...]


def load_sounds(path: Path | str | None = None, classes: Classes = "auto") -> Loaded:
    """All recordings of a path that can be used, each at its own rate.

    Arguments:
        path: A folder, a tar archive or a recording; without one, synthesised tones.
        classes: Where the class of a recording stands.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If it holds no recording that can be used.
    """
    if path is None:
        made = tones()
        unlabelled = [replace(sound, label="") for sound in made]
        return Loaded(unlabelled if classes == "none" else made, "synthesised tones", ())
    sounds, others, folders = list[Sound](), list[str](), list[str]()
    skipped, mixed = list[tuple[str, str]](), list[str]()
    for entry in entries(path):
        if entry.content is None:
            (folders if entry.name.endswith("/") else others).append(entry.name)
            continue
        sound, channels, why = _sound(entry)
        if sound is None:
            skipped.append((entry.name, why))
            continue
        sounds.append(sound)
        mixed += [entry.name] * (channels > 1)
    notes = [*_left_out(skipped), *_also(mixed, others)]
    if not sounds:
        listed = "".join(f"\n  {note}" for note in notes)
        msg = f"{path} has no recording that can be used (.wav, .flac, .ogg, .aiff){listed}"
        raise ValueError(msg)
    labelled, more = _labelled(sounds, classes, folders)
    return Loaded(labelled, str(path), (*notes, *more))


def _sound(entry: Entry) -> tuple[Sound | None, int, str]:
    """The sound of a file with the number of its channels, or why there is none."""
    try:
        found = read_recording(entry.content or b"")
    except ValueError as error:
        return None, 0, str(error)
    return Sound(found.wave, found.rate, name=entry.name), found.channels, ""


def _labelled(
    sounds: Sequence[Sound], classes: Classes, folders: Sequence[str]
) -> tuple[list[Sound], list[str]]:
    """The sounds with their classes, and what to say of them."""
    names = [sound.name for sound in sounds]
    where = classes_by(names, classes)
    labels = [label_of(name, where) for name in below(names)]
    lost = [name for name, label in zip(names, labels, strict=True) if not label]
    notes = []
    if where == "folder":
        empty = [f for f in folders if not any(name.startswith(f) for name in names)]
        notes += _counted(empty, "folder", "without a recording", "no class")
    if where != "none" and lost:
        notes += _counted(lost, "recording", "in no folder", "left out")
    kept = [
        replace(sound, label=label)
        for sound, label in zip(sounds, labels, strict=True)
        if label or where == "none"
    ]
    return kept, notes


def read(
    path: Path | str | None = None,
    *,
    classes: Classes = "auto",
    rate: int | None = None,
    seconds: float | None = None,
    long: Literal["first", "windows"] = "first",
    loudness: Literal["peak", "keep"] = "peak",
    validation: float = 0.1,
    test: float = 0.1,
    split_by: By = "auto",
    split_seed: int = 0,
    known: Sequence[str] | None = None,
) -> Data:
    """Reads recordings and splits them; the arguments are the settings of `DataConfig`.

    Arguments:
        path: A folder of recordings, a tar archive of one, or one recording; by default tones.
        classes: Where the class of a recording stands.
        rate: Samples in a second; by default those of most recordings.
        seconds: How long a clip is; by default as 95 of 100 recordings, at most 4.
        long: What becomes of a longer recording.
        loudness: Whether each clip is scaled to one peak.
        validation: Share of the recordings for validation.
        test: Share of the recordings for the test.
        split_by: What says the part of a recording.
        split_seed: Seed of its order.
        known: Classes of a trained model, if there is one; empty if it has none.

    Raises:
        FileNotFoundError: If there is nothing of that name.
        ValueError: If nothing can be used, or nothing is left to train on.

    Example:
        >>> data = read()
        >>> data.train.wave.shape, data.train.classes
        ((204, 1024), ('bell', 'flute', 'reed', 'string'))
    """
    loaded = load_sounds(path, classes)
    rate = rate or Counter(sound.rate for sound in loaded.sounds).most_common(1)[0][0]
    sounds, changed = _at_rate(loaded.sounds, rate)
    length = _length(sounds, rate, seconds)
    parts = split(sounds, split_by, validation, test, split_seed)
    chosen = [[sounds[i] for i in part] for part in parts]
    if not chosen[0]:
        msg = f"{loaded.name} has {len(sounds)} recordings, none is left to train on: give more"
        raise ValueError(msg)
    found = sorted({sound.label for sound in sounds} - {""}) if known is None else list(known)
    named = found if len(found) > 1 else []
    cut = [list(_clips(part, length, long, loudness)) for part in chosen]
    clips = [Clips.of(part, length, rate, named) for part in cut]
    longer = [sound.name for sound in sounds if len(sound) > length]
    notes = [*loaded.notes, *changed, *_cut(longer, long), *_loud(sounds, loudness)]
    notes += [f"no recording is for {n}" for n, p in zip(PARTS, clips, strict=True) if not len(p)]
    return Data(clips[0], clips[1], clips[2], loaded.name, tuple(notes))


def _at_rate(sounds: Sequence[Sound], rate: int) -> tuple[list[Sound], list[str]]:
    """Sounds at one rate that are long enough, and what to say of them.

    Raises:
        ValueError: If none is long enough.
    """
    least = _LEAST_SECONDS
    short = [sound.name for sound in sounds if sound.seconds < least]
    kept = [
        replace(sound, wave=resampled(sound.wave, sound.rate, rate), rate=rate)
        for sound in sounds
        if sound.seconds >= least
    ]
    notes = _counted(short, "recording", f"shorter than {least:g} s", "left out")
    if not kept:
        msg = f"no recording can be used: {notes[0]}"
        raise ValueError(msg)
    others = [sound.name for sound in sounds if sound.rate != rate and sound.name not in short]
    return kept, notes + _counted(others, "recording", "of another rate", f"now at {rate:,} Hz")


def _length(sounds: Sequence[Sound], rate: int, seconds: float | None) -> int:
    """Samples of a clip, by default a multiple of 128."""
    if seconds is not None:
        return max(1, round(seconds * rate))
    usual = float(np.quantile([len(sound) for sound in sounds], 0.95, method="higher"))
    return _ROUND * math.ceil(min(usual, _MOST_SECONDS * rate) / _ROUND)


def _clips(
    sounds: Iterable[Sound],
    length: int,
    long: Literal["first", "windows"],
    loudness: Literal["peak", "keep"],
) -> Iterator[Sound]:
    """Sounds of at most that length; a window that is silent or too short is passed over."""
    for sound in sounds:
        ends = range(length, len(sound) + length, length) if long == "windows" else [length]
        for number, end in enumerate(ends):
            wave = sound.wave[end - length : end]
            if len(wave) < _LEAST_SECONDS * sound.rate or not np.abs(wave).max():
                continue
            name = f"{sound.name}[{number}]" if number else sound.name
            yield replace(sound, wave=_scaled(wave, loudness), name=name)


def _scaled(wave: Wave, loudness: Literal["peak", "keep"]) -> Wave:
    return peaked(wave) if loudness == "peak" else wave.clip(-1, 1)


def _left_out(skipped: Sequence[tuple[str, str]]) -> list[str]:
    """What to say of files that could not be used, by reason."""
    if not skipped:
        return []
    listed = "; ".join(f"{name} {why}" for name, why in skipped[:_SHOWN])
    more = f" and {len(skipped) - _SHOWN:,} more" if len(skipped) > _SHOWN else ""
    return [f"{len(skipped):,} of the files left out: {listed}{more}"]


def _also(mixed: Sequence[str], others: Sequence[str]) -> list[str]:
    suffixes = sorted({Path(name).suffix.lower() or "no suffix" for name in others})
    return [
        *_counted(mixed, "recording", "of several channels", "mixed down to one"),
        *_counted(others, "file", f"of another kind ({', '.join(suffixes)})", "not read"),
    ]


def _cut(names: Sequence[str], long: Literal["first", "windows"]) -> list[str]:
    what = "cut at its end" if long == "first" else "cut into several"
    return _counted(names, "recording", "longer than a clip", what)


def _loud(sounds: Sequence[Sound], loudness: Literal["peak", "keep"]) -> list[str]:
    if loudness == "peak":
        return []
    above = [sound.name for sound in sounds if np.abs(sound.wave).max() > 1]
    return _counted(above, "recording", "louder than the full scale", "clipped")


def _counted(names: Sequence[str], what: str, kind: str, done: str) -> list[str]:
    """`3 recordings of another rate: now at 8,000 Hz (a.wav, b.wav, c.wav)`; nothing of none."""
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return [f"{len(names):,} {what}{'s' * (len(names) > 1)} {kind}: {done} ({shown})"]
