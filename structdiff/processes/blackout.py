r"""Blackout: counts that die one by one.

Each of the x_0 individuals of an entry lives on until t with probability alpha_t,

    q(x_t | x_0) = Binomial(x_0, alpha_t),
    q(x_s - x_t | x_t, x_0) = Binomial(x_0 - x_t, (alpha_s - alpha_t) / (1 - alpha_t)),

down to nothing at t = 1. The time reversal is a birth process of rate
(x_0 - x_t) (-alpha'_t) / (1 - alpha_t), affine in x_0, so that the estimate is the posterior mean
of x_0. A step draws the binomial at its number of missing individuals, rounded up or down at
random so that the mean is kept: exact where x_0 is known, of first order else.

The error of an estimate is that of the rates, n log(n / m) - n + m for n missing individuals and
m estimated ones, which the posterior mean makes least; the integral of
(-alpha'_t) / (1 - alpha_t) times it is the bound on -log p(x_0).

References:
    Blackout Diffusion: Generative Diffusion Models in Discrete-State Spaces (Santos, Fox, Lubbers
    and Lin, 2023). https://arxiv.org/abs/2305.11089
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.processes.base import Conditional, Estimate, Markov
from structdiff.processes.draws import draw_class
from structdiff.processes.leaf import Leaf, check_falling, expand, sum_event
from structdiff.processes.means import past_sum, tilted_sum
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["Blackout", "BlackoutStep", "binomial_log_prob"]


class BlackoutStep(NamedTuple):
    """The share of the missing individuals that are born in the step."""

    born: Tensor


class Blackout(Leaf, Markov, Conditional):
    """Pure death on counts.

    States are int64. A draw looks at all counts up to the largest, as one of `Categorical` does
    at its classes, but the network's output is one number for each entry.

    Arguments:
        schedule: Its alpha is the probability to live on, see `Flow`; it should end at or near 0.
        largest: The largest count, at least 1.
        event: Shape of one row.

    Raises:
        ValueError: If alpha + sigma of the schedule is not 1 or `largest` is below 1.

    Example:
        >>> from structdiff.batch import Batch
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> process = Blackout(Flow(), 9).bind(Batch.of(torch.tensor([9, 5, 0])))
        >>> process.diffuse(process.known, torch.tensor(0.0), Generator(0))
        tensor([9, 5, 0])
        >>> process.diffuse(process.known, torch.tensor(1.0), Generator(0))
        tensor([0, 0, 0])
    """

    def __init__(self, schedule: Schedule, largest: int, *, event: Sequence[int] = ()) -> None:
        super().__init__(schedule, event)
        level = schedule(torch.linspace(0, 1, 11))
        if not torch.allclose(level.alpha + level.sigma, torch.ones(11).double()):
            mend = "use Flow(), or Survival(schedule) of a variance-preserving one"
            msg = f"the schedule of a death process must have alpha + sigma = 1: {mend}"
            raise ValueError(msg)
        if largest < 1:
            msg = f"largest must be at least 1, got {largest}"
            raise ValueError(msg)
        self.largest = largest

    def state_dtype(self) -> torch.dtype:
        """int64."""
        return torch.int64

    def draw(self, count: Tensor, share: Tensor, random: Randomness) -> Tensor:
        """Binomial numbers."""
        u = random.uniform(count.shape, torch.float64, count.device)
        outcome = torch.arange(self.largest + 1, device=count.device)
        law = binomial_log_prob(outcome, count.unsqueeze(-1), share.expand(count.shape)[..., None])
        return draw_class(law, u)

    def alpha(self, t: Tensor, x: Tensor) -> Tensor:
        """alpha_t, float64, against x."""
        return self.exact_level(t, x).alpha

    def prior(self, random: Randomness, t: float = 1.0) -> Tensor:
        """Zeros."""
        del random, t
        return self.hold(torch.zeros_like(self.known))

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        """0 at zero counts, -inf elsewhere."""
        del t
        return sum_event(self.free(torch.where(x_1 == 0, 0.0, -torch.inf)))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Those that live on.

        Raises:
            ValueError: If a count is out of range; on a CPU alone, where looking costs no wait.
        """
        if x_0.device.type == "cpu" and bool(((x_0 < 0) | (x_0 > self.largest)).any()):
            has = f"counts go from {int(x_0.min())} to {int(x_0.max())}"
            msg = f"{has}, but they must be from 0 to largest = {self.largest}"
            raise ValueError(msg)
        return self.draw(x_0, self.alpha(t, x_0), random)

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Randomness) -> Tensor:
        """Those that live on from s to t."""
        early = self.alpha(s, x_s)
        share = torch.where(early > 0, self.alpha(t, x_s) / early.clamp(min=1e-300), 0.0)
        return self.draw(x_s, share.clamp(max=1.0), random)

    def log_prob(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """Log-probability of the binomial, per row."""
        law = binomial_log_prob(x_t, x_0, self.alpha(t, x_0).expand(x_0.shape))
        return sum_event(self.free(law)).to(torch.get_default_dtype())

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Counts as shares of the largest."""
        del t
        return x_t.to(torch.get_default_dtype()) / self.largest

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Of the counts that can be missing the share that the output is the logit of."""
        missing = (self.largest - x_t) * torch.sigmoid(output)
        del t
        value = x_t + missing
        if self.held is not None:
            value = torch.where(expand(self.held, value), self.known.to(value.dtype), value)
        return Estimate(value)

    def oracle(self, x_0: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """x_0, in the default float."""
        del x_t, t
        return Estimate(x_0.to(torch.get_default_dtype()))

    def mean(self, estimates: Estimate, weights: Tensor, rows: Tensor) -> Estimate:
        """Weighted mean."""
        return Estimate(self.pool(estimates.value, weights, rows))

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """n log(n / m) - n + m of the missing individuals, summed over the event."""
        del t
        n = (x_0 - x_t).to(estimate.value)
        m = (estimate.value - x_t).clamp(min=torch.finfo(estimate.value.dtype).tiny)
        each = torch.xlogy(n, n) - n * m.log() - n + m
        return sum_event(self.free(each))

    def plan(self, times: Tensor, eta: float) -> Sequence[BlackoutStep]:
        """The share that is born in every step.

        Raises:
            ValueError: If times rise, or eta is not 1: there is no step without chance.
        """
        if eta != 1:
            msg = f"eta must be 1, got {eta}: a death process has Bayes' step alone, use DDPM"
            raise ValueError(msg)
        check_falling(times)
        level = self.schedule(times)
        gone = level.sigma[:-1]
        lost = gone - level.sigma[1:]
        born = torch.where(gone > 0, lost / torch.where(gone > 0, gone, 1.0), 0.0)
        rows = born.to(self.known.device).unbind()
        return [BlackoutStep(expand(share, self.known)) for share in rows]

    def leap(self, times: Tensor) -> Sequence[BlackoutStep]:
        """The steps of `plan`."""
        return self.plan(times, 1.0)

    def move(
        self, x_t: Tensor, estimate: Estimate, coefficients: BlackoutStep, random: Randomness
    ) -> Tensor:
        """Births among the missing individuals."""
        missing = (estimate.value.double() - x_t).clamp(min=0)
        missing = torch.minimum(missing, (self.largest - x_t).double())
        u = random.uniform(x_t.shape, torch.float64, x_t.device)
        count = torch.floor(missing + u).long()
        return x_t + self.draw(count, coefficients.born, random)

    def combine(
        self,
        history: Sequence[tuple[Tensor, Estimate]],
        weights: Sequence[Tensor],
        x_t: Tensor,
    ) -> Estimate:
        """Weighted sum, not below the state nor above the largest count."""
        total = past_sum(history, weights)
        bounded = torch.maximum(total.value, x_t.to(total.value)).clamp(max=self.largest)
        return total if len(weights) == 1 else replace(total, value=bounded)

    def tilt(self, estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
        """Weighted sum."""
        return tilted_sum(estimates, weights)

    def standard(self) -> Blackout:
        """Itself: counts have no units."""
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        """As it is."""
        del t
        return x_t

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        """Known entries in place."""
        return torch.where(expand(held, x_t), known, x_t)


def binomial_log_prob(outcome: Tensor, count: Tensor, share: Tensor) -> Tensor:
    """Log-probability of an outcome among `count` trials, float64.

    Example:
        >>> two = torch.tensor(2)
        >>> binomial_log_prob(torch.arange(4), two, torch.tensor(0.5)).exp().tolist()
        [0.25, 0.5, 0.25, 0.0]
    """
    left, outcome, count = (n.double() for n in (count - outcome, outcome, count))
    possible = left >= 0
    left = left.clamp(min=0)
    ways = torch.lgamma(count + 1.0) - torch.lgamma(outcome + 1.0) - torch.lgamma(left + 1.0)
    log_p = ways + torch.xlogy(outcome, share) + torch.special.xlog1py(left, -share)
    return torch.where(possible, log_p, -torch.inf)
