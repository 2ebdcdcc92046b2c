r"""Guidance by a classifier of noisy records, in every space.

With f(x_t, t) = log p(y | x_t) the law of x_t given y is p_t(x_t) e^f up to a constant, and its
time reversal is had from that of p_t by adding w f to log p_t, with the scale w = 1:

- on R^n the posterior mean moves by w sigma^2 / alpha grad f,
- on manifolds the estimate tau E[score] moves by w tau grad f, a tangent vector,
- on classes the rate from x_t to j is multiplied by e^(w d(j)), d(j) = f(x_t with j) - f(x_t).

What is exact, when f is the true log p(y | x_t), the denoiser is exact and w = 1: the scores and
the *rates* of all rows, at every t. A finite step on classes adds w d, of the time t at which it
starts, to the step's log-probabilities, so it is right to first order in t - s, with two
exceptions. For the absorbing chain log p(y | x_t) is no function of time, and a step of any
length of one row is the exact conditional one. And differences taken at the time s make the step
of one row exact for any chain, since p(x_s | x_t, y) = p(x_s | x_t) p(y | x_s) / p(y | x_t). For
another w nothing closed is drawn, as in every guidance.

References:
    Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021), section 4, eq. 14.
    https://arxiv.org/abs/2105.05233
    Score-Based Generative Modeling through SDEs (Song et al., 2021), section 5, eq. 14.
    https://arxiv.org/abs/2011.13456
    Unlocking Guidance for Discrete State-Space Diffusion and Flow Models (Nisonoff et al., 2024),
    section 3 (predictor guidance). https://arxiv.org/abs/2406.01572
    Diffusion-LM Improves Controllable Text Generation (Li et al., 2022), section 5.1 (the gradient
    on embeddings). https://arxiv.org/abs/2205.14217
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.slopes import Enumerated, LogProb, Slopes
from structdiff.processes import Estimate, Tractable

__all__ = ["Guided", "check_guide"]


def check_guide(denoiser: Denoiser, scale: float) -> None:
    """Refuse what cannot be guided.

    Raises:
        ValueError: If the scale is not finite or the process has no densities.
    """
    if not math.isfinite(scale):
        msg = f"scale must be a finite number, got {scale}"
        raise ValueError(msg)
    if not denoiser.process.offers(Tractable):
        name = type(denoiser.process).__name__
        msg = f"guidance by a function adds to log p_t: {name} is not Tractable"
        raise ValueError(msg)


class Guided(Denoiser):
    """A denoiser of p_t(x_t) e^(scale f(x_t)).

    Given entries stay. Guided denoisers nest: their functions add up.

    Arguments:
        denoiser: Any denoiser of a Tractable process.
        log_prob: f(batch, t), differentiable in the leaves on R^n and manifolds: log p(y | x_t) of
            a classifier of noisy records, or any function; see `LogProb`. Where it is -inf, and
            where it differs by more than 80 from x_t, a symbol has e^-80 of its chance.
        scale: w, 0 unguided, 1 the conditional law of a true classifier.
        slopes: How differences are found on classes; exact by default.

    Raises:
        ValueError: If the scale is not finite or the process is not Tractable; on a call, if the
            function does not return one number a sample.

    Example:
        >>> import torch
        >>> from structdiff.testing import NormalDenoiser
        >>> from structdiff.processes import Gaussian
        >>> from structdiff.schedules import Flow
        >>> denoiser = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
        >>> guided = Guided(denoiser, lambda batch, t: 3 * batch["x"], scale=2.0)
        >>> guided(Batch.of(torch.zeros(1)), {"x": torch.tensor(0.5)})["x"].value
        tensor([3.])
    """

    def __init__(
        self, denoiser: Denoiser, log_prob: LogProb, scale: float, slopes: Slopes | None = None
    ) -> None:
        super().__init__()
        check_guide(denoiser, scale)
        self.denoiser, self.log_prob, self.scale = denoiser, log_prob, scale
        self.slopes = slopes or Enumerated()
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimate, shifted; at scale 0 the function is not asked."""
        estimate: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        if self.scale == 0:
            return estimate
        process: Any = self.process.bind(batch)
        slopes = self.slopes.around(self.log_prob, process, batch, t)
        scaled = {name: self.scale * slope for name, slope in slopes.items()}
        shifted: Mapping[str, Estimate] = process.shift(estimate, scaled, batch.leaves, t)
        return shifted
