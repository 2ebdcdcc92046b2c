r"""The variational bound of diffusions whose kernels have no density.

Let x follow the forward diffusion dX = b dt + g dB from a time a to b, and let the model draw x_b
from the prior and walk back with the score s. By the Feynman-Kac formula and Girsanov's theorem
the model's density p_a obeys

    -log p_a(x) <= E[-log prior(X_b)] + int_a^b E[g^2 (|s|^2 / 2 + div s) - div b] dt,  X_a = x,

with the Riemannian divergence, so that draws of the process (`Markov.corrupt`) and the score
suffice. With the velocity u = b - g^2 s / 2 of the probability flow the integrand is

    s^T g g^T s / 2 - div (u - g g^T s / 2)

(`Scored.diffusion` is g g^T, 2 sigma^2 (-d clock / dt) where noise is isotropic), one divergence
of the reverse drift. Equality holds where s is the score of the process from the data and its law
at b is the prior: then both sides are the true density. The data are taken as x_a at an early time
a, as in `flow_log_prob`: no reconstruction term is left, which would need a kernel. For a process
with closed kernels it is `continuous_bound` without the reconstruction, plus the entropy of
q(x_a | x_0), in expectation over x_a.

References:
    Riemannian Diffusion Models (Huang et al., 2022), theorem 4.1 and eq. 12.
    https://arxiv.org/abs/2208.07949
    A Variational Perspective on Diffusion-Based Generative Models and Score Matching (Huang, Lim
    and Courville, 2021), theorem 3. https://arxiv.org/abs/2106.02808
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.divergence import Divergence, ExactDivergence
from structdiff.likelihood.bound import Bound, per_sample
from structdiff.likelihood.continuous import spaced
from structdiff.objectives import TimeDistribution, UniformTimes
from structdiff.processes import Markov, Scored
from structdiff.processes.leaf import sum_event
from structdiff.random import Randomness

__all__ = ["implicit_bound"]

Leaves = Mapping[str, Tensor]


@torch.no_grad()
def implicit_bound(
    denoiser: Denoiser,
    batch: Batch,
    random: Randomness,
    *,
    draws: int = 1,
    times: TimeDistribution | None = None,
    divergence: Divergence | None = None,
) -> Bound:
    """The bound of each sample by integration by parts.

    `prior` of the report is E[-log prior(x_b)], `divergence` the integral, `reconstruction` zero;
    `draws` holds the sum of both, and so the Monte-Carlo error that of all.

    Arguments:
        denoiser: The denoiser; its process must be Scored and Markov.
        batch: Samples, taken as x_a at the earliest time a.
        random: Where the noise comes from.
        draws: Independent repetitions, at least 1, of one time a sample; two or more give the
            Monte-Carlo error.
        times: Law of the times: its ends are a and b, its shape changes the variance alone;
            `UniformTimes()` by default, which suits schedules whose clock is nearly linear.
        divergence: `ExactDivergence()` by default; `Hutchinson(probes)` for many coordinates.

    Raises:
        ValueError: If the process has no score or no kernel to draw from, the noise of a leaf is
            not that of its schedule (`Affine`, `PhaseSpace`), or `draws` is below 1.

    Example:
        >>> from structdiff.processes import Brownian, Product
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Geometric
        >>> from structdiff.spaces import Torus
        >>> from structdiff.testing import ExactDenoiser
        >>> process = Product({"x": Brownian(Geometric(0.1, 4.0), Torus(1))})
        >>> data = Batch.of(torch.zeros(1, 1))
        >>> bound = implicit_bound(ExactDenoiser(process, data), data, Generator(0))
        >>> bound.prior["x"]  # the uniform law
        tensor([1.8379])
    """
    if draws < 1:
        msg = f"draws must be at least 1, got {draws}"
        raise ValueError(msg)
    for contract, need in ((Scored, "a score"), (Markov, "draws of its steps")):
        if not denoiser.process.offers(contract):
            kind = type(denoiser.process).__name__
            msg = f"the bound needs {need}: {kind} is not {contract.__name__}"
            raise ValueError(f"{msg}; use bound or continuous_bound with a Tractable process")
    law, trace = times or UniformTimes(), divergence or ExactDivergence()
    first, last = law.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    walk = _Walk(denoiser, denoiser.process.bind(batch), batch, first)
    looks = [
        (walk.end(last, random.scoped(step=3 * i)), walk.rate(law, trace, random, 3 * i + 1))
        for i in range(draws)
    ]
    prior, middle = (
        {n: torch.stack([one[n] for one in part]) for n in batch.leaves}
        for part in zip(*looks, strict=True)
    )
    return Bound(
        {n: value.mean(0) for n, value in prior.items()},
        {n: value.mean(0) for n, value in middle.items()},
        {n: torch.zeros_like(value[0]) for n, value in middle.items()},
        {n: prior[n] + middle[n] for n in middle},
        kind=f"ELBO: upper bound on -log p at t = {first:.3g}, implicit, up to t = {last:.3g}",
    )


class _Walk:
    """The forward diffusion from a batch at an early time."""

    def __init__(self, denoiser: Denoiser, process: Any, batch: Batch, first: float) -> None:
        self.denoiser, self.process, self.batch = denoiser, process, batch
        self.first = process.times(torch.tensor(first, dtype=torch.float64, device=batch.device))

    def to(self, t: Any, random: Randomness) -> Any:
        """x_t, where the samples are x_a."""
        return self.process.corrupt(self.batch.leaves, self.first, t, random)

    def end(self, last: float, random: Randomness) -> dict[str, Tensor]:
        """-log prior at the end of a walk, by leaf and sample."""
        time = torch.tensor(last, dtype=torch.float64, device=self.batch.device)
        x = self.to(self.process.times(time), random)
        rows = self.process.prior_log_prob(x, last)
        return per_sample({n: -value for n, value in rows.items()}, self.batch)

    def rate(
        self, law: TimeDistribution, trace: Divergence, random: Randomness, step: int
    ) -> dict[str, Tensor]:
        """The integrand at one time of each sample over the time's density, by leaf."""
        batch, process = self.batch, self.process
        time = spaced(batch, law, random.scoped(step=step)).to(batch.device)
        t = process.times({n: layout.spread(time) for n, layout in batch.layouts.items()})
        noise = random.scoped(step=step + 1)
        noisy = batch.with_leaves(self.to(t, noise))
        score = process.score(self.denoiser(noisy, t, None), noisy.leaves, t)
        moved = process.diffusion(score, noisy.leaves, t)

        def back(leaves: Leaves) -> dict[str, Tensor]:
            estimate = self.denoiser(noisy.with_leaves(leaves), t, None)
            velocity = process.velocity(estimate, leaves, t)
            half = process.diffusion(process.score(estimate, leaves, t), leaves, t)
            return {n: velocity[n] - half[n] / 2 for n in leaves}

        spread = trace(back, process, noisy, noise).divergence
        square = {n: batch.layouts[n].sum(sum_event(s * moved[n])) / 2 for n, s in score.items()}
        return {n: (square[n] - spread[n]) / law.density(time).to(spread[n]) for n in spread}
