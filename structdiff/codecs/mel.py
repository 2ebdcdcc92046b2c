r"""Waves to log-mel spectrograms, and back by the reconstruction of phases.

    z_mk = log max(floor, sum_f M_mf |S_fk|),

with S the short-time Fourier transform of the wave and M triangles, equally wide on the mel scale
and each of area one in Hz. There are two scales in use:

    Slaney:  f / (200 / 3) up to 1000 Hz, then 15 + 27 log(f / 1000) / log 6.4,
    HTK:     2595 log10(1 + f / 700).

Phases are lost, and the detail that triangles average. Back, magnitudes at least zero with the
bands b of z are found by Lee and Seung's rule,

    magnitude_f <- magnitude_f sum_m M_mf b_m / (M magnitude)_m / sum_m M_mf,

and phases by Griffin and Lim's: with C the projection on spectrograms of waves and momentum a,

    t_n = C(magnitude e^{i arg c_{n-1}}),    c_n = t_n + a (t_n - t_{n-1}).

Nothing is drawn: at first each frequency has the phases of a steady tone, in all samples alike.

References:
    Signal Estimation from Modified Short-Time Fourier Transform (Griffin and Lim, 1984).
    A Fast Griffin-Lim Algorithm (Perraudin, Balazs and Sondergaard, 2013), algorithm 2.
    https://doi.org/10.1109/WASPAA.2013.6701851
    Auditory Toolbox (Slaney, 1998); The HTK Book (Young et al., 2006), section 5.4.
    Algorithms for Non-negative Matrix Factorization (Lee and Seung, 2001), theorem 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.codecs.checks import check_finite, check_shape, shape_of
from structdiff.codecs.latent import LatentCodec

__all__ = ["Mel", "Scale", "griffin_lim", "hertz", "mel", "mel_filters"]

Scale = Literal["slaney", "htk"]

_LINEAR = 200 / 3
_BREAK = 1000.0
_STEP = math.log(6.4) / 27
_SEEN = 0.1


def mel(frequency: Tensor, scale: Scale = "slaney") -> Tensor:
    """Frequencies in Hz on the mel scale.

    Example:
        >>> mel(torch.tensor([1000.0, 6400.0]))
        tensor([15., 42.])
    """
    if scale == "htk":
        return 2595 * torch.log10(1 + frequency / 700)
    above = _BREAK / _LINEAR + torch.log(frequency.clamp(min=_BREAK) / _BREAK) / _STEP
    return torch.where(frequency < _BREAK, frequency / _LINEAR, above)


def hertz(mels: Tensor, scale: Scale = "slaney") -> Tensor:
    """Places on the mel scale as frequencies in Hz.

    Example:
        >>> hertz(torch.tensor([15.0, 42.0]))
        tensor([1000., 6400.])
    """
    if scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    above = _BREAK * torch.exp(_STEP * (mels - _BREAK / _LINEAR).clamp(min=0))
    return torch.where(mels < _BREAK / _LINEAR, mels * _LINEAR, above)


def mel_filters(
    mels: int, window: int, rate: float, *, low: float, high: float, scale: Scale = "slaney"
) -> Tensor:
    """Triangles over the frequencies of a transform, `(mels, window // 2 + 1)`, float64.

    Each begins at the peak of the one before, ends at that of the next, and has area one in Hz.

    Arguments:
        mels: How many.
        window: Entries of a window of the transform.
        rate: Samples a second.
        low: Where the first one begins, in Hz.
        high: Where the last one ends, in Hz.
        scale: The mel scale.

    Raises:
        ValueError: If low and high are no frequencies, or one is narrower than the distance of
            two frequencies, so that it is zero.
    """
    if not 0 <= low < high <= rate / 2:
        must = f"low and high must satisfy 0 <= low < high <= rate / 2 = {rate / 2:g}"
        msg = f"{must}, got {low:g} and {high:g}"
        raise ValueError(msg)
    ends = mel(torch.tensor([low, high], dtype=torch.float64), scale)
    places = torch.linspace(float(ends[0]), float(ends[1]), mels + 2, dtype=torch.float64)
    edges = hertz(places, scale)
    frequencies = torch.arange(window // 2 + 1, dtype=torch.float64) * rate / window
    begin, peak, end = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - begin) / (peak - begin), (end - frequencies) / (end - peak)
    filters = torch.minimum(rising, falling).clamp(min=0) * 2 / (end - begin)
    empty = (filters.sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        msg = (
            f"mels = {mels} are too many for a window of {window} at {rate:g} Hz: no frequency is "
            f"inside the bands {empty[:10]}; choose fewer mels or a longer window"
        )
        raise ValueError(msg)
    return filters


def griffin_lim(
    magnitude: Tensor,
    length: int,
    *,
    window: Tensor,
    hop: int,
    iterations: int = 32,
    momentum: float = 0.99,
) -> Tensor:
    """Waves `(samples, length)` whose short-time Fourier transforms nearly have these magnitudes.

    Arguments:
        magnitude: `(samples, frequencies, frames)`, of frames around every `hop`-th sample.
        length: Of a wave.
        window: Window of the transform.
        hop: Samples between two frames.
        iterations: How often the wave is made and transformed again, at least 1.
        momentum: Of the fast variant; 0 is the original one.

    Raises:
        ValueError: If there are other many frames than those of a wave of this length.
    """
    if magnitude.shape[-1] != 1 + length // hop:
        msg = f"magnitude must have {1 + length // hop} frames for {length} samples"
        raise ValueError(f"{msg} and hop = {hop}, got {magnitude.shape[-1]}")
    size = len(window)
    step = 2 * math.pi * hop / size
    tone = torch.arange(size // 2 + 1, device=magnitude.device, dtype=magnitude.dtype)
    frames = torch.arange(magnitude.shape[-1], device=magnitude.device, dtype=magnitude.dtype)
    angle = (step * tone[:, None] * frames).remainder(2 * math.pi)
    spectrum = magnitude * torch.polar(torch.ones_like(angle), angle)
    before = torch.zeros_like(spectrum)
    for _ in range(iterations):
        wave = _wave(spectrum, length, window, hop)
        found = torch.stft(
            wave, size, hop, window=window, pad_mode="constant", return_complex=True
        )
        ahead = found + momentum * (found - before)
        before = found
        spectrum = magnitude * ahead / ahead.abs().clamp(min=torch.finfo(magnitude.dtype).tiny)
    return _wave(spectrum, length, window, hop)


def _wave(spectrum: Tensor, length: int, window: Tensor, hop: int) -> Tensor:
    """The wave nearest to a spectrogram; it fades where only the edge of one window sees it."""
    size, frames = len(window), spectrum.shape[-1]
    parts = torch.fft.irfft(spectrum, size, dim=1) * window.unsqueeze(1)
    weights = window.square().unsqueeze(1).expand(1, size, frames)
    whole = (1, (frames - 1) * hop + size)
    sums = F.fold(torch.cat([parts, weights]), whole, (1, size), stride=(1, hop))[:, 0, 0]
    sums = F.pad(sums[:, size // 2 :], (0, length))[:, :length]
    least = _SEEN * window.square().sum() / hop
    return sums[:-1] / sums[-1].clamp(min=least)


class Mel(LatentCodec):
    """Waves `(1, length)` to log-mel spectrograms `(1, mels, 1 + length // hop)`, and back.

    Arguments:
        event: Shape of one wave, `(1, length)`.
        rate: Samples a second.
        mels: Bands.
        window: Samples of a window, of Hann's form.
        hop: Samples between two frames, at most half a window; a quarter of it by default.
        low: Lowest frequency in Hz.
        high: Highest one, at most half the rate, which it is by default.
        floor: Least magnitude.
        scale: The mel scale, `slaney` or `htk`.
        iterations: Of the reconstruction of phases, at least 1.
        momentum: Of the same, in [0, 1]; 0 is the slow original.

    Raises:
        ValueError: If one of them is out of range, or the mels are too many for the window.

    Example:
        >>> codec = Mel((1, 4000), 8000.0, mels=40, window=512)
        >>> codec.encode(torch.zeros(1, 1, 4000)).shape
        torch.Size([1, 1, 40, 32])
    """

    filters: Tensor
    shape: Tensor

    def __init__(
        self,
        event: Sequence[int],
        rate: float,
        *,
        mels: int = 80,
        window: int = 1024,
        hop: int | None = None,
        low: float = 0.0,
        high: float | None = None,
        floor: float = 1e-5,
        scale: Scale = "slaney",
        iterations: int = 32,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        self.event, self.rate, self.mels, self.window = (
            shape_of("event", event),
            rate,
            mels,
            window,
        )
        self.hop = window // 4 if hop is None else hop
        self.low, self.high = low, rate / 2 if high is None else high
        self.floor, self.scale, self.iterations = floor, scale, iterations
        self.momentum, self.classes = momentum, 0
        self._check()
        self.latent = (1, mels, 1 + self.event[1] // self.hop)
        filters = mel_filters(mels, window, rate, low=low, high=self.high, scale=scale)
        self.register_buffer("filters", filters, persistent=False)
        shape = torch.hann_window(window, dtype=torch.float64)
        self.register_buffer("shape", shape, persistent=False)

    def _check(self) -> None:
        """Refuse what is out of range."""
        if len(self.event) != 2 or self.event[0] != 1:
            msg = f"event must be (1, length), got {self.event}: encode channels one by one"
            raise ValueError(msg)
        if self.mels < 1 or self.window < 4 or self.iterations < 1:
            has = f"mels = {self.mels}, window = {self.window}, iterations = {self.iterations}"
            msg = f"mels and iterations must be at least 1 and window at least 4, got {has}"
            raise ValueError(msg)
        if not 1 <= self.hop <= self.window // 2:
            msg = f"hop must be from 1 to half of window = {self.window}, got {self.hop}"
            raise ValueError(msg)
        if not (self.floor > 0 and 0 <= self.momentum <= 1):
            has = f"{self.floor:g} and {self.momentum:g}"
            msg = f"floor must be positive and momentum in [0, 1], got {has}"
            raise ValueError(msg)
        if self.scale not in ("slaney", "htk"):
            msg = f"scale must be 'slaney' or 'htk', got {self.scale!r}"
            raise ValueError(msg)

    def fit(self, x: Tensor) -> None:
        """Nothing is measured.

        Raises:
            ValueError: If there are no samples, or they have another shape or are not finite.
        """
        check_finite("x", x, self.event)

    def magnitude(self, x: Tensor) -> Tensor:
        """Magnitudes of the transform, `(samples, window // 2 + 1, frames)`."""
        spectrum = torch.stft(
            x.squeeze(1),
            self.window,
            self.hop,
            window=self.shape.to(x),
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum.abs()

    def encode(self, x: Tensor) -> Tensor:
        """The log-mel spectrogram.

        Raises:
            ValueError: If the waves have another shape.
        """
        check_shape("x", x, self.event)
        bands = self.filters.to(x) @ self.magnitude(x)
        return bands.clamp(min=self.floor).log().unsqueeze(1)

    def decode(self, z: Tensor) -> Tensor:
        """Magnitudes of the bands, phases that fit them, the wave.

        Raises:
            ValueError: If the spectrograms have another shape.
        """
        check_shape("z", z, self.latent)
        wave = griffin_lim(
            self.unmixed(z.squeeze(1).exp()),
            self.event[1],
            window=self.shape.to(z),
            hop=self.hop,
            iterations=self.iterations,
            momentum=self.momentum,
        )
        return wave.unsqueeze(1)

    def unmixed(self, bands: Tensor, rounds: int = 32) -> Tensor:
        """Magnitudes with these bands, `(samples, window // 2 + 1, frames)`.

        Arguments:
            bands: `(samples, mels, frames)`.
            rounds: How often an even spread of each band is bettered.
        """
        filters, tiny = self.filters.to(bands), torch.finfo(bands.dtype).tiny
        share = filters.sum(0).unsqueeze(1).clamp(min=tiny)
        magnitude = filters.mT @ (bands / filters.sum(1).unsqueeze(1)) / share
        for _ in range(rounds):
            ratio = bands / (filters @ magnitude).clamp(min=tiny)
            magnitude = magnitude * (filters.mT @ ratio / share)
        return magnitude

    def log_det(self, x: Tensor) -> None:
        """None: phases are lost."""

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "event": list(self.event),
            "rate": self.rate,
            "mels": self.mels,
            "window": self.window,
            "hop": self.hop,
            "low": self.low,
            "high": self.high,
            "floor": self.floor,
            "scale": self.scale,
            "iterations": self.iterations,
            "momentum": self.momentum,
        }
