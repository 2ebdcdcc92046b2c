r"""Transitions of the form alpha I + (1 - alpha) 1 pi^T, as values.

A row keeps its class with probability alpha and is otherwise redrawn from the stationary law pi.
Uniform, absorbing and marginal chains are three vectors pi; there is no matrix and no table.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.
    https://arxiv.org/abs/2107.03006
    Argmax Flows and Multinomial Diffusion (Hoogeboom et al., 2021). https://arxiv.org/abs/2102.05379
    DiGress (Vignac et al., 2023), section 4.1 (marginal). https://arxiv.org/abs/2209.14734
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RankOne", "absorbing", "marginal", "uniform"]


@dataclass(frozen=True, eq=False)
class RankOne:
    """A rank-one transition.

    Arguments:
        classes: Number K of data classes, at least 1.
        stationary: The law pi over the symbols, `(S,)`, with S = K, or more if some symbols
            (a mask) never occur in data. Sums to one (rounding is mended).

    Raises:
        ValueError: If `stationary` is not a law over at least K symbols.
    """

    classes: int
    stationary: Tensor

    def __post_init__(self) -> None:
        law = self.stationary
        if self.classes < 1 or law.ndim != 1 or len(law) < self.classes:
            must = f"a vector over at least classes = {self.classes} >= 1 symbols"
            msg = f"stationary must be {must}, got shape {tuple(law.shape)}"
            raise ValueError(msg)
        if bool((law < 0).any()) or abs(float(law.double().sum()) - 1) > 1e-6:
            must = "stationary must be non-negative and sum to 1"
            msg = f"{must}, its sum is {float(law.sum()):.6g}: divide by the sum"
            raise ValueError(msg)
        object.__setattr__(self, "stationary", law.double() / law.double().sum())

    @property
    def symbols(self) -> int:
        """Number S of symbols that a noisy row can have."""
        return len(self.stationary)


def uniform(classes: int) -> RankOne:
    """Redraw uniformly: multinomial diffusion, D3PM-uniform."""
    return RankOne(classes, torch.full((classes,), 1 / classes, dtype=torch.float64))


def absorbing(classes: int) -> RankOne:
    """Fall into an extra symbol, the mask, of index `classes`."""
    law = torch.zeros(classes + 1, dtype=torch.float64)
    law[classes] = 1
    return RankOne(classes, law)


def marginal(probabilities: Tensor) -> RankOne:
    """Redraw from a given law over the classes, `(K,)`, e.g. their frequencies in the data."""
    return RankOne(len(probabilities), probabilities)
