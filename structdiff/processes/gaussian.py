r"""The Gaussian process on R^n or on a linear subspace of it.

x_t = alpha_t x_0 + sigma_t z. The estimate is the posterior mean E[x_0 | x_t]. From t to s,
with f = eta^2 (1 - SNR_t / SNR_s),

    x_s = alpha_s x_0 + (sigma_s / sigma_t) sqrt(1 - f) (x_t - alpha_t x_0) + sigma_s sqrt(f) z,

which is DDIM at eta = 0, the Bayes kernel q(x_s | x_t, x_0) at eta = 1, and exact at the ends
(alpha_t = 0, sigma_s = 0). It also runs backwards (s > t) at eta = 0: encoding.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), eqs. 4-7.
    https://arxiv.org/abs/2006.11239
    Denoising Diffusion Implicit Models (Song et al., 2021), eqs. 7, 12, 16.
    https://arxiv.org/abs/2010.02502
    Variational Diffusion Models (Kingma et al., 2021), eqs. 30-33. https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from structdiff.layout import Layout
from structdiff.parameterisations import Data, Parameterisation
from structdiff.processes.base import Estimate, Scored, Tractable
from structdiff.processes.gaussian_step import (
    VARIANCES,
    GaussianStep,
    certainty,
    deviation,
    exact_steps,
)
from structdiff.processes.leaf import Leaf, check_falling, expand, sum_event
from structdiff.processes.means import past_sum, tilted_sum
from structdiff.random import Randomness
from structdiff.schedules import Schedule, Standard
from structdiff.spaces import Euclidean, Subspace, Whole

__all__ = ["Gaussian", "GaussianStep"]


class Gaussian(Leaf, Tractable, Scored):
    """Gaussian noise.

    Arguments:
        schedule: Time to noise level.
        parameterisation: What the network predicts; x_0 by default.
        event: Shape of one row.
        space: The subspace that the rows of a sample live in; all of R^n by default.

    Raises:
        ValueError: If the parameterisation has no meaning at the schedule's last time, or noise
            levels or variances by entry lead out of the subspace.

    Example:
        >>> from structdiff.schedules import Cosine
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> process = Gaussian(Cosine(), event=(2,)).bind(Batch.of(torch.zeros(3, 2)))
        >>> process.prior(Generator(0)).shape
        torch.Size([3, 2])
    """

    levels_by_entry = True

    def __init__(
        self,
        schedule: Schedule,
        parameterisation: Parameterisation | None = None,
        *,
        event: Sequence[int] = (),
        space: Subspace | None = None,
    ) -> None:
        super().__init__(schedule, event)
        self.parameterisation = parameterisation or Data()
        self._check_end()
        self.space = space or Whole()
        if schedule.event:
            self._check_subspace()
        self._check_heads()

    def _check_subspace(self) -> None:
        """Refuse levels by entry that lead out of the subspace."""
        level = self.schedule(self.schedule.spread(torch.tensor([0.2, 0.8]).double()))
        pair, waves = Layout.ragged([2]), torch.arange(1.0, 1 + 2 * math.prod(self.event)).sin()
        point = self.space.project(waves.double().reshape(2, *self.event), pair, None)
        for value in (*level.alpha, *level.sigma):
            moved = value * point
            if not torch.allclose(self.space.project(moved, pair, None), moved, atol=1e-9):
                name = type(self.space).__name__
                msg = f"noise levels by entry lead out of the subspace {name}: take one level"
                raise ValueError(msg)

    def _check_heads(self) -> None:
        """Refuse variances by entry in a subspace: noise scaled by entry leads out of it."""
        one = torch.ones((), dtype=torch.float64)
        if self.parameterisation.extras(one, one, one, one) and not isinstance(self.space, Whole):
            heads, space = type(self.parameterisation).__name__, type(self.space).__name__
            msg = (
                f"{heads} tells a variance for each entry, which leads out of the subspace {space}"
            )
            raise ValueError(f"{msg}: one for all entries, such as AnalyticVariance, stays in it")

    def _check_end(self) -> None:
        """Refuse a prediction that says nothing of x_0 at pure noise."""
        end = self.schedule(self.schedule.spread(torch.ones((), dtype=torch.float64)))
        one = torch.ones((), dtype=torch.float64)
        last = self.parameterisation.decode(one, 2 * one, end.alpha, end.sigma)
        if not torch.isfinite(last).all():
            name = type(self.parameterisation).__name__
            msg = (
                f"{name} has no meaning at t = 1, where alpha of this schedule is 0: predict "
                "Data, Velocity, Straight or Preconditioned, or use a schedule with alpha(1) > 0"
            )
            raise ValueError(msg)

    def project(self, x: Tensor) -> Tensor:
        """Projection to the subspace."""
        return self.space.project(x, self.layout, self.held_rows)

    def draw(self, random: Randomness) -> Tensor:
        """A standard normal of the subspace, `(rows, *event)`."""
        shape = (self.layout.rows, *self.event)
        return self.project(random.normal(shape, self.known.dtype, self.known.device))

    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """N(0, sigma_t^2)."""
        end = self.level(torch.tensor(t, dtype=torch.float64), self.known)
        return self.hold(end.sigma * self.draw(random))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of N(0, sigma_t^2) in the subspace."""
        return self.log_normal(x_1, self.level(torch.tensor(t, dtype=torch.float64), x_1).sigma)

    def log_normal(self, residual: Tensor, sigma: Tensor) -> Tensor:
        """Log density of a centred normal of the subspace, per row.

        Given entries count nothing; others with sigma = 0 are points.
        """
        sigma = self.free(sigma.expand_as(residual))
        noisy, safe = sigma > 0, torch.where(sigma > 0, sigma, 1.0)
        count = sum_event(noisy.to(residual.dtype))
        # Beside entries without noise the others are free: the frame is fixed.
        share = self.space.dimensions(residual, self.layout, self.held_rows)
        share = torch.where(count == sum_event(torch.ones_like(residual)), share, count)
        log_sigma = sum_event(safe.log()) / count.clamp(min=1)
        squares = sum_event(torch.where(noisy, residual / safe, 0.0) ** 2)
        density = -0.5 * squares - share * (log_sigma + 0.5 * math.log(2 * math.pi))
        missed = sum_event(self.free((residual != 0) & ~noisy).to(residual.dtype))
        return torch.where(missed > 0, -torch.inf, density)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """alpha_t x_0 + sigma_t z."""
        level = self.level(t, x_0)
        return level.alpha * x_0 + level.sigma * self.draw(random)

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """(alpha_t / alpha_s) x_s + sigma_{t|s} z."""
        past, level = self.exact_level(s, x_s), self.exact_level(t, x_s)
        still = level.clock == past.clock
        # Where no data are left at either time, what is there is scaled noise.
        same = torch.where(still & (past.sigma > 0), level.sigma / past.sigma, 1.0)
        ratio = torch.where(still, same, level.alpha / past.alpha)
        gap = torch.where(still, 0.0, level.clock - past.clock)
        fresh = level.sigma * torch.sqrt(-torch.expm1(2 * gap))
        return ratio.to(x_s.dtype) * x_s + fresh.to(x_s.dtype) * self.draw(random)

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The parameterisation's input."""
        level = self.level(t, x_t)
        return self.parameterisation.encode(x_t, level.alpha, level.sigma)

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The posterior mean that the output stands for, in the subspace."""
        level = self.level(t, x_t)
        x_0 = self.parameterisation.decode(output, x_t, level.alpha, level.sigma)
        extras = self.parameterisation.extras(output, x_t, level.alpha, level.sigma)
        return Estimate(self.hold(self.project(x_0)), extras)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """x_0."""
        del x_t, t
        return Estimate(x_0)

    def impose(
        self, estimate: Estimate, x_0: Tensor, held: Tensor, x_t: Tensor, t: Tensor
    ) -> Estimate:
        """The known rows, placed in the frame of the estimate; they have no variance."""
        del x_t, t
        free, extras = ~expand(held, x_0), dict(estimate.extras)
        extras |= {name: free * extras[name] for name in VARIANCES if name in extras}
        return Estimate(self.graft(estimate.value, x_0, held), extras)

    def shift(self, estimate: Estimate, gradient: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The mean moves by sigma^2 / alpha times the gradient, in the subspace.

        Where alpha is lost beside sigma, so that this would multiply rounding, nothing moves.
        """
        level = self.level(t, x_t)
        seen = level.alpha > torch.finfo(x_t.dtype).eps ** 0.5 * level.sigma
        scale = torch.where(seen, level.sigma**2 / torch.where(seen, level.alpha, 1.0), 0.0)
        moved = self.free(self.project(scale * gradient))
        return replace(estimate, value=estimate.value + moved)

    @property
    def geometry(self) -> Euclidean:
        """Flat space; what the subspace leaves is up to `tangent`."""
        return Euclidean(*self.event)

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """(d log alpha / dt) x_t - (d clock / dt) (x_t - alpha x_0) at the estimate of x_0."""
        slope, decay = (
            self.rate(rate, t, x_t) for rate in (self.schedule.slope, self.schedule.decay)
        )
        residual = x_t - self.level(t, x_t).alpha * estimate.value
        return self.tangent(x_t, decay * x_t + slope * residual)

    def rate(self, rate: Callable[[Tensor], Tensor], t: Tensor, x: Tensor) -> Tensor:
        """A rate of the schedule at times, shaped to broadcast against x, in its dtype."""
        value = rate(self.entry_times(t, x))
        return self.fitted(value.to(x.device, x.dtype), x)

    def tangent(self, x_t: Tensor, v: Tensor) -> Tensor:
        """Projection to the subspace; zero at given entries."""
        del x_t
        return self.free(self.project(v))

    def score(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """(alpha x_0 - x_t) / sigma^2 at the estimate of x_0."""
        level = self.level(t, x_t)
        sigma = torch.where(level.sigma > 0, level.sigma, 1.0)  # clean entries have no score
        return self.tangent(x_t, (level.alpha * estimate.value - x_t) / sigma**2)

    def diffusion(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """2 sigma^2 (-d clock / dt) v."""
        return self.tangent(x_t, self.noise_rate(t, v) * v)

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the points."""
        return Estimate(self.pool(estimates.value, weights, rows))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared error of x_0, summed over the event."""
        del x_t, t
        return sum_event(self.free((estimate.value - x_0) ** 2))

    def residual(self, estimate: Estimate, x_0: Tensor) -> Tensor:
        """x_0 - estimate, in the entries whose variance extras tell."""
        return x_0 - estimate.value

    def plan(self, times: Tensor, eta: float) -> Sequence[GaussianStep]:
        """keep, data, noise of every step.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        return self.grid_steps(*exact_steps(self.schedule(self.grid_times(times)), eta))

    def grid_times(self, times: Tensor) -> Tensor:
        """A grid as the schedule takes it: with axes for entries of levels of their own."""
        return times if times.ndim > self.known.ndim else self.schedule.spread(times)

    def grid_steps(self, *numbers: Tensor) -> Sequence[GaussianStep]:
        """The coefficients of each step."""
        return [GaussianStep(*row) for row in self.per_step(self.known.ndim, *numbers)]

    def leap(self, times: Tensor) -> Sequence[GaussianStep]:
        """Euler-Maruyama steps of the reverse SDE, in t.

        x_s = (1 - (f + 2 r) h) x_t + 2 r h alpha x_0 + sigma sqrt(2 r h) z with h = t - s,
        f = d log alpha / dt and r = -d clock / dt.

        Raises:
            ValueError: If times rise.
        """
        check_falling(times)
        times = self.grid_times(times)
        level = self.schedule(times)
        length = times[:-1] - times[1:]
        pull = 2 * self.schedule.slope(times)[:-1] * length
        keep = 1 - self.schedule.decay(times)[:-1] * length - pull
        unit = torch.sigmoid(-2 * level.clock[:-1])
        frozen = (keep, pull * level.alpha[:-1], unit, level.sigma[:-1] * pull.sqrt())
        finite = (times[1:] >= 0) & torch.isfinite(level.clock[:-1])
        pairs = zip(frozen, exact_steps(level, 1.0), strict=True)
        return self.grid_steps(*(torch.where(finite, a, b) for a, b in pairs))

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: GaussianStep, random: Randomness
    ) -> Tensor:
        """keep x_t + data x_0 + deviation z."""
        x_s = (coefficients.keep * x_t).addcmul_(coefficients.data, estimate.value)
        if coefficients.stochastic:
            x_s.addcmul_(deviation(estimate.extras, coefficients), self.draw(random))
        return x_s

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the means."""
        del x_t
        return past_sum(history, weights)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum of the means, with what else the last estimate says."""
        return tilted_sum(estimates, weights)

    def standard(self) -> Gaussian:
        """The schedule divided by sqrt(alpha^2 + sigma^2), predicting x_0."""
        return Gaussian(Standard(self.schedule), event=self.event, space=self.space)

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Times sqrt(alpha^2 + sigma^2)."""
        level = self.level(t, x_t)
        return x_t * torch.sqrt(level.alpha**2 + level.sigma**2)

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known entries in the frame of x_t, the whole in the subspace."""
        placed = self.space.place(known, x_t, self.layout, held, self.held_rows)
        return self.project(torch.where(expand(held, x_t), placed, x_t))

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of N(alpha_t x_0, sigma_t^2) in the subspace, per row."""
        level = self.level(t, x_t)
        density = self.log_normal(x_t - level.alpha * x_0, level.sigma)
        differs = sum_event(((x_t != x_0) & (level.sigma == 0)).to(density.dtype)) > 0
        return torch.where(differs, -torch.inf, density)

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: GaussianStep
    ) -> Tensor:
        """Log density of the step's normal, per row."""
        mean = coefficients.keep * x_t + coefficients.data * estimate.value
        return self.log_normal(x_s - mean, deviation(estimate.extras, coefficients))

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: GaussianStep
    ) -> Tensor:
        """KL of two normals, of one variance unless the estimate tells its own."""
        noise, whole = coefficients.noise, deviation(estimate.extras, coefficients)
        gap = certainty(coefficients.data, whole) * (oracle.value - estimate.value)
        distance = sum_event(self.free(gap**2))
        if whole is not noise:
            ratio = (torch.where(whole > 0, noise / whole, 1.0) ** 2).expand_as(gap)
            entries = sum_event(self.free(torch.ones_like(gap)))
            share = self.space.dimensions(x_t, self.layout, self.held_rows) / entries.clamp(min=1)
            # Beside given entries the others are free: the frame is fixed.
            share = torch.where(entries == math.prod(self.event), share, 1.0)
            distance = distance + share * sum_event(self.free(ratio - 1 - torch.log(ratio)))
        return 0.5 * distance

    def divergence_rate(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-d SNR / dt |x_0 - estimate|^2 / 2."""
        level = self.level(t, x_t)
        slope = self.rate(self.schedule.slope, t, x_t)
        gap = (level.alpha / level.sigma) * (estimate.value - x_0)
        return sum_event(self.free(slope * gap**2))

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """alpha_t^2 |x_0|^2 / (2 sigma_t^2)."""
        end = self.level(torch.tensor(t, dtype=torch.float64), x_0)
        return 0.5 * sum_event(self.free((end.alpha / end.sigma * x_0) ** 2))

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log N(x_0; estimate, (sigma_t / alpha_t)^2), per row."""
        level = self.level(t, x_t)
        return -self.log_normal(x_0 - estimate.value, level.sigma / level.alpha)
