r"""Losses for the variance of a step, beside that of the mean.

The bound of a chain of T steps says how large the variances of its steps should be, but is noisy
for their means; the simple loss knows the means alone. The hybrid loss takes each for its own:

    L = L_simple + factor L_vb,    with no gradient of L_vb in the mean.

A variance of x_0 given x_t can also be learned by regression: the mean of |x_0 - estimate|^2 given
x_t is what makes the square of its error least, whatever the estimate is.

References:
    Improved Denoising Diffusion Probabilistic Models (Nichol and Dhariwal, 2021), section 3.1.
    https://arxiv.org/abs/2102.09672
    Estimating the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models (Bao et
    al., 2022), eq. 15. https://arxiv.org/abs/2206.07309
    Estimating High Order Gradients of the Data Distribution by Denoising (Meng et al., 2021),
    section 3. https://arxiv.org/abs/2111.04726
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import LIMIT, Denoiser
from structdiff.objectives.bounds import StepBound
from structdiff.objectives.denoising import Denoising, Objective, Terms, per_entry
from structdiff.objectives.times import TimeDistribution, UniformTimes
from structdiff.objectives.weights import Weight
from structdiff.parameterisations import Noise, Parameterisation
from structdiff.parameterisations.heads import InterpolatedVariance
from structdiff.processes.gaussian import Gaussian
from structdiff.random import Randomness
from structdiff.schedules import Discrete, UniformTime

__all__ = ["Hybrid", "VarianceMatching", "improved_ddpm"]


class Hybrid(Objective):
    """The weighted error of the estimate, and the bound of a chain for its variance.

    Both look at the same times, the chain's steps, and at one answer of the denoiser.

    Arguments:
        bound: The bound of the chain, in nats per entry.
        factor: What it is multiplied by, at least 0; 0.001 in the paper, whose bound is in bits.
        weights: Weights of the error, as in `Denoising`; `SNR` by default.

    Raises:
        ValueError: If `factor` is negative or not finite; on a call, if the process has no
            densities or a leaf no weight.
    """

    def __init__(
        self,
        bound: StepBound,
        factor: float = 1e-3,
        weights: Weight | Mapping[str, Weight] | None = None,
    ) -> None:
        if not 0 <= factor < float("inf"):
            msg = f"factor must be at least 0 and finite, got {factor}"
            raise ValueError(msg)
        self.bound, self.factor, self.simple = bound, factor, Denoising(weights)

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse, denoise; compare the means, and the kernels at means that are held."""
        steps, look = self.bound.look(denoiser, batch, random)
        process: Any = denoiser.process.bind(batch)
        errors = process.loss(look.estimate, batch.leaves, look.noisy.leaves, look.t)
        clock = process.clock(look.t)
        leaves = {n: self.simple.reduce(n, errors[n], clock[n], batch) for n in errors}
        if self.factor > 0:
            held = {n: replace(e, value=e.value.detach()) for n, e in look.estimate.items()}
            terms = self.bound.terms(denoiser.process, steps, look._replace(estimate=held))
            leaves = {n: leaf + self.factor * terms[n] for n, leaf in leaves.items()}
        return Terms(leaves, clock)


def improved_ddpm(
    steps: int = 1000, event: tuple[int, ...] = (), mean: Parameterisation | None = None
) -> tuple[Gaussian, Hybrid]:
    """Improved DDPM: cosine betas, a learned variance of the steps, the hybrid loss.

    Draw with `DDPM` on the chain's own times, `UniformTime(steps)`, or on fewer of them.

    Arguments:
        steps: Number of steps of the chain, at least 1.
        event: Shape of a row; the network gives two numbers for each entry, on a last axis.
        mean: What the first of them predicts; `Noise()` by default, as in the paper. The last
            alpha of cosine betas is so small that noise must be known very well there: with few
            steps or little training take `Velocity()`.

    Returns:
        The process of a leaf, and the objective, with 0.001 of the bound in bits.

    Raises:
        ValueError: If there is no step.

    Example:
        >>> process, objective = improved_ddpm(100, event=(3,))
        >>> objective.bound.steps
        100
    """
    if steps < 1:
        msg = f"steps must be at least 1, got {steps}: the paper has 4000"
        raise ValueError(msg)
    process = Gaussian(Discrete.cosine(steps), InterpolatedVariance(mean or Noise()), event=event)
    return process, Hybrid(StepBound(UniformTime(steps)), 1e-3 / math.log(2))


class VarianceMatching(Objective):
    """Regression of a variance on the squared residual of the mean, which it leaves alone.

    It is measured in units of the variance of N(0, 1) data, sigma^2 / (alpha^2 + sigma^2), so
    that all times count alike. Leaves without a variance count nothing.

    Arguments:
        times: Law of the training times.

    Raises:
        ValueError: On a call, if no estimate has an extra `variance`.
    """

    def __init__(self, times: TimeDistribution | None = None) -> None:
        self.times = times or UniformTimes()

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse, denoise, compare the variance with the residual."""
        process: Any = denoiser.process.bind(batch)
        times = self.times.draw(batch.samples, random, part=batch.part).to(batch.device)
        t = process.times({name: layout.spread(times) for name, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        said, clock = denoiser(noisy, t, None), process.clock(t)
        names = [name for name, estimate in said.items() if "variance" in estimate.extras]
        if not names:
            must = "an estimate must have an extra 'variance', as ResidualVariance gives it"
            raise ValueError(f"{must}; got {[*said]} without")
        leaves = {}
        for name in names:
            held_mean = replace(said[name], value=said[name].value.detach())
            residual = process[name].residual(held_mean, batch[name]) ** 2
            gap = _in_units(said[name].extras["variance"] - residual, clock[name])
            held = batch.given.get(name)
            if held is not None:
                gap = gap.masked_fill(held.reshape(*held.shape, *(1,) * (gap.ndim - held.ndim)), 0)
            leaves[name] = per_entry(batch, name, gap.square().flatten(1).sum(1))
        return Terms(leaves, {name: clock[name] for name in names})


def _in_units(gap: Tensor, clock: Tensor) -> Tensor:
    """A difference of variances over sigma^2 / (alpha^2 + sigma^2) = sigmoid(-2 clock)."""
    factor = 1 + torch.exp(2 * clock.clamp(max=LIMIT))
    return gap * factor.reshape(*factor.shape, *(1,) * (gap.ndim - factor.ndim)).to(gap)
