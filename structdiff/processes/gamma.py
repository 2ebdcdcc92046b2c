r"""Gamma noise: skewed, and as divisible as Gaussian noise.

In units of alpha the state is y_t = x_t / alpha_t = x_0 + theta (G_t - k_t) with a gamma process
G: independent increments G_t - G_s ~ Gamma(k_t - k_s), so that sums of noise are again gamma noise
with shapes added. With

    k_t = (sigma_t / alpha_t)^2 / theta^2

the noise of x_t has mean 0, variance sigma_t^2 and skewness 2 / sqrt(k_t): Gaussian for a small
theta. Given x_0, with g = (y_t - x_0) / theta + k_t, the increasing map of one gamma law to the
next carries p_t, at the rate dg/dk = D(k, g), so that dy/dk = theta (D - 1). What a walk needs of
the data is the mean of this rate, which is affine in

    psi = y_t - 2 k_t dy/dk,

the point that Gaussian noise with this rate would come from: for a small theta x_0 itself. Its
posterior mean is the estimate. A step finds the g of the estimate's rate, takes it by the map to
the shape (1 - f) k_s with f = eta^2 (1 - k_s / k_t), and adds fresh noise of shape f k_s. It is
exact where x_0 is known, and for a small theta that of `Gaussian`. Else it is of first order as
long as shapes stay above 1 or so. Below, the density is infinite at the end of its support, which
finite steps overshoot however many they are: records with a high x_0 are lost, and states arise
that no record can have led to. So a grid should end, before `CLEAN`, while sigma_t / alpha_t is at
least theta, or theta be small: 0.001 in the paper.

References:
    Denoising Diffusion Gamma Models (Nachmani, San Roman and Wolf, 2021).
    https://arxiv.org/abs/2110.05948
    Levy Processes and Infinitely Divisible Distributions (Sato, 1999), section 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.parameterisations import Parameterisation
from structdiff.processes.additive import AdditiveLeaf
from structdiff.processes.base import Estimate, Markov
from structdiff.processes.gamma_law import gamma_quantile, rate, rate_inverse, reshaped
from structdiff.processes.leaf import check_falling, expand, sum_event
from structdiff.random import Randomness
from structdiff.schedules import Schedule, Standard

__all__ = ["GammaNoise", "GammaStep"]


class GammaStep(NamedTuple):
    """From shape `far` at alpha_t to `carried` and `fresh` at alpha_s, in float64."""

    before: Tensor
    after: Tensor
    far: Tensor
    carried: Tensor
    fresh: Tensor
    stochastic: bool


class GammaNoise(AdditiveLeaf, Markov):
    """Additive gamma noise on R^n.

    Draws invert the distribution function: some 5 microseconds a number on a CPU, steps some 40.

    Arguments:
        schedule: Time to noise level; alpha must stay positive.
        scale: theta, in units of the data, positive: the smaller, the more nearly Gaussian. The
            support of x_t ends at alpha (x_0 - theta k_t).
        parameterisation: What the network predicts; x_0 by default.
        event: Shape of one row.

    Raises:
        ValueError: If the scale is not positive, or nothing is left of the data at t = 1.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Linear
        >>> x_0 = torch.zeros(20_000)
        >>> process = GammaNoise(Linear(), 0.5).bind(Batch.of(x_0))
        >>> x_t = process.diffuse(x_0, torch.tensor(0.5), Generator(0))
        >>> round(x_t.mean().item(), 1), round(x_t.std().item(), 1)
        (0.0, 1.0)
    """

    def __init__(
        self,
        schedule: Schedule,
        scale: float,
        parameterisation: Parameterisation | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, parameterisation, event=event)
        if not 0 < scale < math.inf:
            msg = f"scale must be positive and finite, got {scale}"
            raise ValueError(msg)
        self.scale = scale

    def shape(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and k_t, float64, against x."""
        alpha, ratio = self.ratio(t, x)
        return alpha, (ratio / self.scale).square()

    def draw(self, shape: Tensor, random: Randomness) -> Tensor:
        """Gamma numbers of the state's shape, float64."""
        size = (self.layout.rows, *self.event)
        u = random.uniform(size, torch.float64, self.known.device)
        return gamma_quantile(shape.expand(size), u)

    def noisy(self, y: Tensor, alpha: Tensor, shape: Tensor, drawn: Tensor) -> Tensor:
        """alpha (y + theta (G - k)) in the dtype of y."""
        noise = (alpha * self.scale * (drawn - shape)).to(y.dtype)
        return alpha.to(y.dtype) * y + noise

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """The noise at t."""
        alpha, k = self.shape(torch.tensor(t, dtype=torch.float64), self.known)
        zero = torch.zeros_like(self.known)
        return self.hold(self.noisy(zero, alpha, k, self.draw(k, random)))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of the noise at t."""
        time = torch.tensor(t, dtype=torch.float64, device=x_1.device)
        each = self.free(self.log_density(x_1, torch.zeros_like(x_1), time))
        return sum_event(each).to(x_1.dtype)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """alpha (x_0 + theta (G - k))."""
        alpha, k = self.shape(t, x_0)
        return self.noisy(x_0, alpha, k, self.draw(k, random))

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """A fresh increment of shape k_t - k_s."""
        (before, near), (after, far) = self.shape(s, x_s), self.shape(t, x_s)
        k = (far - near).clamp(min=0)
        ratio = (after / before).to(x_s.dtype)
        noise = (after * self.scale * (self.draw(k, random) - k)).to(x_s.dtype)
        return ratio * x_s + noise

    def log_density(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of each entry, float64; -inf outside the support.

        What lies outside by no more than rounding counts as lying at its end.
        """
        alpha, k = self.shape(t, x_t)
        k = torch.where(k > 0, k, 1.0)
        y, start = x_t.double() / alpha, x_0.double()
        g = (y - start) / self.scale + k
        rounding = torch.finfo(x_t.dtype).eps * (y.abs() + start.abs() + self.scale * k)
        end = 4 * rounding / self.scale
        inside = torch.maximum(g, end)
        density = (k - 1) * inside.log() - inside - torch.lgamma(k) - (alpha * self.scale).log()
        return torch.where(g > -end, density, -torch.inf)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of the gamma noise, per row."""
        return self.measured(self.log_density(x_t, x_0, t), x_t, x_0, t)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """psi; x_0 at clean entries."""
        alpha, k = self.shape(t, x_t)
        safe = torch.where(k > 0, k, 1.0).expand(x_t.shape)
        y = x_t.double() / alpha
        g = ((y - x_0.double()) / self.scale + safe).clamp(min=1e-300)
        value = (y - 2 * safe * self.scale * (rate(safe, g) - 1)).to(x_t.dtype)
        return Estimate(torch.where(k > 0, value, x_0))

    def plan(self, times: Tensor, eta: float) -> Sequence[GammaStep]:
        """Scales and shapes of every step.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        level = self.schedule(times)
        k = (level.sigma / level.alpha / self.scale).square()
        far, near = k[:-1], k[1:]
        fresh = eta**2 * near * (1 - near / torch.where(far > 0, far, 1.0)).clamp(min=0)
        parts = (level.alpha[:-1], level.alpha[1:], far, near - fresh, fresh)
        used = (fresh > 0).reshape(len(fresh), -1).any(1).tolist()
        known = self.known
        rows = ([expand(v, known) for v in part.to(known.device).unbind()] for part in parts)
        return [GammaStep(*step) for step in zip(*rows, used, strict=True)]

    def leap(self, times: Tensor) -> Sequence[GammaStep]:
        """The steps of `plan` at eta 1."""
        return self.plan(times, 1.0)

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: GammaStep, random: Randomness
    ) -> Tensor:
        """alpha_s (x_0 + theta (G_s - k_s)), with the x_0 of the estimate's rate."""
        before, after, far, carried, fresh, stochastic = coefficients
        y, psi = x_t.double() / before, estimate.value.double()
        safe = torch.where(far > 0, far, 1.0).expand(y.shape)
        g = rate_inverse(safe, 1 + (y - psi) / (2 * safe * self.scale))
        x_0 = torch.where(far > 0, y - self.scale * (g - far), psi)
        later = reshaped(far.expand(y.shape), carried.expand(y.shape), g)
        if stochastic:
            later = later + self.draw(fresh, random)
        x_s = after * (x_0 + self.scale * (later - carried - fresh))
        return x_s.to(x_t.dtype)

    def standard(self) -> GammaNoise:
        """The schedule divided by sqrt(alpha^2 + sigma^2), predicting x_0."""
        return GammaNoise(Standard(self.schedule), self.scale, event=self.event)

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known entries in place."""
        return torch.where(expand(held, x_t), known, x_t)
