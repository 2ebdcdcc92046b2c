r"""Implicit score matching: regression on a score that nobody knows.

Integration by parts takes the unknown score of p_t out of the squared error,

    E |s - grad log p_t|^2 = E[|s|^2 + 2 div s] + const,

with the Riemannian divergence, on every manifold without boundary. So no kernel is needed, only
draws of x_t: this trains on walks (`Langevin`) as well as on closed kernels, without the bias of
Varadhan's approximation, at the price of derivatives of the network. The objective is written for
the estimate, in the units and with the weights of `Denoising`: an estimate moves with the score as
c = sigma^2 / alpha does, so that

    E w(clock) c^2 (|s|^2 + 2 div s)

differs from the weighted error of x_0 by what no network changes. It may be negative: at the true
score it is -E w c^2 |grad log p_t|^2. With `Hutchinson` it is sliced score matching, in the form
whose |s|^2 is exact.

References:
    Estimation of Non-Normalized Statistical Models by Score Matching (Hyvarinen, 2005).
    https://jmlr.org/papers/v6/hyvarinen05a.html
    Sliced Score Matching (Song, Garg, Shi and Ermon, 2020), eq. 8: the variance-reduced form.
    https://arxiv.org/abs/1905.07088
    Riemannian Score-Based Generative Modelling (De Bortoli et al., 2022), table 2.
    https://arxiv.org/abs/2202.02763
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import LIMIT, Denoiser
from structdiff.divergence import Divergence, ExactDivergence
from structdiff.objectives.denoising import Objective, Terms
from structdiff.objectives.times import TimeDistribution, UniformTimes
from structdiff.objectives.weights import SNR, Weight
from structdiff.processes import Process, Scored
from structdiff.processes.leaf import sum_event
from structdiff.random import Randomness

__all__ = ["ImplicitScore"]


class ImplicitScore(Objective):
    """Weighted |s|^2 + 2 div s: the error of the estimate, up to a constant.

    All leaves of a sample share its time.

    Arguments:
        weights: One weight for all leaves or one per leaf, as in `Denoising`.
        times: Law of the training times.
        divergence: `ExactDivergence()`, one backward pass for each coordinate of a sample, by
            default; `Hutchinson(probes)` takes one for each probe.

    Raises:
        ValueError: On a call, if the process has no score or a leaf no weight.

    Example:
        >>> import torch
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Linear
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.zeros(4000, 2))
        >>> process = Product({"x": Gaussian(Linear(), event=(2,))})
        >>> denoiser = ExactDenoiser(process, data.select([0]))
        >>> round(ImplicitScore()(denoiser, data, Generator(0)).total.item(), 1)  # -E |sigma s|^2
        -1.0
    """

    def __init__(
        self,
        weights: Weight | Mapping[str, Weight] | None = None,
        times: TimeDistribution | None = None,
        divergence: Divergence | None = None,
    ) -> None:
        self.weights = SNR() if weights is None else weights
        self.times = times or UniformTimes()
        self.divergence = divergence or ExactDivergence()

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """Diffuse, denoise, differentiate."""
        check_scored(denoiser.process)
        process: Any = denoiser.process.bind(batch)
        times = self.times.draw(batch.samples, random, part=batch.part).to(batch.device)
        t = process.times({name: layout.spread(times) for name, layout in batch.layouts.items()})
        noisy = batch.with_leaves(process.diffuse(batch.leaves, t, random))
        score = score_field(denoiser, process, noisy, t)
        s, divergence = self.divergence(score, process, noisy, random, create_graph=True)
        leaves = {
            name: self.reduce(
                name, squares(batch, name, s[name]) + 2 * value, batch, process, times
            )
            for name, value in divergence.items()
        }
        return Terms(leaves, process.clock(t))

    def reduce(
        self, name: str, error: Tensor, batch: Batch, process: Any, times: Tensor
    ) -> Tensor:
        """A leaf's error of the score per sample to the weighted one of x_0, per row and entry."""
        weight = self.weights
        if isinstance(weight, Mapping):
            if name not in weight:
                msg = f"weights has {sorted(weight)} but no weight for the leaf {name!r}"
                raise ValueError(msg)
            weight = weight[name]
        alpha, sigma, clock = process[name].schedule(times)
        factor = weight(clock.clamp(max=LIMIT)) * (sigma.square() / alpha).square()
        numbers = batch.layouts[name].size.clamp(min=1) * max(1, batch[name][:1].numel())
        weighted: Tensor = (factor / numbers).to(error) * error
        return weighted


def check_scored(process: Process) -> None:
    """Refuse a process without a score."""
    if not process.offers(Scored):
        msg = f"implicit score matching needs a score: {type(process).__name__} is not Scored"
        raise ValueError(f"{msg}; Denoising() does not need it")


def score_field(denoiser: Denoiser, process: Any, noisy: Batch, t: Mapping[str, Tensor]) -> Any:
    """Points to the denoiser's score of p_t there, by leaf."""

    def score(leaves: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        estimates = denoiser(noisy.with_leaves(leaves), t, None)
        value: Mapping[str, Tensor] = process.score(estimates, leaves, t)
        return value

    return score


def squares(batch: Batch, name: str, v: Tensor) -> Tensor:
    """Squared length of a sample's vectors, `(samples,)`."""
    return batch.layouts[name].sum(sum_event(v.square()))
