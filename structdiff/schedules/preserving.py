r"""Schedules that keep (or nearly keep) the variance: alpha^2 + sigma^2 = 1, and sub-VP.

With B(t) the integral of beta from 0 to t, alpha = exp(-B/2); variance preserving has
sigma^2 = 1 - exp(-B), sub-VP has sigma = 1 - exp(-B). Others state alpha^2 itself as a function
of t.

References:
    Score-Based Generative Modeling through SDEs (Song et al., 2021), eqs. 25, 27, 29.
    https://arxiv.org/abs/2011.13456
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), eq. 17.
    https://arxiv.org/abs/2102.09672
    Scalable Adaptive Computation for Iterative Generation (Jabri, Fleet and Chen, 2022), appendix.
    https://arxiv.org/abs/2212.11972
    On the Importance of Noise Scheduling for Diffusion Models (Chen, 2023), section 3.1.
    https://arxiv.org/abs/2301.10972
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.schedules.base import Schedule

__all__ = ["Cosine", "Linear", "Sigmoid", "SimpleLinear", "SubVP"]


def check_preserving(schedule: Schedule, mend: str) -> None:
    """Refuse a schedule whose alpha^2 + sigma^2 is not 1."""
    level = schedule(torch.linspace(0, 1, 11))
    if not torch.allclose(level.alpha**2 + level.sigma**2, torch.ones(11).double()):
        must = "schedule must preserve the variance (alpha^2 + sigma^2 = 1)"
        msg = f"{must}, {type(schedule).__name__} does not; {mend}"
        raise ValueError(msg)


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


class SimpleLinear(Schedule):
    """`alpha^2 = 1 - t`: the variance preserving twin of `Flow`.

    Example:
        >>> SimpleLinear().alpha(torch.tensor(0.75)).item()
        0.5
    """

    def log_alpha(self, t: Tensor) -> Tensor:
        """log(1 - t) / 2."""
        return 0.5 * torch.log1p(-t)

    def log_sigma(self, t: Tensor) -> Tensor:
        """Log t / 2."""
        return 0.5 * torch.log(t)


class Sigmoid(Schedule):
    r"""alpha^2 falls like a sigmoid s, cut to [start, end] and stretched to end at 0.

    With u = (start + t (end - start)) / tau running from a to b,

        alpha^2 = (s(b) - s(u)) / (s(b) - s(a)),    s(y) - s(x) = s(y) s(-x) (1 - exp(x - y)),

    where the second form is free of cancellation; sigma^2 has s(u) - s(a) in the numerator.

    Arguments:
        start: Where the sigmoid is cut on the side of the data.
        end: Where it is cut on the side of the noise, above `start`.
        tau: Temperature, positive; a lower one is steeper.

    Raises:
        ValueError: If the cut is empty or `tau` is not positive.

    Example:
        >>> round(Sigmoid().alpha(torch.tensor(0.5)).item() ** 2, 6)
        0.5
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> None:
        super().__init__()
        if not start < end:
            msg = f"start and end must satisfy start < end, got {start} and {end}"
            raise ValueError(msg)
        if tau <= 0:
            msg = f"tau must be positive, got {tau}"
            raise ValueError(msg)
        self.start, self.width = start / tau, (end - start) / tau

    def _log_part(self, t: Tensor, u: float) -> Tensor:
        """log((1 - exp(-t width)) / (1 - exp(-width))) - log s(u)."""
        whole = math.log(-math.expm1(-self.width))
        cut = F.logsigmoid(torch.tensor(u, dtype=torch.float64)).item()
        return torch.log(-torch.expm1(-t * self.width)) - whole - cut

    def log_alpha(self, t: Tensor) -> Tensor:
        """Half the logarithm of the stretched sigmoid."""
        u = self.start + t * self.width
        return 0.5 * (F.logsigmoid(-u) + self._log_part(1 - t, -self.start))

    def log_sigma(self, t: Tensor) -> Tensor:
        """Variance preserving."""
        u = self.start + t * self.width
        return 0.5 * (F.logsigmoid(u) + self._log_part(t, self.start + self.width))
