r"""Training times that follow the loss: time warping.

The cross-entropy of classes rises from 0 at clean data to the entropy at pure noise, and most of
it in a narrow range of the clock. With F(t) the loss at t, stretched to [0, 1], times F^-1(u) of
uniform u make it rise in a straight line: equal parts of the law have equal rises of the loss. F
is fitted to what training sees: means of the loss in bins of the clock, which forget the past,
made monotone by isotonic regression (the monotone fit of least squares), in closed form

    f_i = max_{j <= i} min_{k >= i} mean of the losses in bins j to k.

References:
    Continuous Diffusion for Categorical Data (Dieleman et al., 2022), section 3.
    https://arxiv.org/abs/2211.15089
    Their F is a monotone network fitted by gradient steps; bins have no settings to tune.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms
from structdiff.objectives.times import TimeDistribution, between
from structdiff.random import Randomness
from structdiff.schedules import Schedule

__all__ = ["Observer", "WarpedTimes", "Warping"]

WIDEST = 12.0
"""Bins lie within clocks of +-WIDEST: beyond, the classes are certain or unknown."""


def isotonic(value: Tensor, weight: Tensor) -> Tensor:
    """The rising sequence nearest to `value` in weighted least squares; weights are positive."""
    mass = F.pad(weight.cumsum(0), (1, 0))
    total = F.pad((weight * value).cumsum(0), (1, 0))
    first, last = torch.tril_indices(len(value), len(value)).flip(0)
    means = torch.full((len(value), len(value)), torch.inf, dtype=value.dtype)
    means[first, last] = (total[last + 1] - total[first]) / (mass[last + 1] - mass[first])
    least = means.flip(1).cummin(1).values.flip(1)
    started = torch.ones_like(means, dtype=torch.bool).triu()
    return torch.where(started, least, -torch.inf).amax(0)


class WarpedTimes(TimeDistribution):
    """Times at which the loss rises evenly; uniform until a loss has been seen.

    Arguments:
        schedule: The schedule that turns clocks into times.
        low: Earliest time.
        high: Latest time.
        bins: Number of bins of the clock, at least 2.
        decay: How much of what was seen is kept at each observation, in [0, 1].
        uniform: Share of the law that is uniform in time, in (0, 1): no time is forgotten.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> from structdiff.schedules import Flow
        >>> times = WarpedTimes(Flow(), bins=200, uniform=0.01)
        >>> clock = torch.linspace(-9, 9, 1000)
        >>> times.observe(clock, torch.sigmoid(-clock) ** 2)  # a loss of t^2
        >>> round(float(times.quantile(torch.tensor(0.25))), 2)
        0.5
    """

    def __init__(
        self,
        schedule: Schedule,
        low: float = 1e-4,
        high: float = 1.0,
        *,
        bins: int = 128,
        decay: float = 0.999,
        uniform: float = 0.01,
    ) -> None:
        if not 0 <= low < high <= 1:
            msg = f"low and high must satisfy 0 <= low < high <= 1, got {low} and {high}"
            raise ValueError(msg)
        if bins < 2 or not 0 <= decay <= 1 or not 0 < uniform < 1:
            must = "bins must be at least 2, decay in [0, 1] and uniform in (0, 1)"
            raise ValueError(f"{must}, got {bins}, {decay} and {uniform}")
        ends = schedule(torch.tensor([low, high], dtype=torch.float64)).clock
        # From high to low, so that times rise.
        first, last = ends.clamp(-WIDEST, WIDEST).tolist()
        self.edges = torch.linspace(first, last, bins + 1, dtype=torch.float64)
        inner = schedule.time((self.edges[1:] + self.edges[:-1]) / 2)
        range_ends = torch.tensor([low, high], dtype=torch.float64)
        self.nodes = torch.cat([range_ends[:1], inner, range_ends[1:]])
        self.decay, self.uniform = decay, uniform
        self.total = torch.zeros(bins, dtype=torch.float64)
        self.weight = torch.zeros(bins, dtype=torch.float64)

    def observe(self, clock: Tensor, loss: Tensor) -> None:
        """Losses at clocks, `(n,)` each; what is beyond the bins is not looked at."""
        clock, loss = clock.detach().cpu().double(), loss.detach().cpu().double()
        place = torch.searchsorted(-self.edges, -clock) - 1
        inside = (place >= 0) & (place < len(self.total))
        place, loss = place[inside], loss[inside]
        self.total = (self.decay * self.total).index_add(0, place, loss)
        self.weight = (self.decay * self.weight).index_add(0, place, torch.ones_like(loss))

    def loss(self) -> Tensor:
        """The monotone fit at the centres of the bins, `(bins,)`; flat where nothing was seen."""
        seen = self.weight > 0
        if not bool(seen.any()):
            return torch.zeros_like(self.total)
        fitted = isotonic((self.total / self.weight)[seen], self.weight[seen])
        latest = (seen.long().cumsum(0) - 1).clamp(min=0)
        return fitted[latest]

    def distribution(self) -> Tensor:
        """The distribution function at `nodes`, from 0 to 1."""
        loss = self.loss()
        rise = F.pad(loss - loss[0], (1, 0))
        rise = torch.cat([rise, rise[-1:]])
        even = (self.nodes - self.nodes[0]) / (self.nodes[-1] - self.nodes[0])
        if float(rise[-1]) == 0:
            return even
        return (1 - self.uniform) * rise / rise[-1] + self.uniform * even

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the distribution function, linear between nodes."""
        levels = self.distribution().to(u.device)
        return between(u.double().clamp(0, 1), levels, self.nodes.to(u.device))

    def density(self, t: Tensor) -> Tensor:
        """The slope of the distribution function, constant between nodes; 0 out of range."""
        levels, nodes, t = self.distribution().to(t.device), self.nodes.to(t.device), t.double()
        index = (torch.searchsorted(nodes, t.contiguous(), right=True) - 1).clamp(
            0, len(nodes) - 2
        )
        slope = levels.diff() / nodes.diff()
        return torch.where((t >= nodes[0]) & (t <= nodes[-1]), slope[index], 0.0)


class Observer(Protocol):
    """What is told losses and the clocks that they were seen at."""

    def observe(self, clock: Tensor, loss: Tensor) -> None:
        """Take note of losses at clocks, `(n,)` each."""
        ...


class Warping(Objective):
    """Another objective whose losses something looks at, such as a law of its own times.

    Arguments:
        objective: What looks at the batch. Where `WarpedTimes` look on, they are its `times`, and
            its weight does not depend on the clock; where `HistoryTimes` do, it is one that counts
            losses by the density of its times.
        times: What looks on.
        leaf: The leaf whose loss is looked at.
    """

    def __init__(self, objective: Objective, times: Observer, leaf: str) -> None:
        self.objective, self.times, self.leaf = objective, times, leaf

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the other objective, which are also observed."""
        terms = self.objective(denoiser, batch, random)
        self.times.observe(*terms.seen(self.leaf, batch))
        return terms
