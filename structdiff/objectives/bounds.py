r"""Objectives that are the bound on -log p(x_0) itself, in nats per entry.

In continuous time the bound is an integral over t, of which one time gives an unbiased draw:

    -log p(x_0) <= prior + E_t rate(x_t, t) / density(t) + reconstruction,

where the rate is the divergence per unit of t of the time reversal at the estimate from that at
x_0 (`Tractable.divergence_rate`). On R^n it is -SNR' |x_0 - estimate|^2 / 2; for the absorbing
chain -alpha' / (1 - alpha) times the cross-entropy of masked rows; for every chain it is the score
entropy of the ratios p_t(j) / p_t(x_t) that the estimate implies. In T steps the bound is a sum,

    -log p(x_0) <= prior + sum_i KL_i + reconstruction,

of which one step, drawn at random and counted T times, is an unbiased draw.

What no training of a network changes, the prior term, is left out of both; the continuous one also
leaves out the reconstruction at its earliest time. A schedule whose ends are learned needs these
too. `structdiff.likelihood` reports whole bounds.

References:
    Variational Diffusion Models (Kingma et al., 2021), eqs. 11-17.
    https://arxiv.org/abs/2107.00630
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eqs. 1
    and 5. https://arxiv.org/abs/2107.03006
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), eq. 6.
    https://arxiv.org/abs/2205.14987
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (Lou et al.,
    2024), eq. 5. https://arxiv.org/abs/2310.16834
    Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), eq. 10.
    https://arxiv.org/abs/2406.07524
    Simplified and Generalized Masked Diffusion for Discrete Data (Shi et al., 2024), eq. 5.
    https://arxiv.org/abs/2406.04329
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms, per_entry
from structdiff.objectives.times import TimeDistribution, UniformTimes
from structdiff.processes import Estimate, Finite, Process, Tractable
from structdiff.processes.leaf import expand
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = ["ContinuousBound", "StepBound"]


def check_tractable(process: Process) -> None:
    """Refuse a process without densities."""
    if not process.offers(Tractable):
        msg = f"the bound needs densities: {type(process).__name__} is not Tractable"
        raise ValueError(f"{msg}; Denoising() does not need them")


def given_classes(process: Any, batch: Batch) -> dict[str, Tensor]:
    """Which entries are given, of the leaves on classes that have such."""
    return {n: batch.given[n] for n in process.offering(Finite) if n in batch.given}


def freeze(estimates: Any, entries: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """The estimates without gradients from some entries, by leaf.

    Where a class is given or certain there is nothing to learn, but the derivative of log p in a
    rate or a kernel may be infinite, and zero times that is no number.
    """
    frozen = dict(estimates)
    for name, some in entries.items():
        value = estimates[name].value
        kept = torch.where(expand(some, value), value.detach(), value)
        frozen[name] = replace(estimates[name], value=kept)
    return frozen


class ContinuousBound(Objective):
    """The bound for infinitely many steps, at one time a sample.

    All leaves of a sample share its time, as the bound of a record needs. The times of a batch are
    spread over its samples in their order, which must be a random one, as `Source` has. Given
    entries count nothing. It covers the times from the earliest to the latest one that the law
    can draw.

    Arguments:
        times: Law of the training times; it changes the variance and not the expectation.

    Raises:
        ValueError: On a call, if the process has no densities.

    Example:
        >>> from structdiff.processes import Categorical, Product, absorbing
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), absorbing(2))})
        >>> coin = ExactDenoiser(process, Batch.of(torch.tensor([0, 1])))
        >>> batch = Batch.of(torch.tensor([0, 1] * 500))
        >>> round(ContinuousBound()(coin, batch, Generator(0)).total.item(), 1)  # log 2
        0.7
    """

    def __init__(self, times: TimeDistribution | None = None) -> None:
        self.times = times or UniformTimes()

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse, denoise, compare the reversals."""
        check_tractable(denoiser.process)
        process: Any = denoiser.process.bind(batch)
        times = self.times.draw(batch.samples, random, part=batch.part).to(batch.device)
        t = process.times({name: layout.spread(times) for name, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        estimate = freeze(denoiser(noisy, t, None), given_classes(process, batch))
        rates = process.divergence_rate(estimate, batch.leaves, noisy.leaves, t)
        share = 1 / self.times.density(times)
        leaves = {n: per_entry(batch, n, rate) * share.to(rate) for n, rate in rates.items()}
        return Terms(leaves, process.clock(t))


class StepBound(Objective):
    """The bound of a chain of T steps, L_vb of D3PM, and a share of the cross-entropy.

    A batch looks at a few of the steps, each sample at one of them: T times its KL, or the
    reconstruction for the last one, and the auxiliary term at the same x_t. The steps are spread
    over the samples in their order, which must be a random one, as `Source` has.

    Arguments:
        grid: The chain's times.
        auxiliary: Factor lambda on the process's own error of the estimate (the cross-entropy on
            classes), at least 0; 0.01 for the absorbing and 0.001 for the Gaussian chain of the
            paper's hybrid loss.
        looks: How many steps a batch looks at, at least 1. They are stratified: more of them
            vary less, and each takes a pass over the classes of its samples.

    Raises:
        ValueError: If a number is out of range; on a call, if the process has no densities.
    """

    def __init__(self, grid: Grid, auxiliary: float = 0.0, *, looks: int = 16) -> None:
        if not 0 <= auxiliary < float("inf"):
            msg = f"auxiliary must be at least 0 and finite, got {auxiliary}"
            raise ValueError(msg)
        if looks < 1:
            msg = f"looks must be at least 1, got {looks}"
            raise ValueError(msg)
        self.times, self.auxiliary, self.looks = grid.times(), auxiliary, looks

    @property
    def steps(self) -> int:
        """Number T of steps."""
        return len(self.times) - 1

    def draw_steps(self, batch: Batch, random: Randomness) -> list[int]:
        """The step of each sample, at most `looks` different ones."""
        place = UniformTimes(0.0, 1.0).draw(batch.samples, random, part=batch.part)
        shift = random.uniform((1,), torch.float64, "cpu")
        stratum = (place * self.looks).floor()
        steps = ((stratum + shift) * (self.steps / self.looks)).long()
        return [int(i) for i in steps.clamp(max=self.steps - 1)]

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse each sample to its step, denoise, compare the kernels."""
        steps, look = self.look(denoiser, batch, random)
        clock = denoiser.process.bind(batch).clock(look.t)
        return Terms(self.terms(denoiser.process, steps, look), clock)

    def look(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> tuple[list[int], Look]:
        """The step of each sample, and what the denoiser says there."""
        check_tractable(denoiser.process)
        process: Any = denoiser.process.bind(batch)
        steps = self.draw_steps(batch, random)
        times = self.times[steps].to(batch.device)
        t = process.times({name: layout.spread(times) for name, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        return steps, Look(batch, noisy, denoiser(noisy, t, None), t)

    def terms(self, process: Process, steps: Sequence[int], look: Look) -> dict[str, Tensor]:
        """The term of each sample at its step, `(samples,)`, by leaf."""
        bound: Any = process.bind(look.clean)
        frozen = freeze(look.estimate, given_classes(bound, look.clean))
        look = look._replace(estimate=frozen)
        groups = {i: [j for j, own in enumerate(steps) if own == i] for i in sorted(set(steps))}
        parts = [self.term(process, i, look.select(group)) for i, group in groups.items()]
        back = torch.tensor([j for group in groups.values() for j in group]).argsort()
        names = look.clean.leaves
        return {name: torch.cat([part[name] for part in parts])[back] for name in names}

    def term(self, process: Process, i: int, look: Look) -> dict[str, Tensor]:
        """T times the term of step i and the auxiliary one, per sample and entry, by leaf."""
        bound: Any = process.bind(look.clean)
        x_0, x_t = look.clean.leaves, look.noisy.leaves
        if i == self.steps - 1:
            rows = bound.reconstruction(look.estimate, x_0, x_t, look.t)
        else:
            (step,) = bound.plan(self.times[i : i + 2], 1.0)
            rows = bound.divergence(bound.oracle(x_0, x_t, look.t), look.estimate, x_t, step)
        total = {name: self.steps * value for name, value in rows.items()}
        if self.auxiliary > 0:
            errors = bound.loss(look.estimate, x_0, x_t, look.t)
            total = {name: value + self.auxiliary * errors[name] for name, value in total.items()}
        return {name: per_entry(look.clean, name, value) for name, value in total.items()}


class Look(NamedTuple):
    """Clean samples, what noise made of them, and what a denoiser says.

    Arguments:
        clean: The samples.
        noisy: The same at their times.
        estimate: Estimates by leaf.
        t: Times of rows by leaf.
    """

    clean: Batch
    noisy: Batch
    estimate: Mapping[str, Estimate]
    t: Mapping[str, Tensor]

    def select(self, samples: Sequence[int]) -> Look:
        """Some of the samples; edges over nodes that are not known no longer know their ends."""
        index = torch.tensor(samples)
        rows = {n: layout.rows_of(index) for n, layout in self.clean.layouts.items()}
        clean = Batch(
            {n: x[rows[n]] for n, x in self.clean.leaves.items()},
            {n: layout.select(index) for n, layout in self.clean.layouts.items()},
            {n: value[index] for n, value in self.clean.condition.items()},
            {n: value[index] for n, value in self.clean.present.items()},
            {n: mask[rows[n]] for n, mask in self.clean.given.items()},
            self.clean.ids[index],
        )
        noisy = clean.with_leaves({n: x[rows[n]] for n, x in self.noisy.leaves.items()})
        estimate = {
            n: Estimate(
                one.value[rows[n]],
                {k: x[rows[n]] if x.ndim else x for k, x in one.extras.items()},
            )
            for n, one in self.estimate.items()
        }
        return Look(clean, noisy, estimate, {n: x[rows[n]] for n, x in self.t.items()})
