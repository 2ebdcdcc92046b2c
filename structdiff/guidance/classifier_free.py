r"""Classifier-free guidance: one network with and without its conditions.

With the scale w, the score of a guided denoiser is

    s_w = (1 - w) s(x_t) + w s(x_t | c),

so w = 0 is unconditional, 1 conditional, and above 1 guided. (The original paper writes
(1 + w') s(x_t | c) - w' s(x_t): w = 1 + w'.) Several conditions add their own direction,
s = s(x_t) + sum_i w_i (s(x_t | c_i) - s(x_t)), which is the score of
p(x_t) prod_i (p(x_t | c_i) / p(x_t))^w_i (Liu et al.). Estimates are tilted as their space asks:
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

import math
from collections.abc import Mapping
from typing import Any

import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate

__all__ = ["ClassifierFree", "only"]


def only(batch: Batch, names: frozenset[str]) -> Batch:
    """The batch with these conditions; the others are absent."""
    absent = torch.zeros(batch.samples, dtype=torch.bool, device=batch.device)
    hidden = {name: absent for name in batch.condition if name not in names}
    return batch.with_present({**batch.present, **hidden})


class ClassifierFree(Denoiser):
    """A denoiser guided by its own conditions.

    Arguments:
        denoiser: A denoiser trained with its conditions dropped now and then, see
            `ConditionDropout`.
        scale: One w for all conditions together, or one w per condition, by name; conditions
            that the mapping does not name are absent.

    Raises:
        ValueError: If a scale is not finite, or none is named; on a call, if there is no
            condition to guide by, or not one that the scale names.

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

    def __init__(self, denoiser: Denoiser, scale: float | Mapping[str, float]) -> None:
        super().__init__()
        named = dict(scale) if isinstance(scale, Mapping) else {"scale": scale}
        if not named or not all(math.isfinite(w) for w in named.values()):
            msg = f"scale must be a finite number, or one per condition, got {scale}"
            raise ValueError(msg)
        self.denoiser, self.scale = denoiser, scale
        self.process = denoiser.process

    def parts(self, batch: Batch) -> list[tuple[frozenset[str], float]]:
        """Which conditions to look at together, and the weight of that estimate.

        Raises:
            ValueError: If there is no condition to guide by, or not one that the scale names.
        """
        everything = frozenset(batch.condition)
        if not everything and self.scale != 0:
            msg = "guidance needs a condition, the batch has none: use batch.with_condition({...})"
            raise ValueError(msg)
        if not isinstance(self.scale, Mapping):
            weights = [(frozenset[str](), 1 - self.scale), (everything, float(self.scale))]
        else:
            unknown = self.scale.keys() - everything
            if unknown:
                has = f"the batch has the conditions {sorted(everything)}"
                msg = f"scale names {sorted(unknown)}, but {has}"
                raise ValueError(msg)
            weights = [(frozenset[str](), 1 - math.fsum(self.scale.values()))]
            weights += [(frozenset({name}), w) for name, w in self.scale.items()]
        return [(names, w) for names, w in weights if w != 0]

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        """The tilted estimate; a part of weight zero is not asked for."""
        parts = self.parts(batch)
        found = [self.denoiser(only(batch, names), t, previous) for names, _ in parts]
        if len(parts) == 1 and parts[0][1] == 1:
            return found[0]  # type: ignore[no-any-return]
        process: Any = self.process.bind(batch)
        tilted: Mapping[str, Estimate] = process.tilt(found, [w for _, w in parts])
        return tilted
