r"""Pseudo-inverse guidance: linear inverse problems with a normal law of x_0 given x_t.

If p(x_0 | x_t) were N(estimate, r_t^2), then for y = H x_0 + n

    log p(y | x_t) = log N(y; H estimate, r_t^2 H H^T + noise_std^2),

and its gradient in x_t, through the denoiser, is what conditions the score. For data of standard
deviation c in a direction, x_t leaves

    r_t^2 = c^2 sigma_t^2 / (alpha_t^2 c^2 + sigma_t^2),

which makes the conditional score exact for normal data, N(mean, c^2), with a c for each
coefficient of the singular basis if their covariance is diagonal there. Given entries that H sees
beside others count as uncertain as these; `MomentGuided` knows of them.

References:
    Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song, Vahdat, Mardani and Kautz,
    2023), eqs. 7 and 8, section 3.3. https://openreview.net/forum?id=9_gsMA8MRKQ
    There c = 1, and the gradient is multiplied by r_t^2 (as if for another likelihood); here it
    is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.observation import Observation, check_factored
from structdiff.guidance.rewards import Rewarded
from structdiff.processes.base import Estimate
from structdiff.processes.leaf import expand, sum_event

__all__ = ["PiGDM"]


class PiGDM(Denoiser):
    """A denoiser of the law given a linear measurement.

    A denoiser inside that is itself guided by a gradient has its shift taken for a constant.

    Arguments:
        denoiser: A denoiser of a Tractable process, differentiable in x_t.
        seen: What was measured, and the noise.
        data_std: c, one or one for each coefficient of the operator's singular basis.

    Raises:
        ValueError: If the leaf is not on R^n, the singular values of the operator are not known,
            or data_std is not positive; on a call, if y has other rows than the leaf.

    Example:
        >>> from structdiff import Flow, Gaussian
        >>> from structdiff.operators import Mask
        >>> from structdiff.testing import NormalDenoiser
        >>> process = Gaussian(Flow(), event=(2,))
        >>> denoiser = NormalDenoiser(process, torch.zeros(1, 2), torch.ones(1))
        >>> seen = Observation(Mask(torch.tensor([True, False])), torch.tensor([3.0]))
        >>> batch, t = Batch.of(torch.zeros(1, 2)), {"x": torch.tensor(0.5)}
        >>> PiGDM(denoiser, seen)(batch, t)["x"].value
        tensor([[3., 0.]])
    """

    data_std: Tensor

    def __init__(
        self, denoiser: Denoiser, seen: Observation, *, data_std: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        self.operator = check_factored(seen, denoiser.process)
        std = torch.as_tensor(data_std, dtype=torch.float64)
        spectrum = self.operator.singular.shape
        if not bool((std > 0).all()) or std.shape not in ((), spectrum):
            must = f"one number or one for each coefficient, {tuple(spectrum)}"
            msg = f"data_std must be positive, {must}, got {tuple(std.shape)}"
            raise ValueError(msg)
        self.denoiser, self.seen, self.process = denoiser, seen, denoiser.process
        self.register_buffer("data_std", std)

    def variance(self, time: Tensor, c: Tensor) -> Tensor:
        """r_t^2, to broadcast against coefficients c."""
        process: Any = self.process
        noisy = time if time.ndim < 2 else time.flatten(1).amax(1)  # given entries are earlier
        level = process[self.seen.leaf].schedule(noisy)
        alpha, sigma = (expand(one.to(c), c) for one in (level.alpha, level.sigma))
        std = self.data_std.to(c)
        return (std * sigma) ** 2 / ((std * alpha) ** 2 + sigma**2)

    def log_prob(self, said: Mapping[str, Estimate], batch: Batch, t: Any) -> Tensor:
        """log p(y | x_t) of each sample, for what H sees of y: a `Twist`.

        Raises:
            ValueError: If there is no noise, so that there is no density at clean data, which is
                where particles get their last weights.
        """
        if self.seen.noise_std == 0:
            msg = "noise_std is 0, so that clean data have no density: give the noise that y has"
            raise ValueError(msg)
        return self.evidence(said, batch, t)

    def evidence(self, said: Mapping[str, Estimate], batch: Batch, t: Any) -> Tensor:
        """log p(y | x_t) of each sample; 0 at clean data if there is no noise."""
        name, x = self.seen.leaf, said[self.seen.leaf].value
        self.seen.check_rows(x)
        c = self.operator.analysis(x)
        singular = self.operator.values(c)
        gap = singular * (self.operator.seen(self.seen.y.to(c)) - c)
        variance = singular**2 * self.variance(t[name], c) + self.seen.noise_std**2
        counts = (singular > 0) & (variance > 0)
        safe = torch.where(counts, variance, 1.0)
        terms = gap**2 / safe + torch.log(safe) + math.log(2 * math.pi)
        return batch.layouts[name].sum(sum_event(torch.where(counts, -0.5 * terms, 0.0)))

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The denoiser's estimates, tilted."""
        guided = Rewarded(
            self.denoiser, lambda said, seen: self.evidence(said, seen, t), scale=1.0
        )
        estimates: Mapping[str, Estimate] = guided(batch, t, previous)
        return estimates
