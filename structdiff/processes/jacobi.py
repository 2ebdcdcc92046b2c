r"""Dirichlet diffusion: probabilities of classes noised by independent Jacobi diffusions.

A point p of the simplex is broken as a stick: v_k = p_k / (p_k + ... + p_K) is the share that
class k takes of what the classes before it left, and p_k = v_k prod_{j < k} (1 - v_j). Each of the
K - 1 shares follows a Jacobi diffusion in the Brownian time tau = sigma_t^2 of a schedule with
alpha = 1. With v_k ~ Beta(c_k, c_{k+1} + ... + c_K) in the end, p ends in Dirichlet(c). A share of
nothing (after a class that has it all) is not known: it is in its final law at all times.

The diffusion is reversible, so that with h = grad log of the density of v against that law the
time reversal is the same diffusion with the drift v (1 - v) h more, and the probability flow
moves v by -v (1 - v) h / 2. The estimate is tau E[v (1 - v) h | v_t], `(rows, K - 1)`: finite at
the corners of the simplex, and for early times the way to the data. A step moves the angles
theta = 2 arcsin sqrt(v), in which noise is that of Brownian motion: with c and n the coefficients
of `Brownian` for the estimate and for the noise,

    theta <- theta + c estimate / sqrt(v (1 - v))
                   + n^2 / 2 [(a - 1/2) cot(theta / 2) - (b - 1/2) tan(theta / 2)] + n z,

folded at 0 and pi, so that no point leaves the simplex: right to first order in the step, with
the singular drifts bounded within n / 2 of an end.

References:
    Dirichlet Diffusion Score Model for Biological Sequence Generation (Avdeyev et al., 2023).
    https://arxiv.org/abs/2305.10699
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.processes.base import Conditional, Estimate, Markov
from structdiff.processes.brownian import check_exploding
from structdiff.processes.jacobi_kernel import JacobiKernel
from structdiff.processes.leaf import Leaf, check_falling, expand
from structdiff.processes.means import tilted_sum
from structdiff.processes.tangent import TangentStep, check_whole
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["Jacobi", "break_sticks", "join_sticks"]

_EDGE = 1e-6
_NOTHING = 1e-12


class Sticks(NamedTuple):
    """Shares of what is left.

    Arguments:
        share: v_k, `(rows, K - 1)`; 1/2 where nothing is left.
        known: Whether something is left.
        left: What is left for class k and those after it.
    """

    share: Tensor
    known: Tensor
    left: Tensor


def break_sticks(p: Tensor) -> Sticks:
    """Probabilities `(rows, K)` to the shares that the classes take of what is left."""
    left = p.flip(-1).cumsum(-1).flip(-1)[:, :-1]
    known = left > _NOTHING
    share = torch.where(known, p[:, :-1] / torch.where(known, left, 1.0), 0.5)
    return Sticks(share, known, left)


def join_sticks(v: Tensor) -> Tensor:
    """Shares `(rows, K - 1)` to probabilities."""
    left = torch.cumprod(1 - v, -1)
    before = torch.cat([torch.ones_like(v[:, :1]), left], -1)
    return torch.cat([v * before[:, :-1], before[:, -1:]], -1)


class Jacobi(Leaf, Markov, Conditional):
    """Noise on the simplex, down to a Dirichlet law.

    Densities are against Lebesgue's measure of the first K - 1 probabilities. Corners are data
    like others: classes as one-hot points, sampled by the largest probability.

    Arguments:
        schedule: Its sigma^2 is the time of the diffusion; alpha must be 1. Its first sigma,
            positive, sets how many terms the kernel has (sqrt(80) / sigma); steps of `corrupt`
            that are shorter than its square are drawn with that resolution.
        classes: Number K of probabilities, at least 2.
        concentration: Positive parameters c of the Dirichlet law, `(classes,)`; all 1, the
            uniform law, by default.

    Raises:
        ValueError: If the schedule's alpha is not 1, or a number is out of range.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Geometric
        >>> process = Jacobi(Geometric(0.2, 3.0), 3).bind(Batch.of(torch.eye(3)))
        >>> p = process.diffuse(process.known, torch.tensor(0.5), Generator(0))
        >>> bool((p > 0).all()), bool(torch.allclose(p.sum(1), torch.ones(3)))
        (True, True)
    """

    def __init__(
        self, schedule: Schedule, classes: int, concentration: Tensor | None = None
    ) -> None:
        check_exploding(schedule)
        if classes < 2:
            msg = f"classes must be at least 2, got {classes}"
            raise ValueError(msg)
        c = (torch.ones(classes) if concentration is None else concentration).double()
        if c.shape != (classes,) or not bool((c > 0).all()):
            msg = f"concentration must be ({classes},) and positive, got {c.tolist()}"
            raise ValueError(msg)
        super().__init__(schedule, (classes,))
        first = float(schedule.sigma(torch.tensor(0.0))) ** 2
        self.kernel = JacobiKernel(c[:-1], c.flip(0).cumsum(0).flip(0)[1:], first)

    def state_dtype(self) -> torch.dtype:
        """The default float."""
        return torch.get_default_dtype()

    def tau(self, t: Tensor, x: Tensor) -> Tensor:
        """Time of the diffusion, `()` or `(rows,)`, float64.

        Raises:
            ValueError: If single entries of a row are given: a point is held whole.
        """
        if t.ndim > 1:
            shape = f"times of a simplex leaf must be () or (rows,), got {tuple(t.shape)}"
            msg = f"{shape}: give whole rows"
            raise ValueError(msg)
        return self.schedule.forward(t).sigma.to(x.device).square()

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """A draw of the Dirichlet law."""
        del t
        shares = self.kernel.stationary(len(self.known), random, self.known)
        return self.hold(join_sticks(_inside(shares)))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """Log density of the Dirichlet law."""
        del t
        sticks = break_sticks(x_1)
        density = self.kernel.stationary_log_prob(sticks.share).to(x_1) - sticks.left.log()
        return self.free(density.sum(1))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Draws of the Jacobi kernel for each share."""
        return self.onward(x_0, self.tau(t, x_0), random)

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Draws of the kernel at tau(t) - tau(s)."""
        return self.onward(x_s, (self.tau(t, x_s) - self.tau(s, x_s)).clamp(min=0), random)

    def onward(self, x: Tensor, tau: Tensor, random: Randomness) -> Tensor:
        """Where points are tau later; unknown shares are drawn from their law."""
        sticks = break_sticks(x)
        drawn = self.kernel.draw(sticks.share, tau, random)
        loose = self.kernel.stationary(len(x), random, x)
        moved = join_sticks(_inside(torch.where(sticks.known, drawn, loose)))
        return torch.where(expand(tau > 0, x), moved, x)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log density, per row; at clean rows zero where the points agree, else -inf."""
        now, start = break_sticks(x_t), break_sticks(x_0)
        tau = self.tau(t, x_t)
        clean = tau == 0
        late = torch.where(clean, 1.0, tau)
        ratio = self.kernel.log_ratio(start.share, now.share, late)
        ratio = torch.where(start.known, ratio, 0.0)
        density = ratio + self.kernel.stationary_log_prob(now.share) - now.left.double().log()
        same = (x_t == x_0).all(1)
        point = torch.where(same, 0.0, -torch.inf).to(density)
        return torch.where(clean, point, density.sum(1)).to(x_t.dtype)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """tau v (1 - v) h at the data's shares; zero at given rows."""
        now, start, tau = break_sticks(x_t), break_sticks(x_0), self.tau(t, x_t)
        late = torch.where(tau > 0, tau, 1.0)
        slope = self.kernel.ratio_score(start.share, now.share, late)
        value = expand(tau.to(slope), slope) * now.share * (1 - now.share) * slope
        return Estimate(self.free(torch.where(start.known, value, 0.0)))

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The probabilities."""
        del t
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """sigma times the output, `(rows, K - 1)`."""
        sigma = self.tau(t, x_t).sqrt().to(output)
        return Estimate(self.free(expand(sigma, output) * output))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Squared error, summed over shares."""
        truth = self.oracle(x_0, x_t, t).value
        return self.free((estimate.value - truth).square().sum(1))

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean."""
        return Estimate(self.pool(estimates.value, weights, rows))

    def plan(self, times: Tensor, eta: float) -> Sequence[TangentStep]:
        """The drift and the noise of `Brownian`, for the angles.

        Raises:
            ValueError: If times rise and eta is not 0.
        """
        if eta > 0:
            check_falling(times)
        tau = self.schedule(times).sigma ** 2
        ratio = torch.where(tau[:-1] > 0, tau[1:] / tau[:-1], 1.0)
        fresh = eta**2 * (1 - ratio)
        drift, noise = 1 - torch.sqrt(ratio * (1 - fresh)), torch.sqrt(tau[1:] * fresh)
        return [TangentStep(*row) for row in self.per_step(2, drift, noise)]

    def leap(self, times: Tensor) -> Sequence[TangentStep]:
        """Euler's steps.

        Raises:
            ValueError: If times rise.
        """
        exact, tau = self.plan(times, 1.0), self.schedule(times).sigma ** 2
        share = 2 * self.schedule.slope(times)[:-1] * (times[:-1] - times[1:])
        rows = self.per_step(2, share, torch.sqrt(tau[:-1] * share))
        sound = (times[1:] >= 0).reshape(len(exact), -1).all(1).tolist()
        frozen = [TangentStep(*row) for row in rows]
        return [a if good else b for a, b, good in zip(frozen, exact, sound, strict=True)]

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: TangentStep, random: Randomness
    ) -> Tensor:
        """One step of the angles."""
        drift, noise, stochastic = coefficients
        share = _inside(break_sticks(x_t).share)
        sine = share.sqrt().clamp(min=0.5 * noise)
        cosine = (1 - share).sqrt().clamp(min=0.5 * noise)
        angle = 2 * torch.asin(share.sqrt()) + drift * estimate.value / (sine * cosine)
        if stochastic:
            a, b = self.kernel.a.to(share), self.kernel.b.to(share)
            pull = (a - 0.5) * cosine / sine - (b - 0.5) * sine / cosine
            z = random.normal(share.shape, share.dtype, share.device)
            angle = angle + 0.5 * noise**2 * pull + noise * z
        angle = math.pi - (math.pi - angle.abs()).abs()
        return join_sticks(_inside(torch.sin(angle / 2).square()))

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum of the denoised shares seen from x_t."""
        if len(weights) == 1:
            return history[0][1]
        now, total = break_sticks(x_t).share, torch.zeros_like(history[0][1].value)
        for weight, (x, past) in zip(weights, history, strict=False):
            total = total + weight * (break_sticks(x).share - now + past.value)
        return Estimate(total)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum."""
        return tilted_sum(estimates, weights)

    def standard(self) -> Jacobi:
        """Itself: a simplex has no units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known points as they are."""
        check_whole(held)
        return torch.where(expand(held, x_t), known, x_t)


def _inside(v: Tensor) -> Tensor:
    """Shares a little away from 0 and 1, so that something is left for the others."""
    return v.clamp(_EDGE, 1 - _EDGE)
