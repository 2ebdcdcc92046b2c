r"""One step of the Gaussian process: its coefficients and the deviation of its law.

From t to s, with f = eta^2 (1 - SNR_t / SNR_s),

    x_s = alpha_s x_0 + (sigma_s / sigma_t) sqrt(1 - f) (x_t - alpha_t x_0) + sigma_s sqrt(f) z.

Where x_0 is not known but has a variance v given x_t, that of x_s is noise^2 + data^2 v by the law
of total variance; noise alone is right for data of one point, v = sigma^2 / (alpha^2 + sigma^2)
for standard normal data: beta-tilde and beta of a variance-preserving chain at eta = 1.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), eqs. 6-7 and section 3.2.
    https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 15.
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.schedules import Level

__all__ = ["GaussianStep", "VARIANCES", "certainty", "deviation", "exact_steps"]

VARIANCES = ("variance", "interpolation")
"""What an estimate may say of the variance of a step, for every entry, beside its value."""


class GaussianStep(NamedTuple):
    """x_s = keep x_t + data x_0 + noise z; `unit` is Var[x_0 | x_t] of standard normal data."""

    keep: Tensor
    data: Tensor
    unit: Tensor
    noise: Tensor
    stochastic: bool


def exact_steps(level: Level, eta: float) -> tuple[Tensor, ...]:
    """keep, data, unit and noise between the levels of a grid, `(steps, ...)`, float64."""
    alpha_t, alpha_s = level.alpha[:-1], level.alpha[1:]
    # From a noiseless time nothing is known of the noise: keep none of it.
    ratio = torch.where(level.sigma[:-1] > 0, level.sigma[1:] / level.sigma[:-1], 0.0)
    gap = level.clock[:-1] - level.clock[1:]
    gap = torch.where(level.clock[:-1] == level.clock[1:], 0.0, gap).clamp(max=0)
    fresh = -(eta**2) * torch.expm1(2 * gap)
    keep = ratio * torch.sqrt(1 - fresh)
    noise = level.sigma[1:] * torch.sqrt(fresh)
    return keep, alpha_s - alpha_t * keep, torch.sigmoid(-2 * level.clock[:-1]), noise


def certainty(data: Tensor, noise: Tensor) -> Tensor:
    """How far data move a step, in deviations; none where it neither moves nor is noisy."""
    return torch.where(data == 0, 0.0, data / noise)


def deviation(extras: Mapping[str, Tensor], step: GaussianStep) -> Tensor:
    """Standard deviation of a step's law: `noise`, and more where extras say how much.

    With v = extras["variance"], Var[x_0 | x_t], it is sqrt(noise^2 + data^2 v). With
    v = extras["interpolation"] its logarithm lies between those for known data (0) and for
    standard normal data (1). Where the step has no noise, at a row that comes to rest too, there
    is none.
    """
    if "variance" in extras:
        pulled = torch.where(step.noise > 0, step.data, 0.0)
        return torch.sqrt(step.noise**2 + pulled**2 * extras["variance"])
    if "interpolation" in extras:
        pulled = torch.where(step.noise > 0, step.data / step.noise, 0.0)
        return step.noise * (1 + pulled**2 * step.unit) ** (0.5 * extras["interpolation"])
    return step.noise
