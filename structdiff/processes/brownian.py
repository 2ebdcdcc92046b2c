r"""Brownian motion on a manifold with a known heat kernel.

tau(t) = sigma_t^2 of a schedule with alpha = 1 is the time that Brownian motion has run, which is
the variance per tangent coordinate. The estimate is tau_t E[grad log q(x_t | x_0) | x_t], the
expected score in units of its own time: a tangent vector at x_t that points to the denoised point
(in flat space it is E[x_0 | x_t] - x_t). From t to s, with f = eta^2 (1 - tau_s / tau_t),

    x_s = exp_{x_t}[(1 - sqrt((1 - f) tau_s / tau_t)) estimate + sqrt(tau_s f) z],

which in flat space is the Gaussian variance-exploding step (DDIM at 0, Bayes at 1), exact at
s = 0.

References:
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022).
    https://arxiv.org/abs/2202.02763
    Scaling Riemannian Diffusion Models (Lou et al., 2023). https://arxiv.org/abs/2310.20030
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.processes.base import Estimate, Tractable
from structdiff.processes.leaf import Leaf, check_falling, expand
from structdiff.random import Randomness
from structdiff.schedules import Schedule
from structdiff.spaces import HeatKernel

__all__ = ["Brownian", "BrownianStep"]


class BrownianStep(NamedTuple):
    """x_s = exp_{x_t}(drift estimate + noise z)."""

    drift: Tensor
    noise: Tensor
    stochastic: bool


def check_whole(held: Tensor) -> None:
    """Refuse a mask of single entries: a point is held whole."""
    if held.ndim > 1:
        msg = f"held must be (rows,) on a manifold, got {tuple(held.shape)}: hold whole rows"
        raise ValueError(msg)


class Brownian(Leaf, Tractable):
    """Noise by the heat kernel of a compact manifold, down to the uniform law.

    Arguments:
        schedule: Its sigma^2 is Brownian time; alpha must be 1. Its last sigma should be large
            enough for the uniform law, see `prior_divergence`.
        manifold: The space.

    Raises:
        ValueError: If the schedule's alpha is not 1.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Geometric
        >>> from structdiff.spaces import Torus
        >>> process = Brownian(Geometric(0.01, 4.0), Torus(2)).bind(Batch.of(torch.zeros(5, 2)))
        >>> bool((process.prior(Generator(0)).abs() <= torch.pi).all())
        True
    """

    def __init__(self, schedule: Schedule, manifold: HeatKernel) -> None:
        super().__init__(schedule, manifold.point)
        if not bool((schedule(torch.linspace(0, 1, 11)).alpha == 1).all()):
            msg = "the schedule of a Brownian process must have alpha = 1: use Geometric or Karras"
            raise ValueError(msg)
        self.manifold = manifold

    def tau(self, t: Tensor, x: Tensor) -> Tensor:
        """Brownian time, `()` or `(rows,)`, in the dtype of x.

        Raises:
            ValueError: If single entries of a row are given: a point is held whole.
        """
        if t.ndim > 1:
            shape = f"times of a manifold leaf must be () or (rows,), got {tuple(t.shape)}"
            msg = f"{shape}: give whole rows"
            raise ValueError(msg)
        return self.schedule.forward(t).sigma.square().to(x.device, x.dtype)

    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """The uniform law."""
        del t
        known = self.known
        return self.hold(self.manifold.uniform(len(known), random, known.dtype, known.device))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Minus the log volume."""
        del t
        return self.free(x_1.new_full(x_1.shape[:1], -self.manifold.log_volume))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """A draw of the heat kernel at tau(t)."""
        return self.manifold.diffuse(x_0, self.tau(t, x_0), random)

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """A draw of the heat kernel at tau(t) - tau(s)."""
        x = x_s.new_empty(0, dtype=torch.float64)  # the difference is taken in float64
        tau = (self.tau(t, x) - self.tau(s, x)).clamp(min=0)
        return self.manifold.diffuse(x_s, tau.to(x_s.dtype), random)

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The point."""
        del t
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The network predicts sigma times the score."""
        value = self.manifold.to_tangent(x_t, output)
        return Estimate(self.free(value * expand(self.tau(t, x_t).sqrt(), value)))

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """tau times the score of the heat kernel; zero at clean rows."""
        tau = self.tau(t, x_t)
        safe = torch.where(tau > 0, tau, 1.0)
        score = self.manifold.score(x_0, x_t, safe)
        return Estimate(self.free(expand(tau, score) * score))

    def impose(
        self, estimate: Estimate, x_0: Tensor, held: Tensor, x_t: Tensor, t: Tensor
    ) -> Estimate:
        """The oracle at held rows."""
        check_whole(held)
        truth = self.oracle(x_0, x_t, t).value
        return Estimate(torch.where(expand(held, truth), truth, estimate.value))

    def shift(self, estimate: Estimate, gradient: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The tangent vector grows by tau times the gradient along exp_{x_t}(v) at v = 0."""
        with torch.enable_grad():
            v = torch.zeros_like(estimate.value).requires_grad_()
            (slope,) = torch.autograd.grad(self.manifold.exp(x_t.detach(), v), v, gradient)
        moved = self.free(expand(self.tau(t, x_t), slope) * slope)
        return replace(estimate, value=estimate.value + moved)

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the tangent vectors."""
        return Estimate(self.pool(estimates.value, weights, rows))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared length of the error, which in flat space is that of x_0."""
        truth = self.oracle(x_0, x_t, t).value
        return self.free(self.manifold.norm2(estimate.value - truth))

    def plan(self, times: Tensor, eta: float) -> Sequence[BrownianStep]:
        """Drift and noise of every step.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        tau = self.schedule(times).sigma ** 2
        ratio = torch.where(tau[:-1] > 0, tau[1:] / tau[:-1], 1.0)
        fresh = eta**2 * (1 - ratio)
        drift, noise = 1 - torch.sqrt(ratio * (1 - fresh)), torch.sqrt(tau[1:] * fresh)
        return [
            BrownianStep(*row)
            for row in self.per_step(1 + len(self.manifold.tangent), drift, noise)
        ]

    def leap(self, times: Tensor) -> Sequence[BrownianStep]:
        """Steps of a geodesic random walk: exp[tau' h score + sqrt(tau' h) z], h = t - s.

        Raises:
            ValueError: If times rise.
        """
        exact, tau = self.plan(times, 1.0), self.schedule(times).sigma ** 2
        share = 2 * self.schedule.slope(times)[:-1] * (times[:-1] - times[1:])
        noise = torch.sqrt(tau[:-1] * share)
        frozen = [
            BrownianStep(*row)
            for row in self.per_step(1 + len(self.manifold.tangent), share, noise)
        ]
        sound = (times[1:] >= 0).reshape(len(exact), -1).all(1).tolist()
        return [a if good else b for a, b, good in zip(frozen, exact, sound, strict=True)]

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: BrownianStep, random: Randomness
    ) -> Tensor:
        """One geodesic step."""
        v = coefficients.drift * estimate.value
        if coefficients.stochastic:
            v = v + coefficients.noise * self.manifold.noise(x_t, random)
        return self.manifold.project(self.manifold.exp(x_t, v))

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the denoised points seen from x_t: log_{x_t}(x) + moved estimate."""
        if len(weights) == 1:
            return history[0][1]
        total = torch.zeros_like(history[0][1].value)
        for weight, (x, past) in zip(weights, history, strict=False):
            if x is x_t:
                total = total + weight * past.value
            else:
                moved = self.manifold.transport(x, x_t, past.value)
                total = total + weight * (self.manifold.log(x_t, x) + moved)
        return Estimate(total)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the tangent vectors."""
        pairs = zip(weights, estimates, strict=True)
        return Estimate(torch.stack([w * one.value for w, one in pairs]).sum(0))

    def standard(self) -> Brownian:
        """Itself: a manifold has no units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known points as they are."""
        check_whole(held)
        return torch.where(expand(held, x_t), known, x_t)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log heat kernel, per row; at clean rows zero where the points agree, else -inf."""
        tau = self.tau(t, x_t)
        clean = tau == 0
        density = self.manifold.log_kernel(x_0, x_t, torch.where(clean, 1.0, tau))
        same = (x_t == x_0).flatten(1).all(1)
        point = torch.where(same, 0.0, -torch.inf).to(density)
        return torch.where(clean, point, density)

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: BrownianStep
    ) -> Tensor:
        """Log heat kernel around the step's end point, per row (right to first order)."""
        centre = self.manifold.exp(x_t, coefficients.drift * estimate.value)
        return self.free(self.manifold.log_kernel(centre, x_s, coefficients.noise**2))

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: BrownianStep
    ) -> Tensor:
        """KL of the two normals in the tangent space at x_t, per row."""
        del x_t
        gap = self.manifold.norm2(oracle.value - estimate.value)
        return self.free(0.5 * (coefficients.drift / coefficients.noise) ** 2 * gap)

    def divergence_rate(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """tau' |score - score*|^2 / 2, with estimates tau times a score."""
        tau, slope = self.tau(t, x_t), self.schedule.slope(t).to(x_t.device, x_t.dtype)
        truth = self.oracle(x_0, x_t, t).value
        gap = self.manifold.norm2(truth - estimate.value)
        return self.free(slope / torch.where(tau > 0, tau, 1.0) * gap)

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """KL of the heat kernel at t from the uniform law; the same for every x_0."""
        gap = self.manifold.entropy_gap(self.tau(torch.tensor(t, dtype=torch.float64), x_0))
        return self.free(gap.expand(x_0.shape[:1]))

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log of the heat kernel at tau(t) around the denoised point, per row."""
        centre = self.manifold.exp(x_t, estimate.value)
        return -self.free(self.manifold.log_kernel(centre, x_0, self.tau(t, x_t)))
