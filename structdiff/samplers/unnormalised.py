r"""Samplers of a law of which only an unnormalised density is known: no data are needed.

A denoiser walks from the prior through falling times t_0 > ... > t_n with kernels
p(x_s | x_t). The target path begins with a draw of gamma / Z at t_n and is noised by the process:
gamma(x_n) / Z times the kernels q(x_t | x_s). The importance weight of a path of the walk,

    w = gamma(x_n) prod q(x_t | x_s) / [prior(x_0) prod p(x_s | x_t)],

has the mean Z whatever the denoiser, and -E log w = KL(walk, target path) - log Z is what is made
small to train one (`PathDivergence`). The target path is known by its reversal: with r(x_s | x_t)
the step with the estimate of a point at the origin, Bayes' rule gives

    log w = log gamma(x_n) - log prior_{t_n}(x_n) + sum log r(x_s | x_t) - log p(x_s | x_t).

The walk's steps have the variance that is right for standard normal data, so the weights stay
bounded for targets that are not wider than that: bring a target to unit size first. A network that
predicts a `Velocity` of 0 walks by the reversal of standard normal data.

References:
    Denoising Diffusion Samplers (Vargas, Grathwohl and Doucet, 2023), sections 3 and 4.
    https://arxiv.org/abs/2302.13834
    Bayesian Learning via Neural Schroedinger-Foellmer Flows (Vargas et al., 2023).
    https://arxiv.org/abs/2111.10510
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms
from structdiff.processes import Estimate, Tractable
from structdiff.random import Generator, Randomness
from structdiff.schedules import Grid

__all__ = ["Evidence", "LogDensity", "PathDivergence", "evidence"]

LogDensity = Callable[[Batch], Tensor]
"""Log of an unnormalised density of records, `(samples,)`, differentiable in the leaves."""


@dataclass(frozen=True)
class Evidence:
    """What weighted paths say of a target.

    Arguments:
        samples: Ends of the paths, draws of the walk: resample or weigh them.
        log_weights: log w of each, `(samples,)`.
    """

    samples: Batch
    log_weights: Tensor

    @property
    def log_z(self) -> Tensor:
        """The estimate of log Z, in nats: log of the mean weight."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    @property
    def bound(self) -> Tensor:
        """The mean of log w, in nats: in expectation at most log Z."""
        return self.log_weights.mean()

    @property
    def effective(self) -> Tensor:
        """Effective sample size over the number of samples: 1 if all weights are equal."""
        weights = torch.softmax(self.log_weights, 0)
        return 1 / (weights.square().sum() * len(weights))

    @property
    def error(self) -> Tensor:
        """Standard error of `log_z`, to first order: it says little where few samples count."""
        return torch.sqrt((1 / self.effective - 1).clamp(min=0) / len(self.log_weights))


class PathDivergence(Objective):
    """-log w of walks of the denoiser, differentiated through the walk.

    Terms are shared evenly among the leaves.

    Arguments:
        log_density: The target.
        grid: Times of the walk; at the last one before clean data the target is met, and there is
            no step to clean data.

    Raises:
        ValueError: On a call, if the process is not one on R^n.
    """

    def __init__(self, log_density: LogDensity, grid: Grid) -> None:
        self.log_density, self.grid = log_density, grid

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of walks of the batch's shapes; its values are used at given entries only."""
        _, log_weights = follow(denoiser, self.grid, self.log_density, batch, random)
        share = {name: -log_weights / len(batch.leaves) for name in batch.leaves}
        first = self.grid.times()[0].to(batch.device)
        times = {name: first.expand(layout.rows) for name, layout in batch.layouts.items()}
        return Terms(share, denoiser.process.bind(batch).clock(times))


@torch.no_grad()
def evidence(
    denoiser: Denoiser, log_density: LogDensity, grid: Grid, batch: Batch, random: Randomness
) -> Evidence:
    """Walk, and weigh the paths.

    Arguments:
        denoiser: The denoiser; its process must be one on R^n.
        log_density: The target.
        grid: Times of the walk, as in training.
        batch: Gives layouts, conditions, and the values of given entries.
        random: Where the noise comes from.

    Raises:
        ValueError: If the process is not one on R^n.

    Example:
        >>> from structdiff import Cosine, Gaussian, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> found = evidence(
        ...     denoiser,
        ...     lambda batch: -batch["x"] ** 2 / 2,
        ...     UniformTime(20, end=0.1),
        ...     Batch.of(torch.zeros(1000)),
        ...     Generator(0),
        ... )
        >>> round(found.log_z.item(), 2), round(math.log(2 * math.pi) / 2, 2)
        (0.92, 0.92)
    """
    end, log_weights = follow(denoiser, grid, log_density, batch, random)
    return Evidence(end, log_weights)


def follow(
    denoiser: Denoiser, grid: Grid, log_density: LogDensity, batch: Batch, random: Randomness
) -> tuple[Batch, Tensor]:
    """The end of a walk and the log-weights of its paths, `(samples,)`, differentiable."""
    process: Any = denoiser.process.bind(batch)
    times = grid.times()[:-1]
    check_prior(process, batch, float(times[-1]))
    origin = {name: torch.zeros_like(x) for name, x in batch.leaves.items()}
    x = process.prior(random.scoped(step=0), float(times[0]))
    log_weights = torch.zeros(batch.samples, dtype=torch.float64, device=batch.device)
    for i, step in enumerate(process.plan(times, 1.0)):
        t = process.times(times[i].to(batch.device))
        estimate = widened(denoiser(batch.with_leaves(x), t, None))
        x_s = process.step(x, estimate, step, random.scoped(step=i + 1))
        point = process.oracle(origin, x, t)
        backward = process.reverse_log_prob(x_s, x, point, step)
        forward = process.reverse_log_prob(x_s, x, estimate, step)
        log_weights = log_weights + summed(backward, batch) - summed(forward, batch)
        x = x_s
    end = batch.with_leaves(x)
    start = summed(process.prior_log_prob(x, float(times[-1])), batch)
    return end, log_weights + log_density(end) - start


def summed(per_row: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Sum over leaves and rows, `(samples,)`, float64."""
    sums = [batch.layouts[name].sum(value.double()) for name, value in per_row.items()]
    return torch.stack(sums).sum(0)


def widened(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Estimates with the variance of standard normal data, unless they tell their own."""
    one = {name: estimate.value.new_ones(()) for name, estimate in estimates.items()}
    return {
        name: Estimate(estimate.value, {"interpolation": one[name]} | dict(estimate.extras))
        for name, estimate in estimates.items()
    }


def check_prior(process: Any, batch: Batch, t: float) -> None:
    """Refuse a process whose prior at the walk's end is not the law of a noised origin.

    Raises:
        ValueError: If it is another, as on classes and on manifolds.
    """
    if process.offers(Tractable):
        origin = {name: torch.zeros_like(x) for name, x in batch.leaves.items()}
        x = process.prior(Generator(0), t)
        time = torch.tensor(t, dtype=torch.float64, device=batch.device)
        found = summed(process.log_prob(x, origin, dict.fromkeys(x, time)), batch)
        if torch.allclose(found, summed(process.prior_log_prob(x, t), batch), rtol=1e-3):
            return
    must = "the process must be Gaussian noise on R^n, where the prior is a noised origin"
    msg = f"{must}, {type(process).__name__} is not"
    raise ValueError(msg)
