r"""Reinforcement: a sampler's walk as a sequence of decisions with a reward at its end.

Each stochastic step is a draw of p(x_s | x_t), whose log density is differentiable in the
denoiser's weights. With the reward of a sample, centred and scaled over the batch, as advantage A,
the policy gradient is that of

    -sum_i min(A r_i, A clip(r_i)),    r_i = p(x_s | x_t) / p_old(x_s | x_t),

whose clipped ratios let one set of walks serve several updates. Steps that draw nothing (to clean
data on R^n and manifolds) decide nothing.

A step has such a density if it is one draw around an estimate that does not depend on that draw:

- of `DDPM`, `Leaping`, `Staggered`, and of `DDIM`, `Multistep` and `DPMSolver` with eta > 0;
- given what they drew on the way to the estimate, of `Heun` with eta > 0 and of
  `SymmetricSplitting`, whose walks need noise by address (`Counter`);
- not of `Churn` and `AnnealedLangevin`, whose eta is 0: what they draw is the state that they
  estimate from; nor of `StochasticRungeKutta`, whose second estimate is made where the noise of
  its step led to;
- not of what walks around samplers, `PredictorCorrector`, `LangevinCorrector` and `Restart`
  among them: there are draws beside the steps. Train the sampler inside, and wrap it afterwards.

References:
    Training Diffusion Models with Reinforcement Learning (Black et al., 2023), section 4.3.
    https://arxiv.org/abs/2305.13301
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.layout import Layout
from structdiff.objectives import Objective, Terms
from structdiff.processes import Finite, Tractable
from structdiff.random import Around, Randomness
from structdiff.samplers.base import Carry, Sampler
from structdiff.samplers.wrapped import check_sampler

__all__ = ["PolicyGradient", "Rollout"]


@dataclass(frozen=True)
class Rollout:
    """The carries of a walk, from its start to its end.

    Arguments:
        batch: What the walk was bound to.
        carries: One more than steps.
    """

    batch: Batch
    carries: tuple[Carry, ...]

    @classmethod
    @torch.no_grad()
    def draw(cls, sampler: Sampler, batch: Batch, random: Randomness) -> Rollout:
        """Walk and keep every carry."""
        bound = sampler.bind(batch, random)
        carries = [bound.start()]
        for i in range(bound.steps):
            carries.append(bound.step(carries[-1], i))
        return cls(batch, tuple(carries))

    @property
    def samples(self) -> Batch:
        """The end."""
        return self.batch.with_leaves(self.carries[-1].x)

    def log_prob(self, sampler: Sampler, random: Randomness) -> Tensor:
        """Log density of each step under a sampler, `(steps, samples)`, with its gradient.

        For a sampler with eta > 0 on a Tractable process whose step is one draw given its
        estimate. Those that draw for the estimate too, such as `Heun`, need a source that draws by
        address (`Counter`), the one of the walk.

        Arguments:
            sampler: Same steps as the walk's, and perhaps other weights.
            random: As in `draw`.

        Raises:
            ValueError: If it is no sampler, its eta is 0, its estimate depends on the noise of
                its own step, or its process has no densities.
        """
        check_sampler(sampler)
        if sampler.eta == 0:
            msg = "eta of the sampler must be positive, got 0: its steps have no density"
            raise ValueError(msg)
        if not sampler.denoiser.process.offers(Tractable):
            name = type(sampler.denoiser.process).__name__
            msg = f"log densities of steps need densities: {name} is not Tractable"
            raise ValueError(msg)
        watched = _Watched(random)
        bound = sampler.bind(self.batch, watched)
        found = []
        for i in range(bound.steps):
            watched.steps.clear()
            found.append(self.step_log_prob(bound, i))
            if 2 * i + 1 in watched.steps:  # where Sampler.advance draws step i
                name = type(sampler).__name__
                msg = f"the estimate of {name} depends on the noise of its own step"
                raise ValueError(f"{msg}: its steps have no such density; take DDPM or Multistep")
        return torch.stack(found)

    def step_log_prob(self, bound: Sampler, i: int) -> Tensor:
        """Log density of step i under a bound sampler, `(samples,)`."""
        before, after = self.carries[i], self.carries[i + 1]
        process: Any = bound.process
        estimate, used = bound.effective(before, i)
        rows = process.reverse_log_prob(after.x, used.x, estimate, bound.coefficients[i])
        # A step to clean data draws classes, and elsewhere nothing.
        drawn = rows if float(bound.times[i + 1]) >= 0 else process.offering(Finite)
        value = torch.zeros(self.batch.samples, device=self.batch.device)
        for name in drawn:
            value = value + self.batch.layouts[name].sum(rows[name])
        return value


class _Watched(Around):
    """Another source, and the steps that it was asked for."""

    def __init__(self, source: Randomness) -> None:
        super().__init__(source)
        self.steps: set[int] = set()

    def normal(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> Tensor:
        """That of the source."""
        return self.source.normal(shape, dtype, device)

    def scoped(
        self,
        *,
        leaf: str | None = None,
        step: int | None = None,
        ids: Tensor | None = None,
        layout: Layout | None = None,
    ) -> Randomness:
        """That of the source."""
        if step is not None:
            self.steps.add(step)
        return self.source.scoped(leaf=leaf, step=step, ids=ids, layout=layout)


class PolicyGradient(Objective):
    """The clipped policy gradient of a reward.

    Arguments:
        sampler: From a denoiser, the sampler whose walks are rewarded; eta > 0.
        reward: Rewards of samples, `(samples,)`; it need not be differentiable.
        updates: For how many calls a set of walks serves, at least 1. More make use of a costly
            reward; the batch must be one of the same sizes.
        clip: How far a ratio may go from 1, positive.

    Raises:
        ValueError: If a number is out of range; on a call, if there are fewer than two samples
            or the reward is not one finite number for each.
    """

    def __init__(
        self,
        sampler: Callable[[Denoiser], Sampler],
        reward: Callable[[Batch], Tensor],
        *,
        updates: int = 1,
        clip: float = 0.2,
    ) -> None:
        if updates < 1:
            msg = f"updates must be at least 1, got {updates}"
            raise ValueError(msg)
        if not clip > 0:
            msg = f"clip must be positive, got {clip}"
            raise ValueError(msg)
        self.sampler, self.reward, self.updates, self.clip = sampler, reward, updates, clip
        self.used = 0
        self.mean_reward = float("nan")

    rollout: Rollout
    advantage: Tensor
    old: Tensor

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The loss of walks of the batch's sizes; the sum over leaves of their steps' terms."""
        sampler = self.sampler(denoiser)
        if self.used % self.updates == 0:
            self.walk(sampler, batch, random)
        self.used += 1
        now = self.rollout.log_prob(sampler, random)
        ratio = torch.exp(now - self.old)
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss = -torch.minimum(ratio * self.advantage, clipped * self.advantage).sum(0)
        leaf = next(iter(batch.leaves))
        clock = torch.zeros(batch.layouts[leaf].rows, device=batch.device)
        return Terms({leaf: loss}, {leaf: clock})

    @torch.no_grad()
    def walk(self, sampler: Sampler, batch: Batch, random: Randomness) -> None:
        """Draw walks, and what each is better than the others.

        Raises:
            ValueError: If there are not two samples, or their rewards are not one number each.
        """
        if batch.samples < 2:
            msg = f"batch must have at least 2 samples to compare, got {batch.samples}"
            raise ValueError(msg)
        self.rollout = Rollout.draw(sampler, replace(batch, part=None), random)
        reward = self.reward(self.rollout.samples).double()
        if reward.shape != (batch.samples,) or not bool(reward.isfinite().all()):
            must = f"reward must return a finite number for each sample, ({batch.samples},)"
            has = f"shape {tuple(reward.shape)} with {int((~reward.isfinite()).sum())} not finite"
            raise ValueError(f"{must}, got {has}")
        self.mean_reward = float(reward.mean())
        self.advantage = (reward - reward.mean()) / reward.std().clamp(min=1e-8)
        self.old = self.rollout.log_prob(sampler, random)
