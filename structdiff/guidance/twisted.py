r"""Twisted sequential Monte Carlo: guidance that is right in the limit of many particles.

A walk of a denoiser draws p(x_0); the aim is p(x_0) psi(x_0), psi = e^(twist at clean data). At a
noisy state the twist guesses log E[psi(x_0) | x_t] from the estimate. Several particles of one
problem walk side by side. Each moves by the step p' of any guided sampler, and is weighted by

    p(x_s | x_t) psi_s(x_s) / (p'(x_s | x_t) psi_t(x_t)),

with p the step of the denoiser itself. Where the weights of a problem become uneven, measured by
the effective sample size (sum w)^2 / sum w^2, its particles are drawn anew in proportion,
systematically: with one uniform number. At clean data they are drawn a last time, and have equal
weights. The average of the weights estimates sum p psi without bias (for a likelihood: p(y)).

What is exact is the limit: as particles grow, of any number of steps, the law is that of the
denoiser's own walk of these steps times psi, whatever the guidance and the twist before clean
data, as long as it is nowhere -inf on the way to where psi > 0; these decide how many particles it
takes. Steps whose densities are right to first order
only (curved manifolds) leave an error of that order.

References:
    Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu, Trippe,
    Naesseth, Blei and Cunningham, 2023), algorithm 1. https://arxiv.org/abs/2306.17775
    A General Framework for Inference-time Scaling and Steering of Diffusion Models (Singhal et
    al., 2025): here with the sampler of the denoiser itself. https://arxiv.org/abs/2501.06848
    Comparison of Resampling Schemes for Particle Filtering (Douc, Cappe and Moulines, 2005),
    section 2.4 (systematic). https://arxiv.org/abs/cs/0507025
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.slopes import per_sample
from structdiff.layout import Layout
from structdiff.processes.base import Estimate, Tractable
from structdiff.samplers.base import Carry, Estimates, Record, Sampler
from structdiff.samplers.wrapped import Wrapped

__all__ = ["Twist", "TwistedSMC", "particles_of", "systematic"]

Twist: TypeAlias = Callable[[Mapping[str, Estimate], Batch, Mapping[str, Tensor]], Tensor]
"""twist(estimates, batch, t): log psi from what is said of the clean record, one a sample.

