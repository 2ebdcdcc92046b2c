"""The molecules' backbone: an equivariant graph network over all pairs of atoms."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.nn import EGNN, ClockEmbedding, ConditionFeatures, per_row

__all__ = ["MoleculeBackbone"]


class MoleculeBackbone(nn.Module):
    """Outputs for `position` (a vector per atom) and `element` (logits per atom).

    Arguments:
        symbols: Number of symbols that a noisy element can be, the mask included.
        classes: Number of elements.
        scale: Root mean square of a coordinate, Angstrom: the network sees lengths in Angstrom.
        layers: Rounds of messages.
        width: Features of a pair.
        hidden: Features of an atom.
        basis: Radial functions.
        numbers: Name to the number of entries of each real condition.
        kinds: Name to the number of classes of each class condition.
        self_conditioning: Whether the previous estimate is an input.
    """

    def __init__(
        self,
        symbols: int,
        classes: int,
        scale: float,
        *,
        layers: int,
        width: int,
        hidden: int,
        basis: int,
        numbers: Mapping[str, int] | None = None,
        kinds: Mapping[str, int] | None = None,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        self.symbols, self.scale = symbols, scale
        self.previous = classes if self_conditioning else 0
        self.clocks = ClockEmbedding(32)
        self.conditions = ConditionFeatures(numbers or {}, kinds)
        inputs = symbols + 2 * 32 + 1 + self.conditions.width + self.previous
        self.network = EGNN(
            inputs, classes, layers=layers, width=width, hidden=hidden, basis=basis
        )

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """Equivariant position output, invariant element logits."""
        position = batch["position"]
        layout = batch.layouts["position"]
        size = layout.spread(layout.size.to(position.dtype)).log().unsqueeze(1) - 3.0
        features = [F.one_hot(batch["element"], self.symbols).to(position.dtype), size]
        for name in ("position", "element"):
            features.append(self.clocks(per_row(clock[name], layout).to(position.dtype)))
        features.append(layout.spread(self.conditions(batch)))
        if self.previous:
            known = previous["element"].exp() if previous is not None else None
            features.append(
                position.new_zeros(layout.rows, self.previous) if known is None else known
            )
        logits, vector = self.network(torch.cat(features, 1), position * self.scale, layout)
        return {"position": vector / self.scale, "element": logits}
