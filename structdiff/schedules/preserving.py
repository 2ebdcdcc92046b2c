r"""Schedules that keep (or nearly keep) the variance: alpha^2 + sigma^2 = 1, and sub-VP.

With B(t) the integral of beta from 0 to t, alpha = exp(-B/2); variance preserving has
sigma^2 = 1 - exp(-B), sub-VP has sigma = 1 - exp(-B).

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), eqs. 25, 27, 29.
    https://arxiv.org/abs/2011.13456
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 17.
    https://arxiv.org/abs/2102.09672
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff.schedules.base import Schedule

__all__ = ["Cosine", "Linear", "SubVP"]


def log_sigma_preserving(log_alpha: Tensor) -> Tensor:
    """log sqrt(1 - alpha^2), without cancellation for alpha near 1."""
    return 0.5 * torch.log(-torch.expm1(2 * log_alpha))


class Linear(Schedule):
    r"""The VP integral of a linear beta.

    log alpha = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2.

    Arguments:
        beta_min: Rate at t = 0, positive.
        beta_max: Rate at t = 1, at least `beta_min`.

    Raises:
        ValueError: If the rates are not positive and increasing.

    Example:
        >>> round(Linear().alpha(torch.tensor(1.0)).item(), 7)
        0.0065716
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        if not 0 < beta_min <= beta_max:
            must = "beta_min and beta_max must satisfy 0 < beta_min <= beta_max"
            msg = f"{must}, got {beta_min} and {beta_max}"
            raise ValueError(msg)
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        """-B(t) / 2."""
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving."""
        return log_sigma_preserving(self.log_alpha(t))


class SubVP(Schedule):
    """The sub-VP process of a linear beta: the alpha of `Linear` with sigma = 1 - alpha^2.

    Arguments:
        beta_min: Rate at t = 0, positive.
        beta_max: Rate at t = 1, at least `beta_min`.

    Example:
        >>> t = torch.tensor(0.3)
        >>> bool(SubVP().sigma(t) < Linear().sigma(t))
        True
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__()
        self.linear = Linear(beta_min, beta_max)

    def log_alpha(self, t: Tensor) -> Tensor:
        """As in `Linear`."""
        return self.linear.log_alpha(t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """log(1 - exp(-B))."""
        return torch.log(-torch.expm1(2 * self.log_alpha(t)))


class Cosine(Schedule):
    r"""`alpha = cos(u) / cos(u_0)` with `u = (t + offset) / (1 + offset) pi / 2`.

    The continuous form; the clipped betas of the paper are `Discrete.cosine`.

    Arguments:
        offset: Keeps the noise of the first steps from vanishing, in [0, 1).

    Raises:
        ValueError: If the offset is outside its range.

    Example:
        >>> round(Cosine().alpha(torch.tensor(0.5)).item() ** 2, 5)
        0.49384
    """

    def __init__(self, offset: float = 0.008) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            msg = f"offset must be in [0, 1), got {offset}"
            raise ValueError(msg)
        self.offset = offset

    def log_alpha(self, t: Tensor) -> Tensor:
        """log cos(u) - log cos(u_0); cos(u) written as sin(pi/2 - u), exact near t = 1."""
        rest = (1 - t) / (1 + self.offset) * (math.pi / 2)
        start = self.offset / (1 + self.offset) * (math.pi / 2)
        return torch.log(torch.sin(rest)) - math.log(math.cos(start))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving; sigma^2 = sin(u - u_0) sin(u + u_0) / cos(u_0)^2."""
        start = self.offset / (1 + self.offset) * (math.pi / 2)
        moved = t / (1 + self.offset) * (math.pi / 2)
        product = torch.sin(moved) * torch.sin(moved + 2 * start)
        return 0.5 * torch.log(product) - math.log(math.cos(start))
