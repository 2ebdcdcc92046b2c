r"""Langevin diffusion on any manifold, simulated by a geodesic random walk.

Brownian motion with a drift to a law pi, in the Brownian time tau(t) = sigma_t^2 of a schedule
with alpha = 1:

    dX = 1/2 grad log pi(X) dtau + dB^M.

pi is the law in which all points end: the uniform one has no drift and leaves Brownian motion, a
wrapped normal holds together what would wander off on a space that is not compact. No kernel is
needed, so this serves every manifold with exp and log, at the price of a walk: with kappa the rate
at which the drift forgets, one step of length h is

    x <- exp_x[r(h) 1/2 grad log pi(x) + sqrt(v(h)) z],
    r(h) = (1 - e^{-kappa h}) / kappa,    v(h) = (1 - e^{-2 kappa h}) / (2 kappa),

which in flat space with a normal pi is exact for every h (and for kappa = 0 is
exp_x[sqrt(h) z]). The steps are even in e^{kappa tau / 2}: what the first steps of a long walk
got wrong the drift forgets, so they may be long. The walk's law is right to first order
in 1 / steps. Measured at tau = 1 without drift, as the relative error of the mean of an
eigenfunction of the Laplacian, with 8, 16 and 32 steps: 2.2, 1.1 and 0.5 % on S^2 (the cosine of
the distance), 1.1, 0.5 and 0.3 % on SO(3) (the trace), 5.6, 3.0 and 1.5 % on H^3 (the hyperbolic
cosine); at tau = 1/4 with 8 steps 0.13, 0.07 and 0.4 %; none on tori. With a drift to the wrapped
normal of scale 1 on H^3 the mean distance from the centre is 4.1, 1.6 and 0.9 % short at tau = 4.

The estimate is tau times the expected score of p_t, as for Brownian noise, and the time reversal
has the drift too. With a = e^{kappa (tau_t - tau_s)}, v_t = v(tau_t) and
f = eta^2 (1 - v_s / (a^2 v_t)), a step from t to s is

    x_s = exp_{x_t}[(a v_t - sqrt(v_s v_t (1 - f))) score - (a - 1) / kappa 1/2 grad log pi
                    + sqrt(v_s f) z],

again exact in flat space, and that of `Brownian` for kappa = 0.

The score of the walk's kernel is not known. `towards`, and with it the objective `Denoising`,
takes Varadhan's approximation with the drift's share,

    tau score = tau / v(tau) [e^{-kappa tau} log_{x_t}(x_0) + r(tau) 1/2 grad log pi(x_t)],

right for small tau, in flat space for all, and for a law that is not uniform for large tau too.
For the uniform law it is log_{x_t}(x_0). Its relative error is (n - 1) tau / 6 times the curvature
while tau is small (measured: tau / 6 on S^2, tau / 12 on SO(3)), and it is not small where noise
reaches around the space. Implicit score matching (`ImplicitScore`) has no such bias.

References:
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022), eqs. 2 and 5, algorithm
    1, table 2. https://arxiv.org/abs/2202.02763
    The Central Limit Problem for Geodesic Random Walks (Jorgensen, 1975).
    https://doi.org/10.1007/BF00535344
    On the Behavior of the Fundamental Solution of the Heat Equation with Variable Coefficients
    (Varadhan, 1967). https://doi.org/10.1002/cpa.3160200210
    Exponential integrators (Hochbruck and Ostermann, 2010).
    https://doi.org/10.1017/S0962492910000048
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structdiff.parameterisations.tangent import TangentParameterisation
from structdiff.processes.base import Estimate, Markov, Scored
from structdiff.processes.brownian import check_exploding
from structdiff.processes.leaf import check_falling, expand
from structdiff.processes.tangent import TangentLeaf
from structdiff.random import Generator, Randomness
from structdiff.schedules import Schedule
from structdiff.spaces import Law, Manifold

__all__ = ["Langevin", "LangevinStep"]

_DRAWS = 4096
"""Draws of the law that measure its rate."""

_FORGOTTEN = 20.0
"""Largest kappa tau at the last time: walks back from later ones would blow up rounding."""


class LangevinStep(NamedTuple):
    """x_s = exp_{x_t}(drift estimate - back 1/2 grad log pi + noise z)."""

    drift: Tensor
    back: Tensor
    noise: Tensor
    stochastic: bool


class Langevin(TangentLeaf, Markov, Scored):
    """Noise by a geodesic random walk that ends in a law of one's choice.

    Arguments:
        schedule: Its sigma^2 is Brownian time; alpha must be 1. Its last sigma should be large
            enough for the law to be reached: rate sigma^2 of 5 to 10, where the law has a rate.
        manifold: The space.
        law: What everything ends in, a law on this space.
        steps: Steps of the walk for every draw of noise, at least 1.
        parameterisation: What the network predicts: `ScaledScore()` by default.
        rate: kappa; by default half of the law's Fisher information per dimension, measured on
            draws: 1 / (2 s^2) for a normal of scale s in flat space, 0 for the uniform law. It
            changes the errors of steps and not their limit.

    Raises:
        ValueError: If the schedule's alpha is not 1, the law is one on another space, a number is
            out of range, or the schedule goes on long after the law is reached.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.schedules import Geometric
        >>> from structdiff.spaces import Euclidean, WrappedNormal
        >>> space, schedule = Euclidean(2), Geometric(0.01, 4.0)
        >>> process = Langevin(schedule, space, WrappedNormal(space), steps=4)
        >>> process = process.bind(Batch.of(torch.full((10_000, 2), 5.0)))
        >>> x_1 = process.diffuse(process.known, torch.tensor(1.0), Generator(0))
        >>> round(x_1.mean().item(), 1), round(x_1.std().item(), 1)
        (0.0, 1.0)
    """

    def __init__(
        self,
        schedule: Schedule,
        manifold: Manifold,
        law: Law,
        *,
        steps: int,
        parameterisation: TangentParameterisation | None = None,
        rate: float | None = None,
    ) -> None:
        check_exploding(schedule)
        super().__init__(schedule, manifold, parameterisation)
        check_law(manifold, law)
        if steps < 1:
            msg = f"steps must be at least 1, got {steps}: some 20 serve most spaces"
            raise ValueError(msg)
        measured = measured_rate(law)
        self.law, self.steps, self.still = law, steps, measured == 0
        self.rate = measured if rate is None else rate
        check_rate(self.rate, schedule)

    def pull(self, x: Tensor) -> Tensor:
        """1/2 grad log pi, a tangent vector at x; differentiable in x."""
        if self.still:
            return x.new_zeros(len(x), *self.manifold.tangent)
        again = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            v = x.new_zeros(len(x), *self.manifold.tangent, requires_grad=True)
            total = self.law.log_prob(self.manifold.exp(x if again else x.detach(), v)).sum()
            (slope,) = torch.autograd.grad(total, v, create_graph=again)
        return 0.5 * self.manifold.to_tangent(x, slope)

    def tau(self, t: Tensor, x: Tensor) -> Tensor:
        """Brownian time sigma^2, `()` or `(rows,)`, float64 on the device of x.

        Raises:
            ValueError: If single entries of a row are given: a point is held whole.
        """
        return self.sigma(t, x.new_empty(0, dtype=torch.float64)).square()

    def response(self, tau: Tensor) -> Tensor:
        """r(tau): how far a drift of 1 gets, while the law draws back."""
        return -torch.expm1(-self.rate * tau) / self.rate if self.rate > 0 else tau

    def variance(self, tau: Tensor) -> Tensor:
        """v(tau): the variance of the noise per direction, in flat space."""
        return -torch.expm1(-2 * self.rate * tau) / (2 * self.rate) if self.rate > 0 else tau

    def lengths(self, tau: Tensor) -> Tensor:
        """Lengths of the steps of a walk of length tau, `(steps, *tau)`, the longest first."""
        left = torch.linspace(1, 0, self.steps + 1, dtype=tau.dtype, device=tau.device)
        left = left.reshape(-1, *(1,) * tau.ndim)
        if self.rate > 0:
            left = -2 / self.rate * torch.log1p(left * torch.expm1(-self.rate / 2 * tau))
        else:
            left = left * tau
        return left[:-1] - left[1:]

    def walk(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """The end of a walk from x.

        Arguments:
            x: Where it begins.
            tau: Its length, `()` or `(rows,)`, float64; from zero nothing moves.
            random: Where the noise comes from.
        """
        space, place, still = self.manifold, x, expand(tau > 0, x)
        for h in self.lengths(tau):
            z = space.noise(place, random)
            reach, spread = self.response(h).to(z), self.variance(h).sqrt().to(z)
            v = expand(reach, z) * self.pull(place) + expand(spread, z) * z
            place = space.project(space.exp(place, v))
        return torch.where(still, place, x)

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """A draw of the law."""
        del t
        known = self.known
        return self.hold(self.law.draw(len(known), random, known.dtype, known.device))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of the law."""
        del t
        return self.free(self.law.log_prob(x_1))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """The end of a walk of length tau(t)."""
        return self.walk(x_0, self.tau(t, x_0), random)

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """The end of a walk of length tau(t) - tau(s)."""
        return self.walk(x_s, (self.tau(t, x_s) - self.tau(s, x_s)).clamp(min=0), random)

    def towards(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Varadhan's approximation of tau times the score, with the drift's share."""
        tau = self.tau(t, x_t)
        safe = torch.where(tau > 0, tau, 1.0)
        scale = torch.where(tau > 0, safe / self.variance(safe), 1.0)
        way = self.manifold.log(x_t, x_0)
        near, far = scale * torch.exp(-self.rate * tau), scale * self.response(tau)
        return expand(near.to(way), way) * way + expand(far.to(way), way) * self.pull(x_t)

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """tau' (grad log pi - score) / 2."""
        slope, value = self.schedule.slope(t).to(x_t.device), estimate.value
        drift = (2 * slope * self.tau(t, x_t)).to(value)
        back = expand(drift, value) * self.pull(x_t) - expand(slope.to(value), value) * value
        return self.free(back)

    def score(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """The estimate over tau; zero at clean rows, where there is none."""
        tau = self.tau(t, x_t).to(estimate.value)
        return estimate.value / expand(torch.where(tau > 0, tau, 1.0), estimate.value)

    def diffusion(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """2 sigma^2 (-d clock / dt) v."""
        return self.tangent(x_t, self.noise_rate(t, v) * v)

    def plan(self, times: Tensor, eta: float) -> Sequence[LangevinStep]:
        """Drift, what undoes the law's, and noise of every step.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        tau = self.schedule(times).sigma ** 2
        there, here = self.variance(tau[:-1]), self.variance(tau[1:])
        length = tau[:-1] - tau[1:]
        a, clean = torch.exp(self.rate * length), there == 0
        ratio = torch.where(clean, 1.0, here / torch.where(clean, 1.0, there))
        fresh = eta**2 * (1 - ratio / a**2)
        reach = there * (a - torch.sqrt(ratio * (1 - fresh)))
        drift = reach / torch.where(clean, 1.0, tau[:-1])
        return self.walk_steps(drift, -self.response(-length), torch.sqrt(here * fresh))

    def leap(self, times: Tensor) -> Sequence[LangevinStep]:
        """Euler's steps: exp[tau' h (score - 1/2 grad log pi) + sqrt(tau' h) z], h = t - s.

        Raises:
            ValueError: If times rise.
        """
        exact, tau = self.plan(times, 1.0), self.schedule(times).sigma ** 2
        share = 2 * self.schedule.slope(times)[:-1] * (times[:-1] - times[1:])
        length = tau[:-1] * share
        frozen = self.walk_steps(share, length, torch.sqrt(length))
        sound = (times[1:] >= 0).reshape(len(exact), -1).all(1).tolist()
        return [a if good else b for a, b, good in zip(frozen, exact, sound, strict=True)]

    def walk_steps(self, drift: Tensor, back: Tensor, noise: Tensor) -> list[LangevinStep]:
        """Coefficients by step from those of a grid, `(steps,)` or `(steps, rows)`."""
        axes = 1 + len(self.manifold.tangent)
        return [LangevinStep(*row) for row in self.per_step(axes, drift, back, noise)]

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: Any, random: Randomness
    ) -> Tensor:
        """One geodesic step of the time reversal."""
        v = coefficients.drift * estimate.value - coefficients.back * self.pull(x_t)
        if coefficients.stochastic:
            v = v + coefficients.noise * self.manifold.noise(x_t, random)
        return self.manifold.project(self.manifold.exp(x_t, v))


def check_law(manifold: Manifold, law: Law) -> None:
    """Refuse a law on points of another shape or kind."""
    same = type(law.manifold) is type(manifold) and law.manifold.point == manifold.point
    if not same:
        ours, theirs = (
            f"{type(space).__name__} with points {space.point}"
            for space in (manifold, law.manifold)
        )
        msg = f"law must be one on {ours}, got one on {theirs}: make it with the same space"
        raise ValueError(msg)


def check_rate(rate: float, schedule: Schedule) -> None:
    """Refuse a rate that is not one, and a schedule that lasts much longer than the law needs."""
    if not 0 <= rate < math.inf:
        msg = f"rate must be at least 0 and finite, got {rate}: leave it out to measure it"
        raise ValueError(msg)
    last = float(schedule.sigma(torch.tensor(1.0)))
    if rate * last**2 > _FORGOTTEN:
        enough = math.sqrt(_FORGOTTEN / 2 / rate)
        msg = f"the schedule ends at sigma = {last:.3g}, where the law was reached long ago"
        raise ValueError(f"{msg}: end it at sigma = {enough:.3g}")


def measured_rate(law: Law) -> float:
    """Half of the mean of |grad log pi|^2 per dimension, over draws of the law."""
    x = law.draw(_DRAWS, Generator(0), torch.float64, "cpu")
    return float(law.manifold.norm2(law.score(x)).mean()) / (2 * law.manifold.dimension)
