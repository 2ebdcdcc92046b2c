r"""Classifier-free guidance: one network with and without its conditions.

With the scale w, the score of a guided denoiser is

    s_w = (1 - w) s(x_t) + w s(x_t | c),

so w = 0 is unconditional, 1 conditional, and above 1 guided. (The original paper writes
(1 + w') s(x_t | c) - w' s(x_t): w = 1 + w'.) Several conditions add their own direction,
s = s(x_t) + sum_i w_i (s(x_t | c_i) - s(x_t)), which is the score of
p(x_t) prod_i (p(x_t | c_i) / p(x_t))^w_i (Liu et al.). With a negative condition n in place of
none, s = (1 - w) s(x_t | n) + w s(x_t | c). Estimates are tilted as their space asks:
means on R^n, log-probabilities on classes, tangent vectors on manifolds. On R^n and manifolds that
is at each time the score of the tilted law of x_t, on classes each row's tilted law of x_0; the
samples of the whole walk follow no such closed law.

References:
    Classifier-Free Diffusion Guidance (Ho and Salimans, 2022), eq. 6.
    https://arxiv.org/abs/2207.12598
    Compositional Visual Generation with Composable Diffusion Models (Liu et al., 2022), eq. 11.
    https://arxiv.org/abs/2206.01714
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.guidance.strengths import Scale, check_scales
from structdiff.guidance.tilted import Mixed, conditioned

__all__ = ["ClassifierFree", "only"]


def only(batch: Batch, names: frozenset[str]) -> Batch:
    """The batch with these conditions; the others are absent."""
    others = [name for name in batch.condition if name not in names]
    if not others:
        return batch
    absent = torch.zeros(batch.samples, dtype=torch.bool, device=batch.device)
    return batch.with_present({**batch.present, **dict.fromkeys(others, absent)})


class ClassifierFree(Mixed):
    """A denoiser guided by its own conditions.

    Arguments:
        denoiser: A denoiser trained with its conditions dropped now and then, see
            `ConditionDropout`.
        scale: One w for all conditions together, or one w per condition, by name; conditions
            that the mapping does not name are absent. A w is a number or a function of time:
            `Interval(w, low, high)` guides in an interval.
        negative: Conditions to lead away from: name to the value, of one sample, that takes the
            place of no condition.

    Raises:
        ValueError: If a scale is not finite, or none is named; on a call, if there is no
            condition to guide by, or not one that the scale or `negative` names.

    Example:
        >>> from structdiff.testing import ExactDenoiser
        >>> from structdiff.processes import Gaussian, Product
        >>> from structdiff.schedules import Cosine
        >>> data = Batch.of(torch.tensor([-1.0, 1.0])).with_condition({"c": torch.zeros(2)})
        >>> denoiser = ExactDenoiser(Product({"x": Gaussian(Cosine())}), data)
        >>> t = denoiser.process.bind(data).times(torch.tensor(0.5))
        >>> same = ClassifierFree(denoiser, 1.0)(data, t)["x"].value
        >>> torch.equal(same, denoiser(data, t)["x"].value)
        True
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: Scale | Mapping[str, Scale],
        *,
        negative: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        named = dict(scale) if isinstance(scale, Mapping) else {"scale": scale}
        try:
            check_scales(named.values())
        except ValueError:
            named = {}
        if not named:
            msg = f"scale must be a finite number, or one per condition, got {scale}"
            raise ValueError(f"{msg}: or a function of time in their place")
        self.denoiser, self.scale, self.negative = denoiser, scale, dict(negative or {})
        self.process = denoiser.process

    def looks(self, batch: Batch) -> tuple[list[tuple[Denoiser, Batch]], list[Scale]]:
        """Without conditions (or with the negative ones), and with those that have a scale.

        Raises:
            ValueError: If there is no condition to guide by, or not one that is named.
        """
        everything = frozenset(batch.condition)
        self._check(everything)
        if isinstance(self.scale, Mapping):
            views, scales = [frozenset({name}) for name in self.scale], [*self.scale.values()]
        else:
            views, scales = [everything], [self.scale]
        reference = (
            conditioned(batch, self.negative) if self.negative else only(batch, frozenset())
        )
        seen = [reference, *(only(batch, names) for names in views)]
        return [(self.denoiser, one) for one in seen], scales

    def _check(self, everything: frozenset[str]) -> None:
        if not everything and self.scale != 0:
            msg = "guidance needs a condition, the batch has none: use batch.with_condition({...})"
            raise ValueError(msg)
        scaled = self.scale.keys() if isinstance(self.scale, Mapping) else set[str]()
        for who, names in (("scale", scaled), ("negative", self.negative.keys())):
            if names - everything:
                has = f"the batch has the conditions {sorted(everything)}"
                msg = f"{who} names {sorted(names - everything)}, but {has}"
                raise ValueError(msg)
