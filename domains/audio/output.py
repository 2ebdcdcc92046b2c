"""Sounds as files: one recording of them all, an archive of single ones, arrays, spectrograms.

.wav and .flac hold all sounds one after the other with gaps between, .zip a .wav for each, .npz
the arrays `wave`, `rate` and `label`, .png their spectrograms. Waves are written as integers of 16
bits. A file is written whole or not at all.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from structdiff.artifacts import write_atomic
from structdiff.domains.audio.pictures import spectrograms
from structdiff.domains.audio.sounds import Sound, Wave

__all__ = ["GAP", "SUFFIXES", "check_free", "encode", "joined", "write"]

SUFFIXES = (".wav", ".flac", ".zip", ".npz", ".png")

GAP = 0.25
"""Seconds of silence between two sounds of one recording."""

_DATE = (1980, 1, 1, 0, 0, 0)  # the same sounds are the same bytes


def joined(sounds: Sequence[Sound]) -> Wave:
    """Sounds of one rate, one after the other with gaps between.

    Raises:
        ValueError: If there is none, or they have several rates.
    """
    rates = {sound.rate for sound in sounds}
    if len(rates) != 1:
        msg = f"sounds of one recording must have one rate, got {sorted(rates)}"
        raise ValueError(msg)
    gap = np.zeros(round(GAP * rates.pop()), np.float32)
    parts = [part for sound in sounds for part in (sound.wave, gap)]
    return np.concatenate(parts[:-1])


def encode(suffix: str, sounds: Sequence[Sound]) -> bytes:
    """Sounds in the format of a suffix.

    Raises:
        ValueError: If there is no sound.
    """
    if not sounds:
        msg = "there is no sound to write"
        raise ValueError(msg)
    make: Mapping[str, Callable[[], bytes]] = {
        ".wav": lambda: _recording(joined(sounds), sounds[0].rate, "WAV"),
        ".flac": lambda: _recording(joined(sounds), sounds[0].rate, "FLAC"),
        ".zip": lambda: _archive(sounds),
        ".npz": lambda: _arrays(sounds),
        ".png": lambda: spectrograms(sounds),
    }
    return make[suffix]()


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuses, before any work is done, a path that cannot or must not be written.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        msg = (
            f"cannot write {path}: the suffix {path.suffix!r} is not known; allowed are "
            f"{', '.join(SUFFIXES)}, or a folder, which has none"
        )
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"no such folder: {path.parent}; create it first"
        raise FileNotFoundError(msg)
    if path.exists() and not overwrite:
        msg = f"{path} exists; choose another name, or allow --overwrite"
        raise ValueError(msg)


def write(path: Path, sounds: Sequence[Sound], *, overwrite: bool = False) -> str:
    """Write sounds in the format of the suffix, and say so.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, or the file exists and may not be replaced.
        OSError: If the file cannot be written.
    """
    check_free(path, overwrite=overwrite)
    write_atomic(path, encode(path.suffix.lower(), sounds))
    return f"{len(sounds):,} clips written to {path}"


def _recording(wave: Wave, rate: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave.clip(-1, 1), rate, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def _archive(sounds: Sequence[Sound]) -> bytes:
    """A .wav for each sound, named by its number and class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, sound in enumerate(sounds):
            name = f"{number:05}{'_' if sound.label else ''}{_plain(sound.label)}.wav"
            info = zipfile.ZipInfo(name, _DATE)
            archive.writestr(info, _recording(sound.wave, sound.rate, "WAV"))
    return buffer.getvalue()


def _plain(label: str) -> str:
    """A class as part of a name of a file."""
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in label)


def _arrays(sounds: Sequence[Sound]) -> bytes:
    """The waves, padded with silence to one length."""
    wave = np.zeros((len(sounds), max(map(len, sounds))), np.float32)
    for row, sound in zip(wave, sounds, strict=True):
        row[: len(sound)] = sound.wave
    label = np.array([sound.label for sound in sounds], np.str_)
    buffer = io.BytesIO()
    np.savez(buffer, wave=wave, rate=np.array([sound.rate for sound in sounds]), label=label)
    return buffer.getvalue()
