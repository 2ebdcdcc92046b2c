r"""Extrapolation away from a degraded record.

What a denoiser says of x_t is pushed away from what it says of a degraded x_t, with blurred
entries, hidden rows, words replaced:

    estimate = estimate(degraded) + (1 + s) (estimate(x_t) - estimate(degraded)),

which makes more of what the degradation takes away: s = 0 is the denoiser, s = -1 the degraded
branch. That is `Tilted(Degraded(denoiser, degrade), [(1 + s, denoiser)])` on any space, and needs
no condition. Where self-attention guidance chooses what to blur by attention maps, here
`degrade` chooses.

References:
    Improving Sample Quality of Diffusion Models Using Self-Attention Guidance (Hong et al., 2023).
    https://arxiv.org/abs/2210.00939
    There predictions of the noise are extrapolated, here estimates of the clean record: on R^n
    the two differ by s times what the degradation changed in x_t, over alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.strengths import Scale, check_scales
from structdiff.guidance.tilted import Tilted
from structdiff.processes import Estimate

__all__ = ["Degradation", "Degraded", "extrapolated"]

Degradation: TypeAlias = Callable[[Batch, Mapping[str, Tensor]], Batch]
"""degrade(batch, t): noisy records to degraded ones of the same rows."""


class Degraded(Denoiser):
    """A denoiser that sees degraded records.

    On manifolds its estimate is carried from the degraded point to x_t.

    Arguments:
        denoiser: Any denoiser.
        degrade: What is done to the noisy records; see `Degradation`.

    Example:
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> fade = Degraded(denoiser, lambda batch, t: batch.with_leaves({"x": 0.5 * batch["x"]}))
        >>> fade(Batch.of(torch.ones(1)), {"x": torch.tensor(0.5)})["x"].value
        tensor([0.5000])
    """

    def __init__(self, denoiser: Denoiser, degrade: Degradation) -> None:
        super().__init__()
        self.denoiser, self.degrade = denoiser, degrade
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """What is said of the degraded records, as seen from the records."""
        seen = self.degrade(batch, t)
        said: Mapping[str, Estimate] = self.denoiser(seen, t, previous)
        process: Any = self.process.bind(batch)
        return {n: carry(process[n], seen[n], batch[n], estimate) for n, estimate in said.items()}


def carry(leaf: Any, x: Tensor, x_t: Tensor, estimate: Estimate) -> Estimate:
    """An estimate at x as one at x_t: the mean of two that are alike, one of them the past's."""
    if x is x_t:
        return estimate
    half = torch.full((), 0.5, dtype=estimate.value.dtype, device=x.device)
    found: Estimate = leaf.combine([(x, estimate)] * 2, (half, half), x_t)
    return found


def extrapolated(denoiser: Denoiser, degrade: Degradation, scale: Scale) -> Tilted:
    """The denoiser pushed away from what it says of degraded records.

    Arguments:
        denoiser: Any denoiser.
        degrade: See `Degradation`.
        scale: s, a number or a function of time: 0 the denoiser, -1 the degraded branch.

    Raises:
        ValueError: If the scale is not finite.
    """
    check_scales([scale])
    w: Scale = (lambda t: 1 + scale(t)) if callable(scale) else 1 + scale
    return Tilted(Degraded(denoiser, degrade), [(w, denoiser)])
