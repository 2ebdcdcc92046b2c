r"""Noise in phase space: a position is noised through its velocity.

The state of a row is the pair u = (position, velocity), `(rows, 2, *event)`, and follows a linear
motion (see `PhaseMotion`) in which, as a rule, noise enters the velocity alone. Clean rows have
velocity 0 (`with_velocities`); at any t >= 0 it is random, so that

    q(u_t | x_0) = N(Psi_t u_0, Sigma_t),    u_0 = (x_0, 0).

The estimate is the posterior mean of u_0, as for Gaussian noise. With R_t R_t^T = Sigma_t the
root that the probability flow carries, J = Sigma_s Psi_{t|s}^T Sigma_t^{-1} the matrix of Bayes'
rule and V its covariance, a step from t to s is

    u_s = Psi_s u_0 + K (u_t - Psi_t u_0) + eta V^{1/2} z,
    K = R_s (I - eta^2 R_s^{-1} V R_s^{-T})^{1/2} rot(eta^2 phi) R_t^{-1},

with phi the angle of the rotation in R_s^{-1} J R_t. It is exact where x_0 is known. At eta 0 it
is gDDIM, the exponential integrator of the probability flow with the estimate held, at eta 1
Bayes' kernel. As for DDIM, several estimates may be combined: with `Multistep` of order 2 and
`Heun` the walk is of second order (a third one stays at second).

With L the lower Cholesky factor of Sigma_t, the network says the noise of the velocity, z_2 in
u_t = Psi_t u_0 + L z: up to its size the score of the velocity, and all that a motion with noise
on the velocity alone needs (hybrid score matching). It stands for

    x_0 = ([L^{-1} u_t]_2 - z_2) / [L^{-1} Psi_t]_21.

References:
    Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn, Vahdat
    and Kreis, 2022). https://arxiv.org/abs/2112.07068
    gDDIM: Generalized Denoising Diffusion Implicit Models (Zhang, Tao and Chen, 2023).
    https://arxiv.org/abs/2206.05564
    Fast Diffusion Model (Wu, Zhou, Kawaguchi and Zhang, 2023): the heavy ball.
    https://arxiv.org/abs/2306.06991
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.parameterisations import Parameterisation
from structdiff.processes.base import Estimate, Scored, Tractable
from structdiff.processes.leaf import check_falling, expand, sum_event
from structdiff.processes.means import past_sum, tilted_sum
from structdiff.processes.phase_leaf import PairLeaf, whole_pairs, with_velocities
from structdiff.processes.phase_matrices import Entries, apply, cholesky, entries, inverse, whiten
from structdiff.processes.phase_motion import PhaseMotion
from structdiff.processes.phase_steps import Matrices, euler_steps, exact_steps, split_steps
from structdiff.random import Randomness
from structdiff.spaces import Euclidean

__all__ = ["PhaseSpace", "PhaseStep", "with_velocities"]


class PhaseStep(NamedTuple):
    """u_s = keep u_t + data u_0 + noise z, with matrices; the noise is lower triangular."""

    keep: Entries
    data: Entries
    noise: Entries
    stochastic: bool


class PhaseSpace(PairLeaf, Tractable, Scored):
    """Gaussian noise that reaches positions through their velocities.

    Rows of the leaf are pairs, `(2, *event)`: see `with_velocities`. A pair is given whole: a mask
    that names one of the two holds both.

    Arguments:
        motion: The motion, see `critically_damped` and `heavy_ball`.
        parameterisation: What the network predicts, about y = alpha x_0 + sigma z in place of
            x_t, where y is what u_t says of x_0 on the motion's clock. By default the network
            sees u_t and predicts the noise of the velocity. Either way its output is
            `(rows, *event)`.
        event: Shape of one position.

    Raises:
        ValueError: If the velocity alone says nothing of x_0 at some time, with the default.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.processes.phase_motion import critically_damped
        >>> from structdiff.schedules import Linear
        >>> process = PhaseSpace(critically_damped(Linear()), event=(2,))
        >>> data = with_velocities(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
        >>> process.bind(Batch.of(data)).prior(Generator(0)).shape
        torch.Size([2, 2, 2])
    """

    def __init__(
        self,
        motion: PhaseMotion,
        parameterisation: Parameterisation | None = None,
        *,
        event: Sequence[int] = (),
    ) -> None:
        super().__init__(motion, event)
        self.parameterisation = parameterisation
        if parameterisation is None:
            self._check_velocity()

    def _check_velocity(self) -> None:
        """Refuse to learn x_0 from the velocity's score where that does not depend on it."""
        mean, covariance = self.motion.state(torch.linspace(0, 1, 1001, dtype=torch.float64))
        known = (inverse(cholesky(covariance)) @ mean)[:, :, 0]
        share = known[:, 1].abs() / known.norm(dim=1)
        signs = torch.sign(known[:, 1])
        if bool((share < 1e-3).any()) or bool((signs != signs[0]).any()):
            msg = (
                "the score of the velocity says nothing of x_0 at some time of this motion: pass "
                "a parameterisation (Data, Noise, ...), or more friction"
            )
            raise ValueError(msg)

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """N(0, Sigma_t): at t = 1 all but the stationary law."""
        _, factor = self.at(torch.tensor(t, dtype=torch.float64), self.known)
        return self.hold_pairs(apply(factor, self.normal(random)))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of N(0, Sigma_t)."""
        _, factor = self.at(torch.tensor(t, dtype=torch.float64), x_1)
        return self.log_normal(x_1, factor)

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Psi u_0 + L z."""
        mean, factor = self.at(t, x_0)
        return apply(mean, x_0) + apply(factor, self.normal(random))

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """The motion from s to t."""
        early, late = (self.pair_times(time).to(x_s.device) for time in (s, t))
        length = (self.motion.tau(late) - self.motion.tau(early)).clamp(min=0)
        clean = (early < 0).expand(length.shape)[..., None, None]
        spread = torch.where(clean, self.motion.state(late)[1], self.motion.scatter(length))
        mean = entries(self.motion.flow(length), x_s)
        noise = entries(cholesky(spread), x_s)
        return apply(mean, x_s) + apply(noise, self.normal(random))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The pair, or the parameterisation's input in place of the position."""
        if self.parameterisation is None:
            return x_t
        y, level = self.summary(x_t, t)
        seen = self.parameterisation.encode(y, level.alpha, level.sigma)
        return torch.stack([seen, x_t[:, 1]], 1)

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The position that the output stands for, at velocity 0."""
        if self.parameterisation is None:
            mean, factor = self.at(t, x_t)
            sure = factor[3] == 0
            scale = torch.where(sure, 1.0, factor[0])
            slope = (mean[2] - factor[2] * mean[0] / scale) / torch.where(sure, 1.0, factor[3])
            _, second = whiten(factor, x_t)
            x_0 = (second - output) / torch.where(sure, 1.0, slope)
        else:
            y, level = self.summary(x_t, t)
            x_0 = self.parameterisation.decode(output, y, level.alpha, level.sigma)
        return Estimate(self.hold_pairs(with_velocities(x_0)))

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """u_0."""
        del x_t, t
        return Estimate(x_0)

    def impose(
        self, estimate: Estimate, x_0: Tensor, held: Tensor, x_t: Tensor, t: Tensor
    ) -> Estimate:
        """The known rows."""
        del x_t, t
        return replace(estimate, value=self.graft(estimate.value, x_0, held))

    def shift(self, estimate: Estimate, gradient: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """The mean moves by Psi^{-1} Sigma times the gradient; not where Psi is lost."""
        mean, covariance = self.motion.state(self.pair_times(t).to(x_t.device))
        left = torch.exp(self.motion.mu * self.motion.tau(self.pair_times(t).to(x_t.device)))
        seen = left > torch.finfo(x_t.dtype).eps ** 0.5
        moved = torch.where(seen[..., None, None], inverse(mean) @ covariance, 0.0)
        step = apply(entries(moved, x_t), gradient)
        return replace(estimate, value=estimate.value + self.free_both(step))

    @property
    def geometry(self) -> Euclidean:
        """Flat space."""
        return Euclidean(*self.event)

    def score(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """Sigma^{-1} (Psi u_0 - u_t) at the estimate of u_0; zero at clean pairs."""
        first, second, factor = self.residual(x_t, estimate.value, t)
        v = -second / torch.where(factor[3] == 0, 1.0, factor[3])
        x = (-first - factor[2] * v) / torch.where(factor[0] == 0, 1.0, factor[0])
        return self.free_both(torch.stack([x, v], 1))

    def velocity(self, estimate: Estimate, x_t: Tensor, t: Tensor) -> Tensor:
        """tau' (A u - Q score / 2)."""
        drift, noise = self.motion.pull, self.motion.diffusion
        speed = self.motion.speed(self.pair_times(t)).to(x_t.device, x_t.dtype)
        flow = apply(drift, x_t) - 0.5 * apply(noise, self.score(estimate, x_t, t))
        return self.free_both(torch.stack([expand(speed, p) * p for p in flow.unbind(1)], 1))

    def diffusion(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """tau' Q v."""
        speed = self.motion.speed(self.pair_times(t)).to(x_t.device, x_t.dtype)
        moved = apply(self.motion.diffusion, v)
        return self.free_both(torch.stack([expand(speed, p) * p for p in moved.unbind(1)], 1))

    def tangent(self, x_t: Tensor, v: Tensor) -> Tensor:
        """Zero at given pairs."""
        del x_t
        return self.free_both(v)

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean of the pairs."""
        return Estimate(self.pool(estimates.value, weights, rows))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared error of u_0, summed over the event."""
        del x_t, t
        return sum_event(self.free_both((estimate.value - x_0) ** 2))

    def plan(self, times: Tensor, eta: float) -> Sequence[PhaseStep]:
        """keep, data and noise of every step.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        return self.steps_of(exact_steps(self.motion, times, eta))

    def leap(self, times: Tensor) -> Sequence[PhaseStep]:
        """Euler-Maruyama steps of the reverse SDE, in t.

        A step to `CLEAN`, or from a time at which the motion has ended, is that of `plan`.

        Raises:
            ValueError: If times rise.
        """
        check_falling(times)
        frozen, exact = euler_steps(self.motion, times), exact_steps(self.motion, times, 1.0)
        ended = self.motion.speed(times[:-1]) == 0
        return self.steps_of(frozen.but(exact, ended | (times[1:] < 0)))

    def split(self, times: Tensor) -> list[tuple[PhaseStep, PhaseStep]]:
        """Two parts of each step, between which the estimate is asked for; see `split_steps`.

        A step to `CLEAN` is that of `plan`, after nothing.

        Raises:
            ValueError: If times rise.
        """
        check_falling(times)
        clean, exact = times[1:] < 0, exact_steps(self.motion, times, 1.0)
        first, second = split_steps(self.motion, times)
        nothing = torch.zeros_like(exact.data)
        unit = torch.eye(2, dtype=torch.float64, device=times.device)
        still = Matrices(unit + nothing, nothing, nothing)
        parts = (first.but(still, clean), second.but(exact, clean))
        return list(zip(*(self.steps_of(part) for part in parts), strict=True))

    def steps_of(self, matrices: Matrices) -> list[PhaseStep]:
        """Coefficients by step from matrices `(steps, 2, 2)` or `(steps, rows, 2, 2)`."""
        noise = matrices.noise[..., 1, 1]
        used = (noise > 0).reshape(len(noise), -1).any(1).tolist()
        parts = ([entries(m, self.known) for m in each] for each in matrices)
        return [PhaseStep(*step) for step in zip(*parts, used, strict=True)]

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: PhaseStep, random: Randomness
    ) -> Tensor:
        """keep u_t + data u_0 + noise z."""
        u_s = apply(coefficients.keep, x_t) + apply(coefficients.data, estimate.value)
        if coefficients.stochastic:
            u_s = u_s + apply(coefficients.noise, self.normal(random))
        return self.hold_pairs(u_s)

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
        """Weighted sum of the means."""
        return tilted_sum(estimates, weights)

    def standard(self) -> PhaseSpace:
        """Itself: it is in standard units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known pairs in place, whole ones where the mask names one of the two."""
        return torch.where(expand(whole_pairs(held), x_t), known, x_t)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density of N(Psi u_0, Sigma), per row."""
        mean, factor = self.at(t, x_t)
        return self.log_normal(x_t - apply(mean, x_0), factor)

    def reverse_log_prob(
        self, x_s: Tensor, x_t: Tensor, estimate: Estimate, coefficients: PhaseStep
    ) -> Tensor:
        """Log density of the step's normal, per row."""
        mean = apply(coefficients.keep, x_t) + apply(coefficients.data, estimate.value)
        return self.log_normal(x_s - mean, coefficients.noise)

    def divergence(
        self, oracle: Estimate, estimate: Estimate, x_t: Tensor, coefficients: PhaseStep
    ) -> Tensor:
        """KL of two normals of one covariance."""
        del x_t
        gap = apply(coefficients.data, oracle.value - estimate.value)
        first, second = whiten(coefficients.noise, gap)
        return 0.5 * sum_event(self.free_pairs(first.square() + second.square()))

    def divergence_rate(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """tau' / 2 times the gap g of the scores in the noise, g^T Q g."""
        gap = self.score(estimate, x_t, t) - self.score(Estimate(x_0), x_t, t)
        noise = self.motion.diffusion
        speed = self.motion.speed(self.pair_times(t)).to(x_t.device, x_t.dtype)
        each = (gap * apply(noise, gap)).sum(1)
        return sum_event(0.5 * expand(speed, each) * each)

    def prior_divergence(self, x_0: Tensor, t: float = 1.0) -> Tensor:
        """Half the square of L^{-1} Psi u_0 at t."""
        mean, factor = self.at(torch.tensor(t, dtype=torch.float64), x_0)
        first, second = whiten(factor, apply(mean, x_0))
        return 0.5 * sum_event(self.free_pairs(first.square() + second.square()))

    def reconstruction(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """-log N(x_0; estimate, (sigma / alpha)^2) of the positions, per row."""
        gap = (x_0 - estimate.value)[:, 0]
        level = self.level(self.pair_times(t), gap)
        ratio = torch.where(level.sigma > 0, level.sigma / level.alpha, 1.0)
        each = 0.5 * (gap / ratio).square() + torch.log(ratio) + 0.5 * math.log(2 * math.pi)
        return sum_event(self.free_pairs(each.expand_as(gap)))
