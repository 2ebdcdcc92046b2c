"""What a sound is: a wave at a rate, with a name and perhaps a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sound", "Wave"]

Wave = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sound:
    """One channel of sound.

    Arguments:
        wave: Pressure in [-1, 1], `(length,)`.
        rate: Samples of the wave in a second.
        label: The class, "" where it is not known.
        name: Where it is from.

    Example:
        >>> Sound(np.zeros(4000, np.float32), 8000).seconds
        0.5
    """

    wave: Wave
    rate: int
    label: str = ""
    name: str = ""

    def __len__(self) -> int:
        return len(self.wave)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.wave) / self.rate
