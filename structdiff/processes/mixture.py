r"""Noise from a mixture of normals.

x_t = alpha_t x_0 + sigma_t e, where each entry has a component c of its own for its whole path and
e = m_c + s_c z. The components are moved and scaled so that e has mean 0 and variance 1, which
gives the noise the schedule's variance at every time. A path is Gaussian given its components, so
that with f = eta^2 (1 - SNR_t / SNR_s) a step

    x_s = alpha_s x_0 + sigma_s [m_c + s_c (sqrt(1 - f) (e_t - m_c) / s_c + sqrt(f) z)],
    e_t = (x_t - alpha_t x_0) / sigma_t,    c ~ p(c | e_t)

brings q(x_t | x_0) to q(x_s | x_0) exactly, for every eta; at eta 0 it is DDIM's. The component is
drawn afresh at each step, so that no path has to be kept. (The paper draws one at each forward
step, so that many steps add up to normal noise. Here the noise of a path's steps is not
independent, and its variance is the schedule's from the data on, not between two noisy times.)

The estimate is the posterior mean of x_0. With an uncertain x_0 a walk at eta 0 is of first order;
one with fresh noise has a bias that finer grids do not remove, since the component depends on more
of p(x_0 | x_t) than its mean: three points of weights 0.5, 0.2 and 0.3 came back as 0.55, 0.16 and
0.29 under a mixture of three well separated normals.

References:
    Denoising Diffusion Gamma Models (Nachmani, San Roman and Wolf, 2021), and their mixtures in
    Non Gaussian Denoising Diffusion Models (2021). https://arxiv.org/abs/2106.07582
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from structdiff.parameterisations import Parameterisation
from structdiff.processes.additive import AdditiveLeaf
from structdiff.processes.base import Estimate
from structdiff.processes.leaf import check_falling, sum_event
from structdiff.random import Randomness
from structdiff.schedules import Schedule, Standard

__all__ = ["MixtureNoise", "MixtureStep"]

MixtureStep = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]
"""alpha_t, 1 / sigma_t, alpha_s, sigma_s and f of a step, and whether it is stochastic."""


class MixtureNoise(AdditiveLeaf):
    """Additive noise from a mixture of normals, independent for each entry.

    Arguments:
        schedule: Time to noise level; alpha must stay positive.
        means: Means of the components, `(components,)`.
        stds: Their standard deviations, positive.
        weights: Their probabilities; equal by default.
        parameterisation: What the network predicts; x_0 by default.
        event: Shape of one row.

    Raises:
        ValueError: If the components do not fit, or nothing is left of the data at t = 1.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Linear
        >>> two = MixtureNoise(Linear(), torch.tensor([-1.0, 1.0]), torch.tensor([0.2, 0.2]))
        >>> x_0 = torch.zeros(20_000)
        >>> x_1 = two.bind(Batch.of(x_0)).diffuse(x_0, torch.tensor(1.0), Generator(0))
        >>> abs(round(x_1.mean().item(), 1)), round(x_1.std().item(), 1)
        (0.0, 1.0)
        >>> (x_1.abs() < 0.1).sum().item()
        0
    """

    means: Tensor
    stds: Tensor
    log_weights: Tensor

    def __init__(
        self,
        schedule: Schedule,
        means: Tensor,
        stds: Tensor,
        weights: Tensor | None = None,
        parameterisation: Parameterisation | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(schedule, parameterisation, event=event)
        means, stds = means.double(), stds.double()
        share = torch.ones_like(means) if weights is None else weights.double()
        if means.ndim != 1 or not means.shape == stds.shape == share.shape or not len(means):
            shapes = [tuple(part.shape) for part in (means, stds, share)]
            msg = f"means, stds and weights must be (components,), got {shapes}"
            raise ValueError(msg)
        if not bool((stds > 0).all() & (share > 0).all()):
            msg = f"stds and weights must be positive, got {stds.tolist()} and {share.tolist()}"
            raise ValueError(msg)
        share = share / share.sum()
        centre = (share * means).sum()
        scale = (share * (stds.square() + (means - centre).square())).sum().sqrt()
        self.register_buffer("means", (means - centre) / scale, persistent=False)
        self.register_buffer("stds", stds / scale, persistent=False)
        self.register_buffer("log_weights", share.log(), persistent=False)

    def components(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, deviations and log-weights in the dtype of x."""
        return self.means.to(x), self.stds.to(x), self.log_weights.to(x)

    def log_parts(self, e: Tensor) -> Tensor:
        """Log of weight times density of each component, `(*e, components)`."""
        means, stds, log_weights = self.components(e)
        z = (e.unsqueeze(-1) - means) / stds
        return log_weights - 0.5 * z.square() - stds.log() - 0.5 * math.log(2 * math.pi)

    def choose(self, parts: Tensor, u: Tensor) -> Tensor:
        """The component at a quantile of each entry's law."""
        edges = torch.softmax(parts.double(), -1).cumsum(-1)
        return (u.unsqueeze(-1) > edges[..., :-1]).sum(-1)

    def draw(self, random: Randomness) -> Tensor:
        """A standardised number for each entry."""
        size, like = (self.layout.rows, *self.event), self.known
        u = random.uniform(size, torch.float64, like.device)
        z = random.normal(size, like.dtype, like.device)
        means, stds, log_weights = self.components(like)
        component = self.choose(log_weights, u)
        return means[component] + stds[component] * z

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """The noise at t."""
        end = self.level(torch.tensor(t, dtype=torch.float64), self.known)
        return self.hold(end.sigma * self.draw(random))

    def log_density(self, residual: Tensor, sigma: Tensor) -> Tensor:
        """Log density of the noise, per entry."""
        safe = torch.where(sigma > 0, sigma, 1.0)
        return torch.logsumexp(self.log_parts(residual / safe), -1) - safe.log()

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of the noise at t."""
        end = self.level(torch.tensor(t, dtype=torch.float64), x_1)
        return sum_event(self.free(self.log_density(x_1, end.sigma)))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """alpha x_0 + sigma e."""
        level = self.level(t, x_0)
        return level.alpha * x_0 + level.sigma * self.draw(random)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of the mixture, per row."""
        level = self.level(t, x_t)
        density = self.log_density(x_t - level.alpha * x_0, level.sigma)
        return self.measured(density, x_t, x_0, t)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """x_0."""
        del x_t, t
        return Estimate(x_0)

    def plan(self, times: Tensor, eta: float) -> Sequence[MixtureStep]:
        """Levels of every step, and how much of its noise is fresh.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        level = self.schedule(times)
        gap = level.clock[:-1] - level.clock[1:]
        gap = torch.where(level.clock[:-1] == level.clock[1:], 0.0, gap).clamp(max=0)
        fresh = -(eta**2) * torch.expm1(2 * gap)
        noisy = level.sigma[:-1] > 0
        inverse = torch.where(noisy, 1 / torch.where(noisy, level.sigma[:-1], 1.0), 0.0)
        parts = (level.alpha[:-1], inverse, level.alpha[1:], level.sigma[1:], fresh)
        return [tuple(row) for row in self.per_step(self.known.ndim, *parts)]

    def leap(self, times: Tensor) -> Sequence[MixtureStep]:
        """The steps of `plan` at eta 1."""
        return self.plan(times, 1.0)

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: MixtureStep, random: Randomness
    ) -> Tensor:
        """The noise given its component, partly drawn again."""
        alpha_t, inverse, alpha_s, sigma_s, fresh, stochastic = coefficients
        e = (x_t - alpha_t * estimate.value) * inverse
        if stochastic:
            means, stds, _ = self.components(e)
            component = self.choose(
                self.log_parts(e), random.uniform(e.shape, torch.float64, e.device)
            )
            mean, std = means[component], stds[component]
            z = random.normal(e.shape, e.dtype, e.device)
            e = mean + (1 - fresh).sqrt() * (e - mean) + fresh.sqrt() * std * z
        return alpha_s * estimate.value + sigma_s * e

    def standard(self) -> MixtureNoise:
        """The schedule divided by sqrt(alpha^2 + sigma^2), predicting x_0."""
        weights = self.log_weights.exp()
        schedule = Standard(self.schedule)
        return MixtureNoise(schedule, self.means, self.stds, weights, event=self.event)
