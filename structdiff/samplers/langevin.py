r"""Langevin dynamics at one noise level: alone down a ladder of levels, or as a corrector.

A Langevin step at t has the law p_t as its stationary one, to first order in its length e:

    x <- exp_x(e score + sqrt(2 e) z),    e = 2 (r sigma_t)^2,

with r the signal-to-noise ratio of a step. Song et al. take e = 2 (r |z| / |score|)^2 with norms
averaged over a batch; since score is -z / sigma in the mean, that is the length here for many
dimensions. Here it depends neither on the batch nor on the state, so that a sample does not depend
on its batch mates, and what a step does to normal data is known in closed form: N(0, v) becomes
N(0, v / (1 - r^2 sigma^2 / v)), for any number of dimensions. The dynamics are stable for r < 1
whatever the data, since on R^n no p_t is narrower than its noise.

What is left over of p_t is of second order in r, and does not fall with the number of levels.
Entries that are given have no noise, so they stay.

References:
    Generative Modeling by Estimating Gradients of the Data Distribution (Song and Ermon, 2019),
    algorithm 1; its steps are those of r^2 = epsilon / (4 sigma_L^2).
    https://arxiv.org/abs/1907.05600
    Adversarial score matching and improved sampling for image generation (Jolicoeur-Martineau et
    al., 2021), section 3.1, for the step to clean data. https://arxiv.org/abs/2009.05475
    Score-Based Generative Modeling through SDEs (Song et al., 2021), algorithms 2 to 5.
    https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Coefficients, Estimate, Scored
from structdiff.random import Generator, Randomness
from structdiff.samplers.base import Carry, Estimates, Record, Sampler, Space
from structdiff.samplers.wrapped import Wrapped, check_present
from structdiff.schedules import Grid

__all__ = ["AnnealedLangevin", "LangevinCorrector", "check_scored", "normals"]


def check_scored(denoiser: Denoiser, who: str) -> None:
    """Refuse a process without a score.

    Raises:
        ValueError: If a leaf has none.
    """
    if not denoiser.process.offers(Scored):
        name = type(denoiser.process).__name__
        msg = f"{who} needs the score of every leaf, but {name} has none"
        raise ValueError(
            f"{msg} (a leaf on classes, a flow?): use PredictorCorrector or Ancestral"
        )


def check_dynamics(denoiser: Denoiser, rounds: int, snr: float, least: int) -> None:
    """Refuse what is no Langevin dynamics."""
    if rounds < least:
        msg = f"rounds must be at least {least}, got {rounds}"
        raise ValueError(msg)
    if not 0 < snr < 1:
        msg = f"snr must be in (0, 1), where the dynamics are stable, got {snr}"
        raise ValueError(msg)
    check_scored(denoiser, "Langevin dynamics")


def check_isotropic(process: Any, batch: Batch) -> None:
    """Refuse noise of another covariance than sigma_t^2: steps of sigma_t would not fit it.

    By what a change of the estimate does, in the middle of the walk, to dx/dt = f - g^2 score / 2:
    it is a multiple of the change of the score, with g^2 = 2 sigma_t^2 |d clock / dt|.

    Raises:
        ValueError: If a leaf has another.
    """
    half = torch.tensor(0.5, dtype=torch.float64)
    times, x = dict.fromkeys(batch.leaves, half), process.prior(Generator(0), float(half))
    v = process.tangent(x, normals(process, batch, x, Generator(0)))
    ends = [{name: Estimate(sign * z) for name, z in v.items()} for sign in (1, -1)]
    scores = [process.score(estimate, x, times) for estimate in ends]
    velocities = [process.velocity(estimate, x, times) for estimate in ends]
    for name, z in v.items():
        schedule, sigma = process[name].schedule, process[name].level(half, z).sigma
        slope = schedule.slope(schedule.spread(half)).to(z)
        wanted = slope * sigma**2 * (scores[1][name] - scores[0][name])
        gap = velocities[0][name] - velocities[1][name] - wanted
        if bool((gap.abs() > 1e-3 * wanted.abs().amax()).any()):
            has = f"Langevin dynamics need noise of variance sigma^2, but that of leaf {name!r}"
            raise ValueError(f"{has} has another covariance: use PredictorCorrector or Ancestral")


def normals(process: Any, batch: Batch, x: Record, random: Randomness) -> Mapping[str, Tensor]:
    """Standard normal numbers for the tangent vectors of each leaf, not yet projected."""
    drawn = {}
    for name, space in process.geometry.items():
        layout = batch.layouts[name]
        source = random.scoped(leaf=name, ids=batch.ids, layout=layout)
        shape = (layout.rows, *space.tangent)
        drawn[name] = source.normal(shape, x[name].dtype, x[name].device)
    return drawn


def langevin(
    process: Any,
    batch: Batch,
    x: Record,
    estimate: Estimates,
    times: Mapping[str, Tensor],
    snr: float,
    random: Randomness,
) -> Record:
    """One Langevin step of all leaves."""
    score = process.score(estimate, x, times)
    z = process.tangent(x, normals(process, batch, x, random))
    moved = {}
    for name, space in process.geometry.items():
        reach = snr * process[name].level(times[name], z[name]).sigma
        v = 2 * reach**2 * score[name] + 2 * reach * z[name]
        moved[name] = process[name].hold(space.project(space.exp(x[name], v)))
    return moved


class AnnealedLangevin(Sampler):
    """Langevin dynamics at each level of a falling ladder, then one step to clean data.

    The states of a level are those in which the next one begins. With a ladder dense enough for
    neighbouring laws to overlap, and rounds enough at each, modes get their weights, which
    dynamics at one low level would not reach in any time. A level forgets in about
    v / (2 r^2 sigma^2) rounds, v being the variance of p_t: what is much wider than the noise
    keeps the width that it had at the last level with rounds enough for it. A walk costs
    `rounds * steps + 1` calls.

    Arguments:
        denoiser: The denoiser; its process must be Scored.
        grid: The levels.
        rounds: Langevin steps at each level, at least 1.
        snr: r, in (0, 1); the variance of what is only noise ends 1 / (1 - r^2) times too large.

    Raises:
        ValueError: If a number is out of range or a leaf has no score; when bound to a batch, if
            the noise of a leaf has another covariance than sigma^2.

    Example:
        >>> from structdiff import Gaussian, Generator, Geometric, UniformLogSNR
        >>> from structdiff.testing import NormalDenoiser
        >>> schedule = Geometric(0.1, 10.0)
        >>> denoiser = NormalDenoiser(Gaussian(schedule), torch.zeros(1), torch.full((1,), 0.3))
        >>> ladder = UniformLogSNR(schedule, 10, end=0.0)
        >>> sampler = AnnealedLangevin(denoiser, ladder, rounds=20, snr=0.3)
        >>> drawn = sampler.sample(Batch.of(torch.zeros(4000)), Generator(0))
        >>> round(drawn["x"].std().item(), 1)
        0.3
    """

    def __init__(
        self, denoiser: Denoiser, grid: Grid, *, rounds: int = 10, snr: float = 0.2
    ) -> None:
        super().__init__(denoiser, grid, eta=0.0)
        check_dynamics(denoiser, rounds, snr, least=1)
        self.rounds, self.snr = rounds, snr

    def order(self, space: Space) -> int:
        """None: the error falls with `snr` and more rounds, not with the number of levels."""
        del space
        return 0

    def prepare(self) -> None:
        """Refuse noise that is not isotropic."""
        check_isotropic(self.process, self.batch)

    def plan(self, times: Tensor) -> Sequence[Coefficients]:
        """Steps that stay where they are, and the last one to clean data."""
        still = [self.process.plan(torch.stack([t, t]), 0.0)[0] for t in times[:-2]]
        return [*still, self.process.plan(times[-2:], 0.0)[0]]

    def effective(self, carry: Carry, i: int) -> tuple[Estimates, Carry]:
        """The estimate after the dynamics of level i."""
        for turn in range(self.rounds):
            estimate = self.denoise(carry.x, i, carry.previous)
            # Addresses 0 to 2 N are those of the prior and of the steps.
            random = self.random.scoped(step=2 * self.steps + 1 + self.rounds * i + turn)
            x = langevin(
                self.process,
                self.batch,
                carry.x,
                estimate,
                self.leaf_times[i],
                self.snr,
                random,
            )
            carry = replace(carry, x=x, previous=estimate, calls=carry.calls + 1)
        if i + 1 < self.steps:
            return estimate, carry
        estimate = self.denoise(carry.x, i, carry.previous)
        return estimate, replace(carry, previous=estimate, calls=carry.calls + 1)


class LangevinCorrector(Wrapped):
    """A sampler with Langevin steps at the time that each of its steps leads to.

    The predictor-corrector of Song et al. There is no correction after the step to clean data; the
    others cost `rounds` calls each. `PredictorCorrector` corrects by steps back and forth, which
    have a meaning on classes too and keep p_t to second order in the step.

    Arguments:
        sampler: The predictor; its process must be Scored. With corrections its steps must use
            present estimates alone: past ones were made for a state that the corrections have
            left.
        rounds: Langevin steps after a step, at least 0; with 0 this is the sampler.
        snr: r, in (0, 1); 0.16 in the paper.

    Raises:
        ValueError: If a number is out of range or a leaf has no score; when bound to a batch, if
            the noise of a leaf has another covariance than sigma^2; on a call, if a sampler that
            is corrected uses estimates of earlier steps.

    Example:
        >>> from structdiff import DDIM, Cosine, Gaussian, Generator, UniformTime
        >>> from structdiff.testing import NormalDenoiser
        >>> denoiser = NormalDenoiser(Gaussian(Cosine()), torch.zeros(1), torch.ones(1))
        >>> sampler = LangevinCorrector(DDIM(denoiser, UniformTime(10)), rounds=2)
        >>> sampler.bind(Batch.of(torch.zeros(3)), Generator(0)).steps
        10
    """

    def __init__(self, sampler: Sampler, rounds: int = 1, *, snr: float = 0.16) -> None:
        super().__init__(sampler)
        check_dynamics(sampler.denoiser, rounds, snr, least=0)
        self.rounds, self.snr = rounds, snr

    def prepare(self) -> None:
        """Refuse noise that is not isotropic."""
        if self.rounds:
            check_isotropic(self.sampler.process, self.sampler.batch)

    def order(self, space: Space) -> int:
        """That of the sampler without corrections; none with them, see `snr`."""
        return 0 if self.rounds else self.sampler.order(space)

    def start(self) -> Carry:
        """That of the sampler."""
        return self.sampler.start()

    def step(self, carry: Carry, i: int) -> Carry:
        """The carry after step i and its corrections."""
        carry = self.sampler.step(carry, i)
        if i + 1 < self.steps:
            for turn in range(self.rounds):
                carry = self.correct(carry, i, turn)
        return carry

    def correct(self, carry: Carry, i: int, turn: int) -> Carry:
        """One Langevin step at the end of step i."""
        sampler = self.sampler
        check_present(carry, sampler)
        estimate = sampler.denoise(carry.x, i + 1, carry.previous)
        x = langevin(
            sampler.process,
            sampler.batch,
            carry.x,
            estimate,
            sampler.leaf_times[i + 1],
            self.snr,
            self.beside(i, turn, max(self.rounds, 1)),
        )
        return replace(carry, x=x, previous=estimate, calls=carry.calls + 1)
