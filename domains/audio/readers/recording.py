"""One recording: from the bytes of a file to a wave of one channel, or why there is none.

Integers of any width become numbers in [-1, 1); several channels are mixed down to their mean.
libsndfile reads what is there of a file that was cut off; here it is refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from structdiff.domains.audio.sounds import Wave

__all__ = ["RATES", "Recording", "read_recording", "resampled"]

RATES = (1_000, 768_000)
"""The lowest and the highest rate of a recording."""

_UNKNOWN = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes that a writer of a stream leaves in the header
_CHUNKS = {
    (b"RIFF", b"WAVE"): ("<", b"data"),
    (b"FORM", b"AIFF"): (">", b"SSND"),
    (b"FORM", b"AIFC"): (">", b"SSND"),
}  # order of bytes, and name of the chunk of samples
_SILENT = 1e-4  # -80 dB of the full scale


class Recording(NamedTuple):
    """What a file holds.

    Arguments:
        wave: The mean of its channels, `(length,)`.
        rate: Samples in a second.
        channels: How many there were.
    """

    wave: Wave
    rate: int
    channels: int


def read_recording(content: bytes) -> Recording:
    """The wave of a file.

    Arguments:
        content: The bytes of the file.

    Raises:
        ValueError: If it is empty, no sound, cut off, silent, or has values that are not finite.
    """
    if not content:
        msg = "is empty"
        raise ValueError(msg)
    _check_whole(content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            frames, rate = file.frames, file.samplerate
            wave = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OverflowError, MemoryError, ValueError, TypeError) as error:
        msg = f"cannot be read ({_reason(error)})"
        raise ValueError(msg) from None
    for wrong, fault in _faults(wave, frames, rate):
        if wrong:
            raise ValueError(fault)
    return Recording(wave.mean(1), rate, wave.shape[1])


def resampled(wave: Wave, old: int, new: int) -> Wave:
    """A wave at another rate, by a polyphase filter below both halves of the rates.

    Arguments:
        wave: The wave, `(length,)`.
        old: Its rate.
        new: The rate that is wanted.

    Example:
        >>> len(resampled(np.zeros(4410, np.float32), 44100, 8000))
        800
    """
    if old == new:
        return wave
    common = gcd(old, new)
    found: Wave = resample_poly(wave.astype(np.float64), new // common, old // common).astype(
        np.float32
    )
    return found


def _faults(wave: Wave, frames: int, rate: int) -> Iterator[tuple[bool, str]]:
    yield not wave.size, "has no samples"
    yield len(wave) < frames, f"is cut off: {len(wave):,} of {frames:,} samples are there"
    yield (
        not RATES[0] <= rate <= RATES[1],
        f"has a rate of {rate:,} Hz, not from {RATES[0]:,} to {RATES[1]:,}",
    )
    bad = np.count_nonzero(~np.isfinite(wave))
    yield bool(bad), f"has values that are not finite ({bad:,} of {wave.size:,})"
    yield bool(np.ptp(wave.mean(1)) < _SILENT), "is silent"


def _check_whole(content: bytes) -> None:
    """Refuses a .wav or .aiff file that is shorter than its chunk of samples says.

    Raises:
        ValueError: If it is.
    """
    order, wanted = _CHUNKS.get((content[:4], content[8:12]), ("", b""))
    place = 12
    while wanted and place + 8 <= len(content):
        name, size = struct.unpack_from(f"{order}4sI", content, place)
        there = len(content) - place - 8
        if name == wanted:
            if size not in _UNKNOWN and there < size:
                msg = f"is cut off: {there:,} of {size:,} bytes of sound are there"
                raise ValueError(msg)
            return
        place += 8 + size + size % 2


def _reason(error: Exception) -> str:
    """What libsndfile says, without the name of the stream."""
    return (str(error).split(">: ")[-1].strip().rstrip(".") or type(error).__name__).lower()
