r"""Classifier-free guidance of rates.

The time reversal of a chain jumps from x_t to j at the rate R(j) = F(j, x_t) p_t(j) / p_t(x_t),
with the forward rate F. Guided by several laws with the weights w_i, which sum to one,

    R_w(j) = prod_i R_i(j)^w_i,      for two R(j)^(1-w) R(j | c)^w,

the rates of p_t^(1-w) p_t(. | c)^w at each time, where `ClassifierFree` tilts p(x_0 | x_t) of each
row. For the absorbing chain both give the same *relative* rates: there R_w(j) is proportional to
p(x_0 = j)^(1-w) p(x_0 = j | c)^w, but it is not normalised, so that for w > 1 rows on which
the two laws differ are unmasked earlier; `ClassifierFree` keeps the schedule. On other chains the
relative rates differ too.

The log-ratios r_i(j) = log p_t(j) / p_t(x_t) of each law (`Finite.ratios`) make the weights
sum_i w_i r_i - r_0 on the kernel of the first law, the unconditional one where it has a weight: a
step is right to first order in its length. On R^n and manifolds the generator is affine in the
score, and this is classifier-free guidance.

References:
    Unlocking Guidance for Discrete State-Space Diffusion and Flow Models (Nisonoff et al., 2024),
    section 3 (predictor-free guidance). https://arxiv.org/abs/2406.01572
    Improving Classifier-Free Guidance in Masked Diffusion (Rojas et al., 2025), on the earlier
    unmasking. https://arxiv.org/abs/2507.08965
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.classifier_free import ClassifierFree
from structdiff.guidance.strengths import Scale
from structdiff.processes import Estimate, Finite

__all__ = ["RateGuided"]

LATEST = 1 - 1e-6
"""Ratios at t = 1, where all laws are one, are those just before."""

NEVER = -80.0
"""Log-ratio of a symbol that cannot be."""


class RateGuided(Denoiser):
    """A denoiser guided by its own conditions through the rates of its chains.

    Arguments:
        denoiser: A denoiser trained with its conditions dropped now and then.
        scale: One w for all conditions together, or one per condition, by name, as for
            `ClassifierFree`: 0 unconditional, 1 conditional; numbers or functions of time.

    Raises:
        ValueError: If a scale is not finite, or none is named; on a call, if there is no
            condition to guide by, or not one that the scale names.

    Example:
        >>> import torch
        >>> from structdiff import Categorical, Flow, Product, uniform
        >>> from structdiff.testing import ExactDenoiser
        >>> data = Batch.of(torch.tensor([0, 1])).with_condition({"c": torch.zeros(2)})
        >>> denoiser = ExactDenoiser(Product({"x": Categorical(Flow(), uniform(2))}), data)
        >>> guided = RateGuided(denoiser, 2.0)(data, {"x": torch.tensor(0.5)})
        >>> bool(guided["x"].extras["tilt"].abs().max() < 1e-6)  # no data depend on c
        True
    """

    def __init__(self, denoiser: Denoiser, scale: Scale | Mapping[str, Scale]) -> None:
        super().__init__()
        self.mixed = ClassifierFree(denoiser, scale)
        self.process = denoiser.process

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The tilted estimate; a part of weight zero is not asked for."""
        answers = self.mixed.ask(batch, t, previous)
        process: Any = self.process.bind(batch)
        tilted = answers.tilted(process)
        for name in process.offering(Finite):
            x_t, leaf = batch[name], process[name]
            found, weights = answers.of(name)
            if weights != [1]:
                gap = rate_gap(leaf, found, weights, x_t, t[name])
                tilted[name] = leaf.shift(found[0], gap, x_t, t[name])
        return tilted


def rate_gap(
    leaf: Finite, estimates: list[Estimate], weights: list[float], x_t: Tensor, t: Tensor
) -> Tensor:
    """sum_i w_i r_i - r_0, the log of the guided rates over those of the first estimate."""
    inside = t.clamp(max=LATEST)
    ratios = [leaf.ratios(one, x_t, inside).clamp(min=NEVER) for one in estimates]
    terms = [w * r for w, r in zip(weights[1:], ratios[1:], strict=True)]
    return sum(terms, (weights[0] - 1) * ratios[0])