At clean data, t < 0, it is asked with the oracle: it decides what is drawn.
"""


def particles_of(batch: Batch, particles: int) -> Batch:
    """The batch with this many copies of each sample, side by side, each with an id of its own.

    Arguments:
        batch: The problems; no leaf may have edge rows.
        particles: Copies of each, at least 1.

    Raises:
        ValueError: If there are none.

    Example:
        >>> particles_of(Batch.of(torch.tensor([5.0, 7.0])), 2)["x"]
        tensor([5., 5., 7., 7.])
    """
    if particles < 1:
        msg = f"particles must be at least 1, got {particles}"
        raise ValueError(msg)
    copy = torch.arange(particles, device=batch.device)
    many = batch.select(torch.arange(batch.samples).repeat_interleave(particles))
    return replace(many, ids=(batch.ids[:, None] * particles + copy).flatten())


def systematic(log_weight: Tensor, u: Tensor) -> Tensor:
    """Places of the particles that take over, `(problems, particles)`, each about in proportion.

    Where all weights are zero nobody is taken over.

    Arguments:
        log_weight: `(problems, particles)`.
        u: Uniform numbers in [0, 1), `(problems,)`.

    Example:
        >>> weight = torch.tensor([[0.5, 0.0, 0.25, 0.25]])
        >>> systematic(weight.log(), torch.tensor([0.5]))
        tensor([[0, 0, 2, 3]])
    """
    count = log_weight.shape[1]
    dead = (log_weight == -torch.inf).all(1, keepdim=True)
    share = torch.softmax(torch.where(dead, 0.0, log_weight), 1)
    upper = torch.cumsum(share, 1)
    ticks = (u[:, None] + torch.arange(count, device=u.device)) / count
    return torch.searchsorted(upper, ticks.to(upper), right=True).clamp(max=count - 1)


class TwistedSMC(Wrapped):
    """A sampler of particles, weighted to the law of a denoiser tilted by a twist.

    The batch has the particles of each problem side by side, see `particles_of`. A step costs one
    call of the denoiser beside those of the sampler. The carry's memory has, for `watch`:
    `effective`, the effective sample size of each problem before it is drawn anew, and
    `log_evidence`, complete after the last step, log of the average weight.

    Arguments:
        sampler: A sampler of a guided denoiser, or of the denoiser itself; eta must be above 0.
            Only its steps are guided that do not end in clean data.
        denoiser: The denoiser whose law is tilted.
        twist: log psi, see `Twist`.
        particles: Number of particles of a problem, at least 1.
        threshold: Share of effective particles below which they are drawn anew, in [0, 1].

    Raises:
        ValueError: If a number is out of range, or steps have no densities; on a call, if the
            batch is not one of particles, or the twist not one number a sample.

    Example:
        >>> from structdiff import Categorical, DDPM, Flow, Generator, Product, UniformTime
        >>> from structdiff import uniform
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Categorical(Flow(), uniform(2))})
        >>> denoiser = ExactDenoiser(process, Batch.of(torch.tensor([0, 1])))
        >>> worth = torch.tensor([1.0, 3.0]).double().log()  # class 1 is three times as good
        >>> def twist(said, batch, t):
        ...     return said["x"].value.exp() @ worth
        >>> many = TwistedSMC(DDPM(denoiser, UniformTime(8)), denoiser, twist, particles=1000)
        >>> batch = particles_of(Batch.of(torch.tensor([0])), 1000)
        >>> x = many.sample(batch, Generator(0))["x"]
        >>> bool((x.double().mean() - 0.75).abs() < 0.05)
        True
    """

    problems: int
    sure: list[bool]

    def __init__(
        self,
        sampler: Sampler,
        denoiser: Denoiser,
        twist: Twist,
        particles: int,
        *,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(sampler)
        if particles < 1 or not 0 <= threshold <= 1:
            has = f"got {particles} and {threshold}"
            msg = f"particles must be at least 1 and threshold in [0, 1], {has}"
            raise ValueError(msg)
        if not denoiser.process.offers(Tractable):
            name = type(denoiser.process).__name__
            msg = f"weights are ratios of the densities of steps: {name} is not Tractable"
            raise ValueError(msg)
        if sampler.eta == 0:
            msg = "eta must be above 0: steps without fresh noise have no densities, use DDPM"
            raise ValueError(msg)
        self.denoiser, self.twist = denoiser, twist
        self.particles, self.threshold = particles, threshold

    def prepare(self) -> None:
        """Which steps end in clean data.

        Raises:
            ValueError: If the batch is not one of particles.
        """
        batch, count = self.sampler.batch, self.particles
        for layout in batch.layouts.values():
            sizes = [layout.counts[i::count] for i in range(count)]
            if any(size != sizes[0] for size in sizes):
                has = f"the batch has {batch.samples} samples"
                msg = f"{has}, not {count} like ones for each problem: use particles_of(batch, n)"
                raise ValueError(msg)
        self.problems = batch.samples // count
        process: Any = self.sampler.process
        ends = self.sampler.times[1:]
        clocks = process.clock(dict.fromkeys(batch.leaves, ends)).values()
        self.sure = torch.stack([clock == torch.inf for clock in clocks]).any(0).tolist()

    def start(self) -> Carry:
        """Draws from the prior, weighted by the twist."""
        batch = self.sampler.batch
        even = torch.zeros(batch.samples, dtype=torch.float64, device=batch.device)
        none = even.new_zeros(self.problems)
        memory = {"log_weight": even, "twist": even, "log_evidence": none, "effective": none}
        return self.looked(replace(self.sampler.start(), memory=memory), 0, self.threshold)

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i, its particles drawn anew where they were uneven."""
        carry = self.moved(carry, i)
        if i + 1 < self.steps:
            return self.looked(carry, i + 1, self.threshold)
        process: Any = self.sampler.process
        times = self.sampler.leaf_times[i + 1]
        truth = process.oracle(carry.x, carry.x, times)
        return self.drawn(self.weighed(carry, self.asked(truth, carry.x, i + 1)), i + 1, 2.0)

    def moved(self, carry: Carry, i: int) -> Carry:
        """The carry after the guided step, with the ratio of the two steps in its weights."""
        sampler, plain = self.sampler, carry.previous
        if self.sure[i]:
            return replace(carry, x=sampler.advance(carry.x, plain or {}, i))
        process: Any = sampler.process
        x_t, (estimate, carry) = carry.x, sampler.effective(carry, i)
        x_s = sampler.advance(x_t, estimate, i)
        wanted, taken = (
            process.reverse_log_prob(x_s, x_t, said, sampler.coefficients[i])
            for said in (plain, estimate)
        )
        ratio = {name: wanted[name].double() - taken[name].double() for name in wanted}
        sums = [sampler.batch.layouts[name].sum(value) for name, value in ratio.items()]
        log_weight = carry.memory["log_weight"] + torch.stack(sums).sum(0)
        memory = {**carry.memory, "log_weight": log_weight}
        return replace(carry, x=x_s, previous=plain, memory=memory)

    def looked(self, carry: Carry, i: int, threshold: float) -> Carry:
        """The carry with the denoiser's estimate at the i-th time, weighted by the twist."""
        plain = self.denoiser(
            self.sampler.batch.with_leaves(carry.x), self.sampler.leaf_times[i], carry.previous
        )
        carry = replace(carry, previous=plain, calls=carry.calls + 1)
        return self.drawn(self.weighed(carry, self.asked(plain, carry.x, i)), i, threshold)

    def asked(self, said: Estimates, x: Record, i: int) -> Tensor:
        """log psi at the i-th time, `(samples,)`."""
        seen = self.sampler.batch.with_leaves(x)
        value = self.twist(said, seen, self.sampler.leaf_times[i])
        return per_sample(value, seen, "twist").double()

    def weighed(self, carry: Carry, twist: Tensor) -> Carry:
        """The carry with this twist in its weights, in place of the last one.

        A weight of zero stays, until its particle is drawn anew.
        """
        memory = carry.memory
        last = torch.where(memory["twist"] == -torch.inf, 0.0, memory["twist"])
        dead = memory["log_weight"] == -torch.inf
        log_weight = torch.where(dead, -torch.inf, memory["log_weight"] + twist - last)
        return replace(carry, memory={**memory, "log_weight": log_weight, "twist": twist})

    def drawn(self, carry: Carry, i: int, threshold: float) -> Carry:
        """The carry with particles drawn anew in problems below the threshold."""
        count, memory = self.particles, carry.memory
        log_weight = memory["log_weight"].reshape(self.problems, count)
        total = torch.logsumexp(log_weight, 1)
        effective = torch.exp(2 * total - torch.logsumexp(2 * log_weight, 1)).nan_to_num(0.0)
        again = effective < threshold * count
        fresh = systematic(log_weight, self.ticks(i))
        own = torch.arange(count, device=fresh.device)
        place = torch.where(again[:, None], fresh, own)
        first = count * torch.arange(self.problems, device=fresh.device)[:, None]
        carry = self.picked(carry, (first + place).flatten())
        gained = torch.where(again, total - math.log(count), 0.0)
        log_weight = torch.where(again[:, None], 0.0, log_weight).flatten()
        evidence = memory["log_evidence"] + gained
        told = {"log_weight": log_weight, "log_evidence": evidence, "effective": effective}
        return replace(carry, memory={**carry.memory, **told})

    def ticks(self, i: int) -> Tensor:
        """A uniform number for each problem."""
        ids, layout = self.sampler.batch.ids[:: self.particles], Layout.regular(self.problems)
        device = self.sampler.batch.device
        source = self.beside(i).scoped(leaf="particles", ids=ids, layout=layout.to(device))
        return source.uniform((self.problems,), torch.float64, device)

    def picked(self, carry: Carry, place: Tensor) -> Carry:
        """The carry with each sample's rows replaced by those of the sample at its place."""
        layouts = self.sampler.batch.layouts
        rows = {n: of.start[place][of.sample] + of.row for n, of in layouts.items()}
        history = tuple((_leaves(x, rows), _said(said, rows)) for x, said in carry.history)
        previous = None if carry.previous is None else _said(carry.previous, rows)
        memory = {**carry.memory, "twist": carry.memory["twist"][place]}
        return replace(
            carry, x=_leaves(carry.x, rows), history=history, previous=previous, memory=memory
        )


def _leaves(x: Record, rows: Mapping[str, Tensor]) -> Record:
    return {name: value[rows[name]] for name, value in x.items()}


def _said(said: Estimates, rows: Mapping[str, Tensor]) -> Estimates:
    """Estimates of these rows; extras that all rows share stay."""
    picked = {}
    for name, one in said.items():
        shared = {k: e for k, e in one.extras.items() if e.ndim < one.value.ndim or len(e) == 1}
        own = {k: e[rows[name]] for k, e in one.extras.items() if k not in shared}
        picked[name] = Estimate(one.value[rows[name]], shared | own)
    return picked
