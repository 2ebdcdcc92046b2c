r"""Denoising: regression (or cross-entropy) on the estimate, in every space.

    E_t w(clock_t) loss(estimate(x_t), x_0),

with t and x_t drawn per sample. What the error means is the process's business, how it is weighed
that of a `Weight`, at which times that of a `TimeDistribution`. The mean over one law of times can
be drawn by another one, each loss counted by the ratio of their densities: then the choice of what
is drawn changes the variance and not what is made small.

References:
    A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011).
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 14.
    https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff.batch import Batch, Part
from structdiff.denoiser import LIMIT, Denoiser
from structdiff.objectives.times import TimeDistribution, UniformTimes
from structdiff.objectives.weights import SNR, Weight
from structdiff.processes import Estimate
from structdiff.random import Randomness

__all__ = ["Denoising", "Objective", "Terms"]


@dataclass(frozen=True)
class Terms:
    """What an objective says of a batch.

    Arguments:
        leaves: Weighted loss of each sample, `(samples,)`, by leaf.
        clock: The clock each row was seen at, by leaf, for reports.
    """

    leaves: Mapping[str, Tensor]
    clock: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Sum over leaves, mean over samples."""
        return torch.stack([term.mean() for term in self.leaves.values()]).sum()

    def seen(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """The clock of each sample's noisiest row of a leaf, and its loss, `(samples,)` each."""
        clock, layout = self.clock[name], batch.layouts[name]
        noisiest = clock.flatten(1).amin(1) if clock.ndim > 1 else clock
        per_sample = noisiest.new_full((layout.samples,), torch.inf)
        per_sample = per_sample.scatter_reduce(0, layout.sample, noisiest, "amin")
        return per_sample.detach(), self.leaves[name].detach()


def per_entry(batch: Batch, name: str, per_row: Tensor) -> Tensor:
    """A leaf's numbers per row to the mean over rows and entries of each sample, `(samples,)`."""
    entries = max(1, batch[name][:1].numel())
    return batch.layouts[name].mean(per_row) / entries


def check_covers(times: TimeDistribution, mean_over: TimeDistribution) -> None:
    """Refuse a law that cannot draw all times of another."""
    inside = mean_over.quantile(torch.linspace(0, 1, 1002, dtype=torch.float64)[1:-1])
    if not bool((times.density(inside) > 0).all()):
        first, last = float(inside[0]), float(inside[-1])
        must = f"times must be able to draw all times of mean_over, from {first:.3g} to {last:.3g}"
        raise ValueError(f"{must}: widen its range")


class Objective(ABC):
    """What training makes small; it owns the call of the denoiser."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of a clean batch."""


class Denoising(Objective):
    """Weighted error of the estimate.

    Arguments:
        weights: One weight for all leaves or one per leaf.
        times: Law of the training times.
        independent: Whether each leaf has its own time; then every conditional of whole
            leaves is learned too.
        self_conditioning: Probability that the network sees a first estimate of its own.
        mean_over: Law of the times that the mean is over; by default `times` itself.

    Raises:
        ValueError: If `times` misses some times of `mean_over`; on a call, if a leaf has no
            weight.
    """

    def __init__(
        self,
        weights: Weight | Mapping[str, Weight] | None = None,
        times: TimeDistribution | None = None,
        *,
        independent: bool = False,
        self_conditioning: float = 0.0,
        mean_over: TimeDistribution | None = None,
    ) -> None:
        self.weights = SNR() if weights is None else weights
        self.times = times or UniformTimes()
        self.independent, self.self_conditioning = independent, self_conditioning
        self.mean_over = mean_over
        if mean_over is not None:
            check_covers(self.times, mean_over)

    def draw_times(self, batch: Batch, random: Randomness) -> dict[str, Tensor]:
        """A time for each row, `(rows,)`, by leaf."""
        part = batch.part or Part(0, 1, batch.samples)
        shared = self.times.draw(batch.samples, random, part=part)
        drawn = {}
        for name, layout in batch.layouts.items():
            if self.independent:
                order = random.uniform((part.total,), torch.float64, "cpu").argsort()
                whole = self.times.draw(part.total, random)
                shared = whole[order[part.places(batch.samples)]]
            drawn[name] = layout.spread(shared.to(batch.device))
        return drawn

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse, denoise, compare."""
        process = denoiser.process.bind(batch)
        drawn = self.draw_times(batch, random)
        t = process.times(drawn)
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        estimate = denoiser(noisy, t, self.first_estimate(denoiser, noisy, t, random))
        errors = process.loss(estimate, batch.leaves, noisy.leaves, t)
        clock = process.clock(t)
        leaves = {
            name: self.reduce(name, self.counted(error, drawn[name]), clock[name], batch)
            for name, error in errors.items()
        }
        return Terms(leaves, clock)

    def counted(self, error: Tensor, t: Tensor) -> Tensor:
        """Errors at drawn times, `(rows,)`, by the ratio of the densities of the two laws."""
        if self.mean_over is None:
            return error
        return error * (self.mean_over.density(t) / self.times.density(t)).to(error)

    def first_estimate(
        self, denoiser: Denoiser, noisy: Batch, t: Mapping[str, Tensor], random: Randomness
    ) -> Mapping[str, Estimate] | None:
        """The estimate that self-conditioning shows to the network, or None."""
        if self.self_conditioning == 0:
            return None
        if random.uniform((1,), torch.float64, "cpu").item() >= self.self_conditioning:
            return None
        with torch.no_grad():
            first: Mapping[str, Estimate] = denoiser(noisy, t, None)
        return first

    def reduce(self, name: str, error: Tensor, clock: Tensor, batch: Batch) -> Tensor:
        """Weighted error per row to mean per sample and entry."""
        weight = self.weights
        if isinstance(weight, Mapping):
            if name not in weight:
                msg = f"weights has {sorted(weight)} but no weight for the leaf {name!r}"
                raise ValueError(msg)
            weight = weight[name]
        per_row = weight(clock.clamp(max=LIMIT)).to(error)
        if per_row.ndim > 1:  # given entries are clean and have no weight
            noisy = (clock < torch.inf).to(error).flatten(1)
            per_row = (noisy * per_row.flatten(1)).sum(1) / noisy.sum(1).clamp(min=1)
        return per_entry(batch, name, per_row * error)
