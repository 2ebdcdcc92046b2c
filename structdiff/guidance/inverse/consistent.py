r"""Estimates that agree with what was measured: replacement for any invertible measurement.

    estimate' = estimate + mix (A^+ y - A^+ A(estimate)),

so that A(estimate') = y for a linear A at mix 1, and the last step of a walk returns it. What A
does not see is left to the model. For a mask this is `Replacement`; for a quantiser it puts each
coefficient into the measured interval; inside `RePaint`, with nothing held, the walk also goes
back up to noise in between, which lets the unseen part come to agree with the seen one. What else
an estimate says (its extras) is of the law without y, and dropped. Noise in y is taken for signal
and, with A^+, made larger where little is seen; `DDRM` and `PiGDM` know of it.

References:
    Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model (Wang, Yu and Zhang,
    2023), section 3.2. https://arxiv.org/abs/2212.00490
    JPEG Artifact Correction using Denoising Diffusion Restoration Models (Kawar et al., 2022),
    eq. 8. https://arxiv.org/abs/2209.11888
    Score-based diffusion models for accelerated MRI (Chung and Ye, 2022), algorithm 2.
    https://arxiv.org/abs/2110.05243
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.observation import Observation, check_whole
from structdiff.operators.base import Invertible
from structdiff.processes.base import Estimate

__all__ = ["Consistent", "check_mix"]


def check_mix(mix: float) -> None:
    """Refuse a share outside [0, 1]."""
    if not 0 <= mix <= 1:
        msg = f"mix must be in [0, 1], 0 the model's alone and 1 the measured, got {mix}"
        raise ValueError(msg)


class Consistent(Denoiser):
    """A denoiser whose estimates of a leaf agree with a measurement of it.

    Arguments:
        denoiser: Any denoiser.
        seen: What was measured, by an operator with a pseudo-inverse.
        mix: How much of it is believed, in [0, 1].

    Raises:
        ValueError: If the leaf is not on all of R^n, the operator has no pseudo-inverse, or mix is
            out of range.

    Example:
        >>> import torch
        >>> from structdiff import Gaussian, Flow
        >>> from structdiff.operators import Downsample
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Flow(), event=(2,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1))
        >>> seen = Observation(Downsample((2,), 2), torch.tensor([3.0]))
        >>> batch, t = Batch.of(torch.tensor([[1.0, -1.0]])), {"x": torch.tensor(0.5)}
        >>> Consistent(denoiser, seen)(batch, t)["x"].value
        tensor([[4., 2.]])
    """

    def __init__(self, denoiser: Denoiser, seen: Observation, *, mix: float = 1.0) -> None:
        super().__init__()
        check_mix(mix)
        check_whole(seen, denoiser.process)
        if not isinstance(seen.operator, Invertible):
            has = f"{type(seen.operator).__name__} has no pseudo-inverse"
            msg = f"{has}: use Matrix.of for a linear operator, or DPS for any other"
            raise ValueError(msg)
        self.denoiser, self.seen, self.mix = denoiser, seen, mix
        self.operator = seen.operator
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, that of the leaf corrected."""
        estimates = self.denoiser(batch, t, previous)
        leaf, operator = self.seen.leaf, self.operator
        said = estimates[leaf].value
        self.seen.check_rows(said)
        found = operator.pinv(self.seen.y.to(said)) - operator.pinv(operator(said))
        return {**estimates, leaf: Estimate(said + self.mix * found)}
