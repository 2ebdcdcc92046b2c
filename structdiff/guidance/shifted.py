r"""Asymmetric time intervals: the denoiser is told a later time than that of the state.

In a walk of few steps each estimate is too sure of itself, and errors of one step are taken for
signal by the next. A denoiser that is asked at t + d in place of t, for the same x_t, takes more
of it for noise. The walk's own times and steps stay.

References:
    Analog Bits: Generating Discrete Data using Diffusion Models with Self-Conditioning (Chen,
    Zhang and Hinton, 2022). https://arxiv.org/abs/2208.04202
    There the step's coefficients at its noisy end are those of t + d too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate

__all__ = ["LaterTime"]


class LaterTime(Denoiser):
    """Another denoiser asked at min(t + shift, 1); at given entries, which have no time, as is.

    Arguments:
        denoiser: Any denoiser, of any process.
        shift: d, at least 0. A walk of N steps uniform in time with the paper's td has td / N.

    Raises:
        ValueError: If shift is negative or not finite.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([-1.0, 1.0]))
        >>> exact = ExactDenoiser(Product({"x": Gaussian(Flow())}), data)
        >>> t, x = {"x": torch.tensor(0.4)}, Batch.of(torch.tensor([0.2]))
        >>> later = LaterTime(exact, 0.1)(x, t)["x"].value
        >>> torch.equal(later, exact(x, {"x": torch.tensor(0.5)})["x"].value)
        True
    """

    def __init__(self, denoiser: Denoiser, shift: float) -> None:
        super().__init__()
        if not (math.isfinite(shift) and shift >= 0):
            msg = f"shift must be finite and at least 0, got {shift}"
            raise ValueError(msg)
        self.denoiser, self.shift = denoiser, shift
        self.process = denoiser.process

    def later(self, t: Tensor) -> Tensor:
        """min(t + shift, 1); `CLEAN` stays."""
        return torch.where(t < 0, t, (t + self.shift).clamp(max=1))

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates at the later times."""
        moved = {name: self.later(time) for name, time in t.items()}
        estimates: Mapping[str, Estimate] = self.denoiser(batch, moved, previous)
        return estimates
