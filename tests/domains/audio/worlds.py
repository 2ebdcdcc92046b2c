"""Files of sound, small settings, and waves whose spectra are known."""

import io

import numpy as np
import soundfile

from structdiff.domains.audio.recipe import AudioConfig

RATE = 2_000


def sine(seconds=0.1, rate=RATE, frequency=200.0, level=0.5):
    """A tone."""
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def encoded(wave, rate=RATE, kind="WAV", subtype="PCM_16"):
    """A wave as the bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def keep(folder, name, wave, rate=RATE, kind="WAV", subtype="PCM_16"):
    """Write a wave below a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(wave, rate, kind, subtype))
    return path


def recordings(folder, count=20, classes=("high", "low")):
    """A folder of tones of two pitches, named as digits are."""
    for number in range(count):
        for place, label in enumerate(classes):
            wave = sine(0.1 + 0.001 * number, frequency=450 - 250 * place)
            keep(folder, f"{label}_ann_{number}.wav", wave)
    return folder


def settings(path=None, **groups):
    """Settings of a training of seconds."""
    small = {
        "data": {"path": None if path is None else str(path)},
        "sound": {"bands": 12},
        "network": {
            "width": 8,
            "multipliers": [1, 2],
            "attention": [],
            "blocks": 1,
            "features": 8,
        },
        "training": {
            "steps": 2,
            "batch_size": 4,
            "warm_up": 1,
            "bf16": False,
            "log_every": 1,
            "validate_every": 2,
        },
        "sampler": {"steps": 2, "batch_size": 3, "guidance": 1.0},
    }
    for name, group in groups.items():
        small[name] = {**small.get(name, {}), **group}
    return AudioConfig.model_validate(small)
