r"""What the fields of a run are: waves, or their log-mel spectrograms brought to [-1, 1].

    field = 2 (z - low) / (high - low) - 1,

with z the log-mel spectrogram, low the logarithm of its floor, and high that of a steady tone of
full scale in the narrowest band: the sum of the window times the highest triangle. Both follow
from the settings, so nothing is measured. Where a codec halves places, silence is added until they
divide.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from structdiff.codecs.mel import Mel
from structdiff.random import Randomness
from structdiff.runs.fields.conditions import Making

__all__ = ["Form", "MelOfWave", "Spectra", "Waves", "mel_windows"]


def mel_windows(rate: int, window: float, hop: float) -> tuple[int, int]:
    """Samples of a window and between two of them, of lengths in seconds.

    Example:
        >>> mel_windows(8000, 0.032, 0.008)
        (256, 64)
    """
    size = max(4, round(window * rate))
    return size, min(max(1, round(hop * rate)), size // 2)


class Form(ABC):
    """From waves to the fields of a run and back.

    Attributes:
        leaf: Name of the leaf.
        event: Shape of one field.
    """

    leaf: str
    event: tuple[int, ...]

    @abstractmethod
    def fields(self, waves: Tensor) -> Tensor:
        """Fields of waves, `(samples, 1, length)` to `(samples, *event)`."""

    @abstractmethod
    def waves(self, fields: Tensor) -> Tensor:
        """Waves of fields, `(samples, 1, length)`."""

    @abstractmethod
    def known(self, heard: Tensor) -> Tensor:
        """Which places of a field follow from the heard samples of its wave.

        Arguments:
            heard: Which samples are heard, bool, `(samples, 1, length)`.

        Returns:
            Bool, `(samples, 1, *places)`.
        """


class Waves(Form):
    """Waves themselves.

    Arguments:
        length: Samples of a wave.
        multiple: What divides the places of a field.

    Example:
        >>> Waves(5, 4).event
        (1, 8)
    """

    def __init__(self, length: int, multiple: int = 1) -> None:
        self.length, self.leaf = length, "wave"
        self.event = (1, _up(length, multiple))

    def fields(self, waves: Tensor) -> Tensor:
        """The waves, with silence at their end."""
        return F.pad(waves, (0, self.event[1] - self.length))

    def waves(self, fields: Tensor) -> Tensor:
        """The waves, cut at the full scale."""
        return fields[..., : self.length].clamp(-1, 1)

    def known(self, heard: Tensor) -> Tensor:
        """The samples, and the silence at the end."""
        return F.pad(heard, (0, self.event[1] - self.length), value=True)


class Spectra(Form):
    """Log-mel spectrograms in [-1, 1].

    Arguments:
        mel: The spectrogram.
        multiple: What divides the places of a field.

    Example:
        >>> import torch
        >>> spectra = Spectra(Mel((1, 4000), 8000.0, mels=32, window=256))
        >>> field = spectra.fields(torch.sin(torch.arange(4000) * 0.3).reshape(1, 1, -1))
        >>> field.shape, bool((field.abs() <= 1).all())
        (torch.Size([1, 1, 32, 63]), True)
    """

    def __init__(self, mel: Mel, multiple: int = 1) -> None:
        self.mel, self.leaf = mel, "mel"
        self.bands, self.frames = mel.latent[1:]
        self.event = (1, _up(self.bands, multiple), _up(self.frames, multiple))
        self.low = math.log(mel.floor)
        self.high = math.log(float(mel.shape.sum() * mel.filters.max()))

    def fields(self, waves: Tensor) -> Tensor:
        """The spectrograms, with silence above and at their end."""
        span = self.high - self.low
        field = (2 * (self.mel.encode(waves) - self.low) / span - 1).clamp(-1, 1)
        return F.pad(field, self._rim, value=-1.0)

    def waves(self, fields: Tensor) -> Tensor:
        """Waves by reconstruction of phases; those above the full scale are brought to it."""
        inside = fields[..., : self.bands, : self.frames].clamp(-1, 1)
        z = self.low + (inside + 1) / 2 * (self.high - self.low)
        wave = self.mel.decode(z)
        return wave / wave.abs().amax(-1, keepdim=True).clamp(min=1)

    def known(self, heard: Tensor) -> Tensor:
        """The frames whose whole window is heard; beyond the ends there is silence."""
        half = self.mel.window // 2
        missing = F.pad((~heard).float(), (half, half))
        lost = F.max_pool1d(missing, 2 * half, stride=self.mel.hop)
        kept = (lost == 0).unsqueeze(2).expand(-1, 1, self.bands, -1)
        return F.pad(kept, self._rim, value=True)

    @property
    def _rim(self) -> tuple[int, int, int, int]:
        return (0, self.event[2] - self.frames, 0, self.event[1] - self.bands)


class MelOfWave(Making):
    """The spectrogram of a clean wave as a condition: bands are its channels, frames its places.

    Arguments:
        spectra: The spectrogram.
    """

    def __init__(self, spectra: Spectra) -> None:
        super().__init__()
        self.spectra = spectra

    def forward(self, clean: Tensor, random: Randomness) -> Tensor:
        """`(samples, bands, frames)` in [-1, 1]."""
        del random
        # A codec's silence at the end of waves is no part of them.
        return self.spectra.fields(clean[..., : self.spectra.mel.event[1]]).squeeze(1)


def _up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple
