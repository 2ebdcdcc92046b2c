r"""What stands between two numbers of a report: the variational gap, and the gap of the prior.

*The variational gap* is log p(x_0) by the probability flow less the lower bound. They belong to
two models, the deterministic and the stochastic walk, that are one where the denoiser is exact:
there the gap is what the bound loses. Of a trained network it may have either sign.

*The terminal divergence* KL(q(x_T), prior) is what a walk that begins in the prior gets wrong
before its first step. By convexity it is at most E KL(q(x_T | x_0), prior), the prior's term of
the bound, leaf by leaf; for a finite data set it is the expectation over x_T of log of the mean of
q(x_T | x_0^n) over the records, less the prior's log density, estimated here.

References:
    Maximum Likelihood Training of Implicit Nonlinear Diffusion Model (Kim et al., 2022), section
    3: the variational gap. https://arxiv.org/abs/2205.13699
    How Much is Enough? A Study on Diffusion Times in Score-based Generative Models (Franzese et
    al., 2022), section 2. https://arxiv.org/abs/2206.05173
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.likelihood.bound import Bound, per_sample
from structdiff.likelihood.flow import Density
from structdiff.processes import Process, Tractable
from structdiff.random import Randomness

__all__ = ["Gap", "TerminalDivergence", "terminal_divergence", "variational_gap"]


class Gap(NamedTuple):
    """A mean over samples in nats, and its Monte-Carlo error."""

    mean: float
    error: float


def variational_gap(density: Density, bound: Bound) -> Gap:
    """log p by the flow less the lower bound, mean over the same samples.

    Arguments:
        density: From `flow_log_prob`.
        bound: From `bound`, `continuous_bound` or `implicit_bound`, of the same batch. The first
            two are bounds on -log p(x_0), the last one and the density are of p_a at an early
            time a: compare like with like.

    Raises:
        ValueError: If they are not of equally many samples.
    """
    if density.total.shape != bound.total.shape:
        ours, theirs = len(density.total), len(bound.total)
        msg = f"density is of {ours} samples, bound of {theirs}: they must be of the same batch"
        raise ValueError(msg)
    probes = density.error.square().mean().div(len(density.total)).sqrt()
    mean = float((density.total + bound.total).mean())
    return Gap(mean, math.hypot(float(probes), bound.mean_error()))


@dataclass(frozen=True)
class TerminalDivergence:
    """How far the data at the last time are from the prior, in nats a sample.

    Arguments:
        total: KL(q(x_T), prior) of the data set.
        error: Its Monte-Carlo error.
        leaves: E KL(q(x_T | x_0), prior) by leaf: their sum is at least the total.
        t: The last time.
    """

    total: float
    error: float
    leaves: Mapping[str, float]
    t: float

    def __str__(self) -> str:
        """The numbers, and how they are made smaller."""
        parts = ", ".join(f"{name} {value:.3g}" for name, value in self.leaves.items())
        return (
            f"KL(q(x_T), prior) = {self.total:.3g} +- {self.error:.1g} nats a sample at "
            f"t = {self.t:g}; given x_0, at most, by leaf: {parts}"
        )


@torch.no_grad()
def terminal_divergence(
    process: Process,
    data: Batch,
    random: Randomness,
    *,
    t: float = 1.0,
    draws: int = 4,
    warn_above: float = math.inf,
) -> TerminalDivergence:
    """KL(q(x_t), prior) for a data set.

    Samples are compared with those that have as many rows; all pairs of them at once, so a few
    hundred samples are enough and many more too much.

    Arguments:
        process: A Tractable process of records.
        data: The data set.
        random: Where x_t comes from.
        t: The time at which walks begin.
        draws: How often x_t is drawn for each sample.
        warn_above: Nats above which a warning says what to do.

    Raises:
        ValueError: If the process has no densities, the data have given entries, or `draws` is
            below 1.

    Example:
        >>> from structdiff import Categorical, Flow, Generator, Product, absorbing
        >>> process = Product({"x": Categorical(Flow(), absorbing(3))})
        >>> data = Batch.of(torch.tensor([0, 2]))
        >>> terminal_divergence(process, data, Generator(0)).total
        0.0
    """
    if not process.offers(Tractable):
        msg = f"the divergence needs densities: {type(process).__name__} is not Tractable"
        raise ValueError(msg)
    if draws < 1:
        msg = f"draws must be at least 1, got {draws}"
        raise ValueError(msg)
    if data.given:
        has = f"data has given entries in {sorted(data.given)}"
        msg = f"{has}, which are not noised: hand in data.with_given({{}})"
        raise ValueError(msg)
    bound: Any = process.bind(data)
    leaves = per_sample(bound.prior_divergence(data.leaves, t), data)
    values = torch.stack(
        [_log_ratio(process, data, t, random.scoped(step=i)) for i in range(draws)]
    )
    total = float(values.mean())
    report = TerminalDivergence(
        total,
        float(values.std() / math.sqrt(values.numel())) if values.numel() > 1 else math.nan,
        {name: float(value.mean()) for name, value in leaves.items()},
        t,
    )
    if total > warn_above:
        cure = "use a noisier schedule (ZeroTerminal, Shifted) or begin at a generator's output"
        warnings.warn(f"{report}: {cure}", stacklevel=2)
    return report


def _log_ratio(process: Any, data: Batch, t: float, random: Randomness) -> Tensor:
    """log q(x_t) - log prior(x_t) at a draw for each sample, `(samples,)`."""
    time = torch.tensor(t, dtype=torch.float64, device=data.device)
    record, sample = data.alike(data)
    bound = process.bind(data)
    noisy = data.with_leaves(bound.diffuse(data.leaves, bound.times(time), random))
    theirs, ours = noisy.select(sample), data.select(record)
    pairs = process.bind(theirs)
    density = per_sample(pairs.log_prob(theirs.leaves, ours.leaves, pairs.times(time)), theirs)
    log_q = torch.stack(list(density.values())).sum(0).double()
    highest = log_q.new_full((data.samples,), -torch.inf)
    highest = highest.scatter_reduce(0, sample, log_q, "amax")
    mass = torch.zeros_like(highest).index_add(0, sample, torch.exp(log_q - highest[sample]))
    count = torch.zeros_like(highest).index_add(0, sample, torch.ones_like(log_q))
    prior = per_sample(bound.prior_log_prob(noisy.leaves, t), data)
    log_prior = torch.stack(list(prior.values())).sum(0).double()
    return highest + torch.log(mass / count) - log_prior
