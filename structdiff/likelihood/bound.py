r"""The variational bound on the negative log-likelihood, for any Tractable process.

    -log p(x_0) <= KL(q(x_1 | x_0), prior) + sum_i KL_i + reconstruction,

where KL_i compares the step's kernel at the oracle with that at the estimate, in expectation over
x_t ~ q(x_t | x_0). On R^n and classes this is a bound; on curved manifolds the kernels are right
to first order in the step, so there it is an approximation.

References:
    Deep Unsupervised Learning using Nonequilibrium Thermodynamics (Sohl-Dickstein et al., 2015).
    https://arxiv.org/abs/1503.03585
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), eq. 5.
    https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Tractable
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = ["Bound", "bound"]

Terms = Mapping[str, Tensor]


@dataclass(frozen=True)
class Bound:
    """A bound in nats, per sample and leaf; it is never a bare number.

    The Monte-Carlo error of a value is the standard deviation over the draws, divided by their
    square root; NaN for one draw. A mean over samples has an error of its own, since all samples
    of a draw share the steps that were looked at.

    Arguments:
        prior: KL of q(x_1 | x_0) from the prior, by leaf, `(samples,)`; of `implicit_bound` the
            cross-entropy.
        divergence: Sum of the KL terms, likewise.
        reconstruction: Term of the last step, likewise.
        draws: The last two together in each Monte-Carlo draw, `(draws, samples)`.
        kind: What the number is.
        measure: What densities are against.
        units: What the numbers count.
    """

    prior: Terms
    divergence: Terms
    reconstruction: Terms
    draws: Terms
    kind: str = "ELBO: upper bound on -log p, discrete steps"
    measure: str = "Lebesgue on R^n (on the subspace), volume on manifolds, counting on classes"
    units: str = "nats"

    @classmethod
    def concatenate(cls, parts: Sequence[Bound]) -> Bound:
        """The samples of several bounds, made with the same steps and draws, one after the other.

        Raises:
            ValueError: If there are none, or their numbers of draws or their kinds differ.
        """
        counts = {len(value) for part in parts for value in part.draws.values()}
        if len(counts) != 1:
            msg = f"bounds to join must have one number of draws, got {sorted(counts)}"
            raise ValueError(msg)
        kinds = sorted({part.kind for part in parts})
        if len(kinds) > 1:
            msg = f"bounds to join must be of one kind, got {kinds}"
            raise ValueError(msg)

        def join(terms: Sequence[Terms]) -> dict[str, Tensor]:
            return {name: torch.cat([each[name] for each in terms], -1) for name in terms[0]}

        return replace(
            parts[0],
            prior=join([part.prior for part in parts]),
            divergence=join([part.divergence for part in parts]),
            reconstruction=join([part.reconstruction for part in parts]),
            draws=join([part.draws for part in parts]),
        )

    def leaf(self, name: str) -> Tensor:
        """The three terms of a leaf together, `(samples,)`."""
        return self.prior[name] + self.divergence[name] + self.reconstruction[name]

    @property
    def total(self) -> Tensor:
        """Nats per sample, `(samples,)`."""
        return torch.stack([self.leaf(name) for name in self.prior]).sum(0)

    @property
    def error(self) -> Tensor:
        """Standard error of the total from the draws, `(samples,)`."""
        return _standard_error(torch.stack([*self.draws.values()]).sum(0))

    def leaf_error(self, name: str) -> Tensor:
        """Standard error of a leaf from the draws, `(samples,)`."""
        return _standard_error(self.draws[name])

    def mean_error(self, *names: str) -> float:
        """Standard error, from the draws, of the mean over samples of some leaves, or of all."""
        chosen = torch.stack([self.draws[name] for name in names or self.draws]).sum(0)
        return float(_standard_error(chosen.mean(1)))

    def bits_per(self, count: Tensor | float) -> Tensor:
        """Bits per unit (dimension, character, atom) for that many units a sample."""
        return self.total / math.log(2) / count

    def __str__(self) -> str:
        """Mean over samples by leaf and term."""
        rows = [f"{self.kind}; {self.units}, mean over {len(self.total)} samples"]
        for name in self.prior:
            parts = (self.prior[name], self.divergence[name], self.reconstruction[name])
            prior, middle, last = (float(part.mean()) for part in parts)
            rows.append(f"  {name}: prior {prior:.4g} + steps {middle:.4g} + last {last:.4g}")
        total, error = float(self.total.mean()), self.mean_error()
        rows.append(f"  total {total:.4g} +- {error:.2g} (Monte Carlo)")
        return "\n".join(rows)


def _standard_error(draws: Tensor) -> Tensor:
    """Standard error of the mean over the first axis; NaN for one draw."""
    if len(draws) == 1:
        return torch.full_like(draws[0], torch.nan)
    return draws.std(0) / math.sqrt(len(draws))


@torch.no_grad()
def bound(
    denoiser: Denoiser,
    batch: Batch,
    grid: Grid,
    random: Randomness,
    *,
    draws: int = 1,
    terms: int | None = None,
) -> Bound:
    """The bound of each sample.

    Arguments:
        denoiser: The denoiser; its process must be Tractable.
        batch: Clean samples.
        grid: The chain's times; sigma must be positive at the last one before clean, and somewhat
            below the finest spread of the data: an earlier end only makes the steps coarser.
        random: Where the noise comes from.
        draws: Independent repetitions, at least 1; two or more give the Monte-Carlo error.
        terms: Number of KL terms evaluated per draw, chosen stratified and scaled to be
            unbiased; all of them by default.

    Raises:
        ValueError: If the process has no densities, or `draws` or `terms` is below 1.

    Example:
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Linear, UniformTime
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([0.0]))
        >>> denoiser = ExactDenoiser(Product({"x": Gaussian(Linear())}), data)
        >>> bound(denoiser, data, UniformTime(10), Generator(0)).divergence["x"]
        tensor([0.])
    """
    if draws < 1 or (terms is not None and terms < 1):
        msg = f"draws and terms must be at least 1, got {draws} and {terms}"
        raise ValueError(msg)
    process, x_0 = bind_tractable(denoiser, batch), batch.leaves
    times = grid.times().to(batch.device)
    per_draw = [
        # Each draw has its own steps, so that a source that follows addresses gives new noise.
        _one_draw(denoiser, process, batch, times, random, draw * len(times), terms)
        for draw in range(draws)
    ]
    middle = {n: torch.stack([a[n] for a, _ in per_draw]) for n in x_0}
    last = {n: torch.stack([b[n] for _, b in per_draw]) for n in x_0}
    return Bound(
        per_sample(process.prior_divergence(x_0, float(times[0])), batch),
        {n: value.mean(0) for n, value in middle.items()},
        {n: value.mean(0) for n, value in last.items()},
        {n: middle[n] + last[n] for n in x_0},
    )


def bind_tractable(denoiser: Denoiser, batch: Batch) -> Any:
    """The denoiser's process, bound to a batch.

    Raises:
        ValueError: If it has no densities.
    """
    process = denoiser.process
    if not process.offers(Tractable):
        msg = f"the bound needs densities: {type(process).__name__} is not Tractable"
        raise ValueError(msg)
    return process.bind(batch)


def per_sample(rows: Terms, batch: Batch) -> dict[str, Tensor]:
    """Sums over the rows of each sample, by leaf."""
    return {name: batch.layouts[name].sum(value) for name, value in rows.items()}


def _one_draw(
    denoiser: Denoiser,
    process: Any,
    batch: Batch,
    times: Tensor,
    random: Randomness,
    first: int,
    terms: int | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sum of divergences and the reconstruction, each by leaf and sample."""
    plan = process.plan(times, 1.0)
    last = len(times) - 2
    used = last if terms is None else min(terms, last)
    total = {name: torch.zeros(batch.samples, device=batch.device) for name in batch.leaves}
    for i in _chosen(last, used, random.scoped(step=first + last + 1)):
        t, x_t, estimate = look(denoiser, process, batch, times[i], random.scoped(step=first + i))
        oracle = process.oracle(batch.leaves, x_t, t)
        term = per_sample(process.divergence(oracle, estimate, x_t, plan[i]), batch)
        total = {name: total[name] + term[name] * (last / used) for name in term}
    t, x_t, estimate = look(
        denoiser, process, batch, times[last], random.scoped(step=first + last)
    )
    end = process.reconstruction(estimate, batch.leaves, x_t, t)
    return total, per_sample(end, batch)


def _chosen(steps: int, used: int, random: Randomness) -> list[int]:
    """`used` of the steps, one from each of as many parts of equal length."""
    if used == steps:
        return list(range(steps))
    shift = random.uniform((1,), torch.float64, "cpu").item()
    return [min(int((k + shift) * steps / used), steps - 1) for k in range(used)]


def look(
    denoiser: Denoiser, process: Any, batch: Batch, time: Tensor | Terms, random: Randomness
) -> tuple[Any, Any, Any]:
    """A noisy record and what the denoiser says of it."""
    t = process.times(time)
    x_t = process.diffuse(batch.leaves, t, random)
    return t, x_t, denoiser(batch.with_leaves(x_t), t, None)
