r"""Sounds under noise, for models that take it off: the clean sound x_0 given a noisy one y.

    y = x_0 + r n,   r^2 = mean(x_0^2) 10^(-snr / 10),

with white noise n, drawn anew each time that a clip is trained on. The model is shown the field of
y, be it the wave or its spectrogram. As the two are near each other, the noise of the process may
end around y, and a walk may begin at it (`structdiff.runs.fields.centre`).

References:
    A Study on Speech Enhancement Based on Diffusion Probabilistic Model (Lu, Tsao and Watanabe,
    2021). https://arxiv.org/abs/2107.11876
    Speech Enhancement and Dereverberation with Diffusion-based Generative Models (Richter et al.,
    2023). https://arxiv.org/abs/2208.05830
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from structdiff.counter import Counter
from structdiff.domains.audio.clips import Clips
from structdiff.domains.audio.forms import Form
from structdiff.domains.audio.metrics import log_mel_distance, signal_to_noise
from structdiff.domains.audio.sounds import Sound
from structdiff.layout import Layout
from structdiff.random import Randomness
from structdiff.runs.fields.conditions import Making

__all__ = ["NOISY", "Noised", "gains", "noised", "under_noise"]

NOISY = "noisy"
"""Name of the condition."""


def noised(clean: Tensor, snr: float, random: Randomness) -> Tensor:
    """Sounds under white noise of a ratio of signal to noise, each by its own loudness.

    Arguments:
        clean: Waves, `(samples, 1, length)`.
        snr: The ratio, in dB.
        random: Where the noise comes from.

    Example:
        >>> from structdiff import Generator
        >>> wave = torch.sin(torch.arange(40_000) * 0.3).expand(1, 1, -1)
        >>> added = noised(wave, 10.0, Generator(0)) - wave
        >>> round(float(10 * (wave.square().mean() / added.square().mean()).log10()))
        10
    """
    level = clean.square().mean((1, 2), keepdim=True).sqrt() * 10 ** (-snr / 20)
    return clean + level * random.normal(clean.shape, clean.dtype, clean.device)


class Noised(Making):
    """The field of a sound under noise.

    Arguments:
        form: What a field is.
        length: Samples of a wave.
        snr: Ratio of signal to noise, in dB.
    """

    def __init__(self, form: Form, length: int, snr: float) -> None:
        super().__init__()
        self.form, self.snr, self.source = form, snr, (1, length)

    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """Fields of waves `(samples, 1, length)` with noise on them."""
        return self.form.fields(noised(clean, self.snr, random))


def under_noise(clips: Clips, snr: float, seed: int = 0) -> list[Sound]:
    """Clips under noise that follows from a seed and each clip's number, with their padding.

    Arguments:
        clips: The clips.
        snr: Ratio of signal to noise, in dB.
        seed: Start of the random numbers.
    """
    waves = torch.from_numpy(clips.wave).unsqueeze(1)
    numbers, layout = torch.arange(len(clips)), Layout.regular(len(clips))
    random = Counter(seed).scoped(leaf="noise on sounds", ids=numbers, layout=layout)
    noisy = noised(waves, snr, random).squeeze(1).numpy()
    return [replace(sound, wave=wave) for sound, wave in zip(clips.sounds(), noisy, strict=True)]


def gains(
    noisy: list[Sound], made: list[Sound], clean: Clips, *, phases: bool
) -> dict[str, float]:
    """How much nearer sounds are to the clean ones than the noisy ones were, mean over sounds.

    Arguments:
        noisy: Sounds under noise.
        made: The same with the noise taken off.
        clean: The clean ones.
        phases: Whether the phases of waves are right, so that their ratio of signal to noise
            tells something.
    """
    wave = torch.from_numpy(clean.wave)
    both = {"noisy": noisy, "restored": made}
    waves = {n: torch.from_numpy(np.stack([one.wave for one in x])) for n, x in both.items()}
    found = {
        f"log-mel distance of {name} sounds (dB)": float(
            log_mel_distance(x, wave, clean.rate).mean()
        )
        for name, x in waves.items()
    }
    if not phases:
        return found
    ratio = {name: float(signal_to_noise(x, wave).mean()) for name, x in waves.items()}
    told = {f"signal to noise of {name} sounds (dB)": x for name, x in ratio.items()}
    return {**told, "gain in signal to noise (dB)": ratio["restored"] - ratio["noisy"], **found}
