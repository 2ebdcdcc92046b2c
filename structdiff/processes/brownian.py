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

import torch
from torch import Tensor

from structdiff.parameterisations.tangent import TangentParameterisation
from structdiff.processes.base import Estimate, Scored, Tractable
from structdiff.processes.leaf import check_falling, expand
from structdiff.processes.tangent import TangentLeaf, TangentStep, check_whole
from structdiff.random import Randomness
from structdiff.schedules import Schedule
from structdiff.spaces import HeatKernel

__all__ = ["Brownian", "check_exploding"]


def check_exploding(schedule: Schedule) -> None:
    """Refuse a schedule whose alpha is not 1."""
    if not bool((schedule(torch.linspace(0, 1, 11)).alpha == 1).all()):
        msg = "the schedule of a Brownian process must have alpha = 1: use Geometric or Karras"
        raise ValueError(msg)


class Brownian(TangentLeaf, Tractable, Scored):
    """Noise by the heat kernel of a compact manifold, down to the uniform law.

    Arguments:
        schedule: Its sigma^2 is Brownian time; alpha must be 1. Its last sigma should be large
            enough for the uniform law, see `prior_divergence`.
        manifold: The space.
        parameterisation: What the network predicts: `ScaledScore()`, which is sigma times the
            score, by default; `CleanPoint()` goes through the kernel at the predicted point.

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

    def __init__(
        self,
        schedule: Schedule,
        manifold: HeatKernel,
        parameterisation: TangentParameterisation | None = None,
    ) -> None:
        check_exploding(schedule)
        super().__init__(schedule, manifold, parameterisation)
        self.manifold: HeatKernel = manifold

    def tau(self, t: Tensor, x: Tensor) -> Tensor:
        """Brownian time sigma^2, `()` or `(rows,)`, in the dtype of x.

        Raises:
            ValueError: If single entries of a row are given: a point is held whole.
        """
        return self.sigma(t, x).square()

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

    def towards(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """tau times the score of the heat kernel; zero at clean rows."""
        tau = self.tau(t, x_t)
        score = self.manifold.score(x_0, x_t, torch.where(tau > 0, tau, 1.0))
        return expand(tau, score) * score

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
        moved = self.tangent(x_t, expand(self.tau(t, x_t), slope) * slope)
        return replace(estimate, value=estimate.value + moved)

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """-(d tau / dt) score / 2, which is (d clock / dt) times the estimate."""
        slope = self.schedule.slope(t).to(x_t.device, x_t.dtype)
        return -expand(slope, estimate.value) * estimate.value

    def score(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate over tau; zero at clean rows, where there is none."""
        tau = self.tau(t, x_t)
        return estimate.value / expand(torch.where(tau > 0, tau, 1.0), estimate.value)

    def diffusion(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """2 sigma^2 (-d clock / dt) v."""
        return self.tangent(x_t, self.noise_rate(t, v) * v)

    def plan(self, times: Tensor, eta: float) -> Sequence[TangentStep]:
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
        return self.steps_of(drift, noise)

    def leap(self, times: Tensor) -> Sequence[TangentStep]:
        """Steps of a geodesic random walk: exp[tau' h score + sqrt(tau' h) z], h = t - s.

        Raises:
            ValueError: If times rise.
        """
        exact, tau = self.plan(times, 1.0), self.schedule(times).sigma ** 2
        share = 2 * self.schedule.slope(times)[:-1] * (times[:-1] - times[1:])
        noise = torch.sqrt(tau[:-1] * share)
        frozen = self.steps_of(share, noise)
        sound = (times[1:] >= 0).reshape(len(exact), -1).all(1).tolist()
        return [a if good else b for a, b, good in zip(frozen, exact, sound, strict=True)]

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log heat kernel, per row; at clean rows zero where the points agree, else -inf."""
        tau = self.tau(t, x_t)
        clean = tau == 0
        density = self.manifold.log_kernel(x_0, x_t, torch.where(clean, 1.0, tau))
        same = (x_t == x_0).flatten(1).all(1)
        point = torch.where(same, 0.0, -torch.inf).to(density)
        return torch.where(clean, point, density)

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: TangentStep
    ) -> Tensor:
        """Log heat kernel around the step's end point, per row (right to first order)."""
        centre = self.manifold.exp(x_t, coefficients.drift * estimate.value)
        return self.free(self.manifold.log_kernel(centre, x_s, coefficients.noise**2))

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: TangentStep
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
