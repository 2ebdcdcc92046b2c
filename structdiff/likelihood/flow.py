r"""The exact log-likelihood of a model by its probability flow.

Along dx/dt = v(x, t), the velocity of the process at the denoiser's estimate, densities against
the volume change by the divergence of v, so that

    log p_s(x_s) = log p_1(x_1) + int_s^1 div v(x_t, t) dt,

with the data taken as x_s at an early time s. The divergence is the exact trace or Hutchinson's
estimate with one set of probes for the whole path. This is the density of the deterministic
sampler, another model than the one that a bound is on.

References:
    Neural Ordinary Differential Equations (Chen et al., 2018), theorem 1.
    https://arxiv.org/abs/1806.07366
    Score-Based Generative Modeling through SDEs (Song et al., 2021), section 4.3.
    https://arxiv.org/abs/2011.13456
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022), section 3.3.
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.divergence import (
    FieldDivergence,
    draw_probes,
    exact_divergence,
    hutchinson_divergence,
)
from structdiff.geodesic_ode import integrate
from structdiff.likelihood.bound import per_sample
from structdiff.processes import Flowing
from structdiff.random import Randomness
from structdiff.samplers.adaptive import row_times

__all__ = ["Density", "flow_log_prob"]

Terms = Mapping[str, Tensor]
Trace = Callable[[Any, Batch], FieldDivergence]


@dataclass(frozen=True)
class Density:
    """A log density in nats, per sample and leaf; it is never a bare number.

    The density is that of the whole record: a leaf's part is what its prior and its divergence
    add, not the density of the leaf alone. The Monte-Carlo error is that of Hutchinson's probes;
    zero for the exact divergence.

    Arguments:
        prior: Log density of the end of the path under the prior, by leaf, `(samples,)`.
        draws: Integral of the divergence, by leaf, `(probes, samples)`; one where it is exact.
        exact: Whether the divergence is exact.
        calls: How often the denoiser was called.
        kind: What the number is.
        measure: What densities are against.
        units: What the numbers count.
    """

    prior: Terms
    draws: Terms
    exact: bool
    calls: int
    kind: str
    measure: str = "Lebesgue on R^n (on the subspace), Riemannian volume on manifolds"
    units: str = "nats"

    @classmethod
    def concatenate(cls, parts: Sequence[Density]) -> Density:
        """The samples of several reports, made alike, one after the other.

        Raises:
            ValueError: If there are none, or their kinds differ.
        """
        kinds = sorted({part.kind for part in parts})
        if len(kinds) != 1:
            msg = f"densities to join must be of one kind, got {kinds}"
            raise ValueError(msg)

        def join(terms: Sequence[Terms]) -> dict[str, Tensor]:
            return {name: torch.cat([each[name] for each in terms], -1) for name in terms[0]}

        return replace(
            parts[0],
            prior=join([part.prior for part in parts]),
            draws=join([part.draws for part in parts]),
            calls=sum(part.calls for part in parts),
        )

    def leaf(self, name: str) -> Tensor:
        """Prior and divergence of a leaf together, `(samples,)`."""
        return self.prior[name] + self.draws[name].mean(0)

    @property
    def total(self) -> Tensor:
        """Log density of each sample in nats, `(samples,)`."""
        return torch.stack([self.leaf(name) for name in self.prior]).sum(0)

    @property
    def error(self) -> Tensor:
        """Standard error of the total from the probes, `(samples,)`; NaN for one probe."""
        draws = torch.stack([*self.draws.values()]).sum(0)
        if self.exact:
            return torch.zeros_like(draws[0])
        if len(draws) == 1:
            return torch.full_like(draws[0], torch.nan)
        return draws.std(0) / math.sqrt(len(draws))

    def __str__(self) -> str:
        """Mean over samples by leaf, with the error of the mean over samples."""
        rows = [f"{self.kind}; {self.units}, against: {self.measure}"]
        for name, prior in self.prior.items():
            change = float(self.draws[name].mean())
            rows.append(f"  {name}: prior {float(prior.mean()):.4g} + divergence {change:.4g}")
        spread = self.total.std() / math.sqrt(len(self.total)) if len(self.total) > 1 else math.nan
        rows.append(
            f"  log-likelihood {float(self.total.mean()):.4g} +- {float(spread):.2g} "
            f"(mean over {len(self.total)} samples)"
        )
        return "\n".join(rows)


def flow_log_prob(
    denoiser: Denoiser,
    batch: Batch,
    *,
    start: float = 1e-3,
    end: float = 1.0,
    tolerance: float = 1e-5,
    probes: int | None = None,
    random: Randomness | None = None,
) -> Density:
    """The log density of each sample under the probability flow; given entries are conditions.

    Arguments:
        denoiser: The denoiser; its process must be Flowing: no leaf on classes.
        batch: The samples; with given leaves or rows, the density of the others beside them.
        start: The time that the samples are taken to be of, in (0, end): the density is that of
            p_start. A smaller one resolves finer structure and takes more steps.
        end: The time at which the prior takes over, at most 1.
        tolerance: Error of a step of the solver, see `integrate`; of the integral too.
        probes: How many random probes estimate the divergence; None for its exact value, which
            takes a backward pass for each coordinate of a sample.
        random: Where probes come from; needed with them.

    Raises:
        ValueError: If the process does not flow, or a number is out of range.

    Example:
        >>> from structdiff import Gaussian, Linear
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
        >>> flow_log_prob(denoiser, Batch.of(torch.zeros(1))).total
        tensor([-0.9189], dtype=torch.float64)
    """
    if not 0 < start < end <= 1:
        msg = f"start and end must satisfy 0 < start < end <= 1, got {start} and {end}"
        raise ValueError(msg)
    if not denoiser.process.offers(Flowing):
        name = type(denoiser.process).__name__
        msg = f"{name} has no probability flow (a leaf on classes?): use a bound"
        raise ValueError(msg)
    process: Any = denoiser.process.bind(batch)
    traces = _traces(process, batch, probes, random)
    along = _Along(denoiser, process, batch, traces)
    path = integrate(along, process.geometry, batch, start, end, tolerance=tolerance)
    prior = per_sample(process.prior_log_prob(path.x, end), batch)
    draws = {
        name: torch.stack([path.totals[f"{name}/{k}"] for k in range(len(traces))])
        for name in prior
    }
    how = "exact divergence" if probes is None else f"{probes} probes of the divergence"
    return Density(
        prior,
        draws,
        exact=probes is None,
        calls=path.calls * len(traces),
        kind=f"log-likelihood by the probability flow from t = {start:.3g} to {end:g}, {how}",
    )


def _traces(
    process: Any, batch: Batch, probes: int | None, random: Randomness | None
) -> list[Trace]:
    """One exact divergence, or one estimate for each probe."""
    if probes is None:
        return [lambda field, at: exact_divergence(field, process, at)]
    if probes < 1:
        msg = f"probes must be at least 1, got {probes}: None takes the exact divergence"
        raise ValueError(msg)
    if random is None:
        msg = "random is None: probes must come from somewhere, hand in Generator(seed)"
        raise ValueError(msg)
    drawn = draw_probes(process, batch, random, probes)

    def trace(k: int) -> Trace:
        one = {name: z[k : k + 1] for name, z in drawn.items()}
        return lambda field, at: hutchinson_divergence(field, process, at, one)

    return [trace(k) for k in range(probes)]


class _Along:
    """dx/dt and, by leaf and probe, its divergence."""

    def __init__(
        self, denoiser: Denoiser, process: Any, batch: Batch, traces: Sequence[Trace]
    ) -> None:
        self.denoiser, self.process = denoiser, process
        self.batch, self.traces = batch, traces

    def __call__(self, x: Terms, t: Tensor) -> tuple[Terms, Terms]:
        """The velocity and the rates at one point of the path."""
        times = row_times(self.process, self.batch, t)

        def velocity(leaves: Terms) -> Terms:
            estimate = self.denoiser(self.batch.with_leaves(leaves), times, None)
            moved: Terms = self.process.velocity(estimate, leaves, times)
            return moved

        at = self.batch.with_leaves(x)
        looks = [trace(velocity, at) for trace in self.traces]
        rates = {
            f"{name}/{k}": value
            for k, look in enumerate(looks)
            for name, value in look.divergence.items()
        }
        return looks[0].value, rates
