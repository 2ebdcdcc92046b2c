r"""A paper's T discrete steps as a schedule in continuous time.

Step i of T is the time t = i / T. On the grid alpha^2 is the product of (1 - beta) exactly;
between two grid points the log-SNR is linear in t, and where an end has no finite log-SNR
(the data, or a last beta of one) alpha^2 is.

References:
    Denoising Diffusion Probabilistic Models (Ho, Jain and Abbeel, 2020), section 4.
    https://arxiv.org/abs/2006.11239
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 17.
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.schedules.base import Schedule

__all__ = ["Discrete"]


class Discrete(Schedule):
    """Interpolates the log-SNR through a grid of betas.

    Arguments:
        betas: One-step noise variances, `(T,)`, each in (0, 1); the last may be 1.

    Raises:
        ValueError: If the betas are not a vector in that range.

    Example:
        >>> print(f"{Discrete.ddpm().alpha(torch.tensor(1.0)).item() ** 2:.4e}")
        4.0358e-05
    """

    log_survival: Tensor

    def __init__(self, betas: Tensor) -> None:
        super().__init__()
        betas = betas.double()
        if betas.ndim != 1 or not len(betas):
            msg = f"betas must be a vector, not empty, got shape {tuple(betas.shape)}"
            raise ValueError(msg)
        low, high = betas.min().item(), betas.max().item()
        if not 0 < low <= high <= 1:
            msg = f"betas must be in (0, 1], got {low:.4g} to {high:.4g}"
            raise ValueError(msg)
        if bool((betas[:-1] == 1).any()):
            msg = "only the last beta may be 1: after it nothing of the data is left to noise"
            raise ValueError(msg)
        survival = torch.cumsum(torch.log1p(-betas), 0)
        self.register_buffer("log_survival", F.pad(survival, (1, 0)), persistent=False)

    @classmethod
    def ddpm(cls, steps: int = 1000) -> Discrete:
        """The linear betas of DDPM, 1e-4 to 0.02 at 1000 steps (scaled by 1000 / steps)."""
        scale = 1000 / steps
        return cls(torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Discrete:
        """The cosine betas of improved DDPM, clipped at `largest`."""
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        survival = torch.cos((t + offset) / (1 + offset) * (math.pi / 2)) ** 2
        return cls((1 - survival[1:] / survival[:-1]).clamp(max=largest))

    def _log_survival(self, t: Tensor) -> Tensor:
        steps = len(self.log_survival) - 1
        place = t * steps
        index = place.floor().long().clamp(max=steps - 1)
        weight = place - index
        low, high = self.log_survival[index], self.log_survival[index + 1]
        finite = (low < 0) & (high > -torch.inf)
        straight = torch.log((1 - weight) * low.exp() + weight * high.exp())
        first, last = (_logit(torch.where(finite, end, -1.0)) for end in (low, high))
        inside = torch.lerp(first, last, weight)
        # On a grid point the product itself is returned, untouched by the interpolation.
        between = torch.where(finite, F.logsigmoid(inside), straight)
        return torch.where(weight == 0, low, torch.where(weight == 1, high, between))

    def log_alpha(self, t: Tensor) -> Tensor:
        """Half the logarithm of the probability-like product."""
        return 0.5 * self._log_survival(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving."""
        return 0.5 * torch.log(-torch.expm1(self._log_survival(t)))


def _logit(log_p: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p."""
    return log_p - torch.log(-torch.expm1(log_p))
