r"""Conditions that data give themselves: the cluster that a record's features fall in.

Lloyd's algorithm from well-spread seeds (each seed is a point, drawn in proportion to its squared
distance from those before) finds centres m_k, and

    c(x) = argmin_k |x - m_k|^2

is a class condition without anyone having labelled anything. A model trained with it, dropped now
and then, is guided by it as by any other condition.

References:
    Self-Guided Diffusion Models (Hu et al., 2023), section 3. https://arxiv.org/abs/2210.06462
    k-means++: The Advantages of Careful Seeding (Arthur and Vassilvitskii, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from structdiff.random import Randomness

__all__ = ["Clusters"]


@dataclass(frozen=True)
class Clusters:
    """Centres of clusters of features.

    Arguments:
        centre: Centres, `(clusters, features)`.

    Example:
        >>> from structdiff.random import Generator
        >>> x = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
        >>> label = Clusters.fit(x, 2, Generator(0)).annotate(x)
        >>> bool(label[0] == label[1]), bool(label[2] == label[3]), bool(label[0] == label[2])
        (True, True, False)
    """

    centre: Tensor

    @classmethod
    def fit(cls, x: Tensor, clusters: int, random: Randomness, *, rounds: int = 50) -> Self:
        """Centres of these features.

        Arguments:
            x: Features of each record, `(records, features)`.
            clusters: How many, at least 1 and at most the number of records.
            random: Where the seeds come from.
            rounds: How often centres are moved, at least 1.

        Raises:
            ValueError: If a number is out of range or a feature is not finite.
        """
        if x.ndim != 2 or not bool(torch.isfinite(x).all()):
            msg = f"x must be finite, (records, features), got {tuple(x.shape)}: see its NaNs"
            raise ValueError(msg)
        if not 1 <= clusters <= len(x) or rounds < 1:
            must = f"clusters must be from 1 to the {len(x)} records and rounds at least 1"
            msg = f"{must}, got {clusters} and {rounds}"
            raise ValueError(msg)
        found = cls(_seeds(x, clusters, random))
        for _ in range(rounds):
            found = cls(found.moved(x))
        return found

    def annotate(self, x: Tensor) -> Tensor:
        """The nearest centre of each record, `(records,)`."""
        return torch.cdist(x, self.centre.to(x)).argmin(1)

    def moved(self, x: Tensor) -> Tensor:
        """Each centre at the mean of its records; one that has none stays."""
        label = self.annotate(x)
        count = x.new_zeros(len(self.centre)).index_add(0, label, x.new_ones(len(x)))
        total = torch.zeros_like(self.centre).index_add(0, label, x)
        mean = total / count.clamp(min=1).unsqueeze(1)
        return torch.where(count.unsqueeze(1) > 0, mean, self.centre)


def _seeds(x: Tensor, clusters: int, random: Randomness) -> Tensor:
    """Well-spread points, `(clusters, features)`."""
    weight, chosen = x.new_ones(len(x), dtype=torch.float64), list[Tensor]()
    for u in random.uniform((clusters,), torch.float64, x.device).unbind():
        share = weight.cumsum(0)
        place = torch.searchsorted(share, u * share[-1], right=True).clamp(max=len(x) - 1)
        chosen.append(x[place])
        near = (x - x[place]).square().sum(1).double()
        weight = near if len(chosen) == 1 else torch.minimum(weight, near)
    return torch.stack(chosen)
