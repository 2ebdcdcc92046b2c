r"""The variational bound in continuous time: no grid, and no error of its steps.

    -log p(x_0) <= KL(q(x_b | x_0), prior) + E_t rate(x_t, t) / density(t) + reconstruction at a,

for times drawn from a law on [a, b]. The rate is the divergence per unit of t between the time
reversals at x_0 and at the estimate (`Tractable.divergence_rate`); the bound is the limit of that
of T steps. With the exact denoiser the mean over data is their entropy, but for the last bit from
a to the data, where rows are drawn at once.

Each draw looks at one time of every sample. The times of a draw are evenly spaced over the
samples with a common shift, all of [a, b] for each: the bound of a sample is unbiased, and the
mean over samples varies less than with independent times.

References:
    Variational Diffusion Models (Kingma et al., 2021), eqs. 11-17 and appendix I.1.
    https://arxiv.org/abs/2107.00630
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022), eq. 6.
    https://arxiv.org/abs/2205.14987
    Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), eq. 10.
    https://arxiv.org/abs/2406.07524
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch, Part
from structdiff.denoiser import Denoiser
from structdiff.likelihood.bound import Bound, bind_tractable, look, per_sample
from structdiff.objectives import PowerTimes, TimeDistribution
from structdiff.random import Randomness

__all__ = ["continuous_bound"]


@torch.no_grad()
def continuous_bound(
    denoiser: Denoiser,
    batch: Batch,
    random: Randomness,
    *,
    draws: int = 1,
    times: TimeDistribution | None = None,
) -> Bound:
    """The bound of each sample for infinitely many steps.

    Arguments:
        denoiser: The denoiser; its process must be Tractable.
        batch: Clean samples.
        random: Where the noise comes from.
        draws: Independent repetitions, at least 1, of one time a sample and one look at the
            earliest time; two or more give the Monte-Carlo error.
        times: Law of the times: its ends are those of the integral, its shape changes the
            variance alone; `PowerTimes()` by default. Where sigma is 0 at clean data it must not
            begin there, but somewhat below the finest spread of the data.

    Raises:
        ValueError: If the process has no densities, or `draws` is below 1.

    Example:
        >>> from structdiff.processes import Categorical, Product, absorbing
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([2]))
        >>> denoiser = ExactDenoiser(Product({"x": Categorical(Flow(), absorbing(3))}), data)
        >>> continuous_bound(denoiser, data, Generator(0)).total
        tensor([0.], dtype=torch.float64)
    """
    if draws < 1:
        msg = f"draws must be at least 1, got {draws}"
        raise ValueError(msg)
    process, law = bind_tractable(denoiser, batch), times or PowerTimes()
    first, last = law.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    looks = [_one_draw(denoiser, process, batch, law, first, random, 3 * i) for i in range(draws)]
    middle, end = (
        {n: torch.stack([x[n] for x in part]) for n in batch.leaves}
        for part in zip(*looks, strict=True)
    )
    return Bound(
        per_sample(process.prior_divergence(batch.leaves, last), batch),
        {n: value.mean(0) for n, value in middle.items()},
        {n: value.mean(0) for n, value in end.items()},
        {n: middle[n] + end[n] for n in middle},
        kind=f"ELBO: upper bound on -log p, continuous time from {first:.3g} to {last:.3g}",
    )


def _one_draw(
    denoiser: Denoiser,
    process: Any,
    batch: Batch,
    law: TimeDistribution,
    first: float,
    random: Randomness,
    step: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The integral at one time a sample and the reconstruction, by leaf and sample."""
    time = spaced(batch, law, random.scoped(step=step)).to(batch.device)
    rows = {name: layout.spread(time) for name, layout in batch.layouts.items()}
    t, x_t, estimate = look(denoiser, process, batch, rows, random.scoped(step=step + 1))
    rate = per_sample(process.divergence_rate(estimate, batch.leaves, x_t, t), batch)
    integral = {name: value / law.density(time) for name, value in rate.items()}
    start = torch.tensor(first, dtype=torch.float64, device=batch.device)
    t, x_t, estimate = look(denoiser, process, batch, start, random.scoped(step=step + 2))
    return integral, per_sample(process.reconstruction(estimate, batch.leaves, x_t, t), batch)


def spaced(batch: Batch, law: TimeDistribution, random: Randomness) -> Tensor:
    """Times, `(samples,)`, each drawn from the law, together evenly spaced in its quantiles."""
    part = batch.part or Part(0, 1, batch.samples)
    shift = random.uniform((1,), torch.float64, "cpu")
    return law.quantile((part.places(batch.samples) / part.total + shift) % 1)
