"""Pictures of sounds: spectrograms in a grid, each with its wave above."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft

from structdiff.domains.audio.sounds import Sound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["decibels", "spectrograms"]

_INK, _WAVE, _MAP = "#2b2f36", "#3a63d8", "magma"
_RANGE = 70.0  # dB below the loudest that are shown
_MOST = 64
_WINDOW = 0.025  # seconds


def decibels(sound: Sound, window: float = _WINDOW) -> NDArray[np.float64]:
    """Power of each frequency and time over the largest, in dB, `(frequencies, times)`.

    Arguments:
        sound: The sound.
        window: Length of the window, in seconds; a quarter of it is the step.

    Example:
        >>> wave = np.sin(2 * np.pi * 1000 * np.arange(800) / 8000).astype(np.float32)
        >>> decibels(Sound(wave, 8000)).mean(1).argmax() * 40  # bins of 40 Hz
        np.int64(1000)
    """
    size = max(16, min(round(window * sound.rate), len(sound)))
    _, _, values = stft(
        sound.wave.astype(np.float64), sound.rate, nperseg=size, noverlap=size - max(1, size // 4)
    )
    power = np.abs(values) ** 2
    largest = max(float(power.max()), 1e-20)
    return np.asarray(10 * np.log10(np.maximum(power / largest, 1e-20)))


def spectrograms(
    sounds: Sequence[Sound], captions: Sequence[str] | None = None, *, columns: int = 8
) -> bytes:
    """A PNG of the spectrograms of sounds, at most 64, with their waves.

    Arguments:
        sounds: The sounds.
        captions: What is written above each; their classes by default.
        columns: How many stand in a row.

    Raises:
        ValueError: If there is no sound, or another number of captions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    said = [sound.label for sound in sounds] if captions is None else list(captions)
    if not sounds or len(said) != len(sounds) or columns < 1:
        msg = (
            f"cannot draw {len(sounds)} sounds with {len(said)} captions in {columns} columns: "
            "give at least one sound, a caption for each, and one column"
        )
        raise ValueError(msg)
    shown = list(zip(sounds, said, strict=True))[:_MOST]
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    width, height = 1.7 * columns + 0.5, 2.0 * rows + 0.1
    figure = Figure((width, height), dpi=110)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.45 / width, 0.05 / height, 1 - 0.08 / width, 1 - 0.25 / height)
    # A row of room for the numbers below and the caption of the next.
    panels = figure.subplots(
        3 * rows,
        columns,
        squeeze=False,
        height_ratios=[1, 3, 1] * rows,
        gridspec_kw={"hspace": 0.08, "wspace": 0.1},
    )
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        above, below, room = panels[3 * row : 3 * row + 3, column]
        room.axis("off")
        if number < len(shown):
            _draw(above, below, *shown[number], named=column == 0)
        else:
            above.axis("off")
            below.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(above: Axes, below: Axes, sound: Sound, caption: str, *, named: bool) -> None:
    """The wave and the spectrogram of one sound; only the first of a row has its axis named."""
    time = np.arange(len(sound)) / sound.rate
    above.plot(time, sound.wave, color=_WAVE, lw=0.5)
    above.set(xlim=(0, sound.seconds), ylim=(-1, 1), xticks=[], yticks=[])
    above.set_title(caption, fontsize=8, color=_INK)
    below.imshow(
        decibels(sound),
        origin="lower",
        aspect="auto",
        cmap=_MAP,
        vmin=-_RANGE,
        vmax=0,
        extent=(0, sound.seconds, 0, sound.rate / 2000),
        interpolation="nearest",
    )
    below.tick_params(labelsize=6, colors=_INK, length=2)
    below.locator_params(axis="x", nbins=4, prune="upper")
    if named:
        below.set_ylabel("kHz", fontsize=7, color=_INK)
    else:
        below.set_yticks([])
