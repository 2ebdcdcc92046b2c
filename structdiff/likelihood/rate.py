r"""Rate and distortion: what a record costs when it is sent only up to a noise level.

A sender who communicates x_T, ..., x_t by reverse channel coding pays, at best, the terms of the
bound down to t,

    R(t) = KL(q(x_T | x_0), prior) + sum_{s >= t} KL(q(x_s | x_{s'}, x_0), p(x_s | x_{s'})),

and the receiver restores x_0 by the estimate at x_t, with an error D(t). With the exact reverse
kernels the sum telescopes to the mutual information I(x_0; x_t); with the oracle's variance in
their place it tends to it as steps grow.

References:
    Denoising Diffusion Probabilistic Models (Ho et al., 2020), section 4.3.
    https://arxiv.org/abs/2006.11239
    Lossy Compression with Gaussian Diffusion (Theis et al., 2022), section 3.
    https://arxiv.org/abs/2206.08889
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.likelihood.bound import bind_tractable, look, per_sample
from structdiff.random import Randomness
from structdiff.schedules import Grid

__all__ = ["RateDistortion", "rate_distortion"]


@dataclass(frozen=True)
class RateDistortion:
    """Means over samples at each time of a grid, from noise to data.

    Arguments:
        times: The times, `(steps,)`, falling.
        rate: Nats a sample that are spent down to each time, by leaf, `(steps,)`.
        distortion: The process's error of the estimate there (squared on R^n, cross-entropy on
            classes), by leaf, `(steps,)`.
    """

    times: Tensor
    rate: Mapping[str, Tensor]
    distortion: Mapping[str, Tensor]

    @property
    def bits(self) -> Tensor:
        """The rate of all leaves in bits a sample, `(steps,)`."""
        return torch.stack(list(self.rate.values())).sum(0) / math.log(2)

    def __str__(self) -> str:
        """A table of ten of the times."""
        rows = ["       t   bits a sample   " + "   ".join(f"error of {n}" for n in self.rate)]
        chosen = torch.linspace(0, len(self.times) - 1, min(10, len(self.times))).round().long()
        for i in chosen.tolist():
            errors = "   ".join(f"{float(d[i]):9.4g}" for d in self.distortion.values())
            rows.append(f"{float(self.times[i]):8.4g}   {float(self.bits[i]):13.4g}   {errors}")
        return "\n".join(rows)


@torch.no_grad()
def rate_distortion(
    denoiser: Denoiser, batch: Batch, grid: Grid, random: Randomness
) -> RateDistortion:
    """The rate and the distortion at each time of a grid.

    Arguments:
        denoiser: The denoiser; its process must be Tractable. One that tells its variance (see
            `estimate.extras`) loses nothing to the length of the steps on normal data.
        batch: Clean samples.
        grid: The times of the chain, before clean.
        random: Where the noise comes from.

    Raises:
        ValueError: If the process has no densities.

    Example:
        >>> from structdiff import Categorical, Flow, Generator, Product, UniformTime, absorbing
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([0, 1]))
        >>> denoiser = ExactDenoiser(Product({"x": Categorical(Flow(), absorbing(2))}), data)
        >>> curve = rate_distortion(denoiser, data, UniformTime(4), Generator(0))
        >>> curve.bits[0].item()
        0.0
    """
    process = bind_tractable(denoiser, batch)
    times = grid.times().to(batch.device)
    plan = process.plan(times, 1.0)
    rate = per_sample(process.prior_divergence(batch.leaves, float(times[0])), batch)
    rates, errors = [], []
    for i, time in enumerate(times[:-1]):
        t, x_t, estimate = look(denoiser, process, batch, time, random.scoped(step=i))
        rates.append({n: value.mean() for n, value in rate.items()})
        error = per_sample(process.loss(estimate, batch.leaves, x_t, t), batch)
        errors.append({n: value.mean() for n, value in error.items()})
        if i + 2 < len(times):
            oracle = process.oracle(batch.leaves, x_t, t)
            step = per_sample(process.divergence(oracle, estimate, x_t, plan[i]), batch)
            rate = {n: value + step[n] for n, value in rate.items()}
    return RateDistortion(
        times[:-1],
        {n: torch.stack([each[n] for each in rates]) for n in batch.leaves},
        {n: torch.stack([each[n] for each in errors]) for n in batch.leaves},
    )
