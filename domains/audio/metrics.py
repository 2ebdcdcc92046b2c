r"""How far sounds are from others: distances of spectra, and ratios of signal to noise.

With S the magnitudes of the short-time Fourier transform of a sound y, T those of x,

    log-mel distance:    mean over frames of sqrt(mean over bands of (20 log10 (M S / M T))^2)
    convergence:         |S - T| / |T|,  Frobenius norms
    magnitude:           mean |log S - log T|
    signal to noise:     10 log10 (|x|^2 / |y - x|^2), in dB
    the same up to a scale: with x replaced by (<x, y> / |x|^2) x

Convergence and magnitude are added and averaged over several windows: the multi-resolution
distance. Distances are zero for equal sounds, and phases do not count.

References:
    Parallel WaveGAN (Yamamoto, Song and Kim, 2020), equations 4 to 6.
    https://arxiv.org/abs/1910.11480
    SDR - Half-baked or Well Done? (Le Roux et al., 2019), equation 5.
    https://arxiv.org/abs/1811.02508
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.codecs.mel import Mel

__all__ = [
    "WINDOWS",
    "log_mel_distance",
    "mel_of",
    "scaled_signal_to_noise",
    "signal_to_noise",
    "stft_distance",
]

WINDOWS = (0.016, 0.032, 0.064)
"""Lengths of the windows of the multi-resolution distance, in seconds."""

_FLOOR = 1e-4
_DECIBELS = 20 / math.log(10)


def mel_of(length: int, rate: int, *, bands: int = 40) -> Mel:
    """The log-mel spectrogram that sounds are looked at in: windows of 32 ms, a quarter a step.

    Arguments:
        length: Samples of a sound.
        rate: Samples in a second.
        bands: Of the spectrogram; fewer where the window tells fewer apart.
    """
    window = max(64, 4 * round(0.008 * rate))
    bands = min(bands, window // 6)
    return Mel((1, length), float(rate), mels=bands, window=window, scale="htk", floor=_FLOOR)


def log_mel_distance(found: Tensor, clean: Tensor, rate: int) -> Tensor:
    """Root mean square distance of log-mel spectra, mean over frames, in dB, `(samples,)`.

    Arguments:
        found: Waves, `(samples, length)`.
        clean: What they are compared with, of the same shape.
        rate: Samples in a second.

    Example:
        >>> wave = torch.sin(torch.arange(4000) * 0.3).expand(1, -1)
        >>> log_mel_distance(wave, wave, 8000)
        tensor([0.])
    """
    _check(found, clean)
    mel = mel_of(found.shape[1], rate)
    gap = mel.encode(found.unsqueeze(1)) - mel.encode(clean.unsqueeze(1))
    return _DECIBELS * gap.squeeze(1).square().mean(1).sqrt().mean(1)


def stft_distance(
    found: Tensor, clean: Tensor, rate: int, windows: Sequence[float] = WINDOWS
) -> Tensor:
    """Multi-resolution distance of spectra, `(samples,)`.

    Arguments:
        found: Waves, `(samples, length)`.
        clean: What they are compared with, of the same shape, none silent.
        rate: Samples in a second.
        windows: Lengths of the windows, in seconds; a quarter of each is its step.
    """
    _check(found, clean)
    each = [_one_resolution(found, clean, max(16, round(window * rate))) for window in windows]
    return torch.stack(each).mean(0)


def _one_resolution(found: Tensor, clean: Tensor, size: int) -> Tensor:
    s, t = _magnitude(found, size), _magnitude(clean, size)
    tiny = torch.finfo(s.dtype).tiny
    convergence: Tensor = (s - t).norm(dim=(1, 2)) / t.norm(dim=(1, 2)).clamp(min=tiny)
    floor = _FLOOR * size
    magnitude = (s.clamp(min=floor) / t.clamp(min=floor)).log().abs().mean((1, 2))
    return convergence + magnitude


def _magnitude(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    spectrum = torch.stft(
        wave, size, max(1, size // 4), window=window, pad_mode="constant", return_complex=True
    )
    return spectrum.abs()


def signal_to_noise(found: Tensor, clean: Tensor) -> Tensor:
    """How much stronger the clean wave is than what differs from it, in dB, `(samples,)`.

    Arguments:
        found: Waves, `(samples, length)`.
        clean: What they should be, of the same shape.

    Example:
        >>> clean = torch.ones(1, 100)
        >>> signal_to_noise(clean + 0.1, clean).round()
        tensor([20.])
    """
    _check(found, clean)
    tiny = torch.finfo(found.dtype).tiny
    noise = (found - clean).square().sum(1).clamp(min=tiny)
    return 10 * torch.log10(clean.square().sum(1).clamp(min=tiny) / noise)


def scaled_signal_to_noise(found: Tensor, clean: Tensor) -> Tensor:
    """The same where the clean wave may be scaled first, in dB, `(samples,)`."""
    _check(found, clean)
    tiny = torch.finfo(found.dtype).tiny
    factor = (found * clean).sum(1) / clean.square().sum(1).clamp(min=tiny)
    return signal_to_noise(found, factor.unsqueeze(1) * clean)


def _check(found: Tensor, clean: Tensor) -> None:
    """Refuse waves of different shapes.

    Raises:
        ValueError: If they are.
    """
    if found.ndim != 2 or found.shape != clean.shape:
        msg = (
            f"found and clean must be (samples, length) alike, got {tuple(found.shape)} and "
            f"{tuple(clean.shape)}: cut or pad them to one length"
        )
        raise ValueError(msg)
