r"""Synthesised tones: four timbres at any pitch, the data that need no download.

    x(u) = sum_k a_k exp(-d_k u) sin(2 pi f r_k u + phi_k),   u in seconds,

with a pitch f that is drawn, partials r_k, strengths a_k and decays d_k of the timbre; partials
above half the rate are left out. Tones rise and fall within a hundredth of a second and have
different lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from structdiff.domains.audio.sounds import Sound, Wave

__all__ = ["RATE", "TIMBRES", "Timbre", "tone", "tones"]

RATE = 4_000
"""Samples in a second of the tones that come along."""

_PITCHES = (180.0, 540.0)
_SECONDS = (0.18, 0.25)
_EDGE = 0.01  # seconds in which a tone rises and falls
_PARTIALS = 12


class Timbre(NamedTuple):
    """What a tone is made of.

    Arguments:
        ratios: Frequency of each partial over the pitch.
        strengths: Of each.
        decays: Of each, in 1 / second.
    """

    ratios: tuple[float, ...]
    strengths: tuple[float, ...]
    decays: tuple[float, ...]


_ALL = tuple(float(k) for k in range(1, _PARTIALS + 1))
_ODD = _ALL[::2]

TIMBRES: Mapping[str, Timbre] = {
    "bell": Timbre((1.0, 2.76, 5.4), (1.0, 0.8, 0.5), (6.0, 12.0, 20.0)),
    "flute": Timbre((1.0, 2.0), (1.0, 0.15), (0.0, 0.0)),
    "reed": Timbre(_ODD, tuple(1 / k for k in _ODD), (0.0,) * len(_ODD)),
    "string": Timbre(_ALL, tuple(1 / k for k in _ALL), tuple(4.0 * k for k in _ALL)),
}
"""By name."""


def tone(timbre: Timbre, pitch: float, seconds: float, rate: int, phases: Wave) -> Wave:
    """One tone with its peak at 1.

    Arguments:
        timbre: What it is made of.
        pitch: Of its first partial, in Hz.
        seconds: How long it sounds.
        rate: Samples in a second.
        phases: Of the partials, in radians.
    """
    time = np.arange(round(seconds * rate)) / rate
    wave = np.zeros(len(time))
    for ratio, strength, decay, phase in zip(*timbre, phases, strict=False):
        if pitch * ratio < rate / 2:
            angle = 2 * np.pi * pitch * ratio * time + phase
            wave += strength * np.exp(-decay * time) * np.sin(angle)
    edge = np.minimum(1.0, np.minimum(time, time[::-1]) / _EDGE)
    wave *= edge
    peaked: Wave = (wave / np.abs(wave).max()).astype(np.float32)
    return peaked


def tones(count: int = 64, rate: int = RATE, seed: int = 0) -> list[Sound]:
    """Tones of each timbre, of drawn pitches, lengths and phases.

    Arguments:
        count: How many of each.
        rate: Samples in a second.
        seed: Start of the random numbers.

    Raises:
        ValueError: If the rate is too low for any pitch.

    Example:
        >>> sounds = tones(2)
        >>> [sound.name for sound in sounds[:3]], sounds[0].label
        (['bell_0', 'bell_1', 'flute_0'], 'bell')
    """
    if rate <= 2 * _PITCHES[1]:
        msg = f"rate must be above {2 * _PITCHES[1]:g} Hz to hold the highest pitch, got {rate}"
        raise ValueError(msg)
    random = np.random.default_rng(seed)
    found = []
    for label, timbre in TIMBRES.items():
        for number in range(count):
            pitch = float(np.exp(random.uniform(*np.log(_PITCHES))))
            phases = random.uniform(0, 2 * np.pi, _PARTIALS).astype(np.float32)
            wave = tone(timbre, pitch, random.uniform(*_SECONDS), rate, phases)
            found.append(Sound(wave, rate, label, f"{label}_{number}"))
    return found
