"""The molecules' backbone: an equivariant graph network over all pairs of atoms.

Atoms bring their noisy element, the clocks and the conditions, pairs their noisy bond. With
self-conditioning, atoms also bring the elements, and pairs the distances and bonds, of the
previous estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn import ClockEmbedding, ConditionFeatures, per_row
from structdiff.nn.graph_networks import GraphKind, graph_network

__all__ = ["MoleculeBackbone"]

_CLOCK = 32  # features of a clock
_LENGTHS = 16  # radial functions of a previous distance


class MoleculeBackbone(nn.Module):
    """Outputs for `position` (a vector per atom), `element` and maybe `bond` (logits).

    Arguments:
        symbols: Number of symbols that a noisy element can be, the mask included.
        classes: Number of elements.
        scale: Root mean square of a coordinate, Angstrom: the network sees lengths in Angstrom.
        kind: Which network, see `structdiff.nn.graph_networks`.
        layers: Rounds of messages.
        width: Features of a pair.
        hidden: Features of an atom.
        basis: Radial functions.
        bond_symbols: Number of symbols that a noisy bond can be; 0 without bonds.
        bond_classes: Number of bond classes, that of no bond included; 0 without bonds.
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
        kind: GraphKind = "pairs",
        layers: int,
        width: int,
        hidden: int,
        basis: int,
        bond_symbols: int = 0,
        bond_classes: int = 0,
        numbers: Mapping[str, int] | None = None,
        kinds: Mapping[str, int] | None = None,
        self_conditioning: bool = False,
    ) -> None:
        super().__init__()
        self.symbols, self.scale, self.bond_symbols = symbols, scale, bond_symbols
        self.previous = (classes, bond_classes) if self_conditioning else None
        self.clocks = ClockEmbedding(_CLOCK)
        self.conditions = ConditionFeatures(numbers or {}, kinds)
        inputs = symbols + 2 * _CLOCK + 1 + self.conditions.width
        pair_inputs = bond_symbols + _CLOCK if bond_symbols else 0
        if self_conditioning:
            inputs += classes
            pair_inputs += _LENGTHS + bond_classes
        self.network = graph_network(
            kind,
            inputs,
            classes,
            pair_inputs=pair_inputs,
            pair_outputs=bond_classes,
            layers=layers,
            width=width,
            hidden=hidden,
            basis=basis,
        )

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """Equivariant position output, invariant logits of elements and bonds."""
        position, layout = batch["position"], batch.layouts["position"]
        atoms = self._atoms(batch, clock, previous)
        pairs = self._pairs(batch, clock, previous)
        out = self.network(atoms, position * self.scale, layout, pair_features=pairs)
        found = {"position": out.vector / self.scale, "element": out.features}
        return found if out.pairs is None else {**found, "bond": out.pairs}

    def _atoms(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Tensor:
        position, layout = batch["position"], batch.layouts["position"]
        size = layout.spread(layout.size.to(position.dtype)).log().unsqueeze(1) - 3.0
        features = [F.one_hot(batch["element"], self.symbols).to(position.dtype), size]
        for name in ("position", "element"):
            features.append(self.clocks(per_row(clock[name], layout).to(position.dtype)))
        features.append(layout.spread(self.conditions(batch)))
        if self.previous is not None:
            blank = position.new_zeros(layout.rows, self.previous[0])
            features.append(blank if previous is None else previous["element"].exp())
        return torch.cat(features, 1)

    def _pairs(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Tensor | None:
        dtype, features = batch["position"].dtype, list[Tensor]()
        if self.bond_symbols:
            features.append(F.one_hot(batch["bond"], self.bond_symbols).to(dtype))
            of_bonds = per_row(clock["bond"], batch.layouts["bond"]).to(dtype)
            features.append(self.clocks(of_bonds))
        if self.previous is not None:
            features.append(self._estimated(batch, previous, self.previous[1]))
        return torch.cat(features, 1) if features else None

    def _estimated(
        self, batch: Batch, previous: Mapping[str, Tensor] | None, bonds: int
    ) -> Tensor:
        """Distances and bonds of the previous estimate, `(pairs, features)`; zero without one."""
        layout = batch.layouts.get("bond") or Layout.pairs(batch.layouts["position"])
        if previous is None or layout.nodes is None:
            return batch["position"].new_zeros(layout.rows, _LENGTHS + bonds)
        # Estimates of positions are in Angstrom, as the process's data are.
        gap = previous["position"][layout.nodes[0]] - previous["position"][layout.nodes[1]]
        length = gap.square().sum(1, keepdim=True).add(1e-8).sqrt()
        centres = torch.linspace(math.log(0.8), math.log(12.0), _LENGTHS, device=gap.device)
        place = (length.log() - centres.to(length)) / (centres[1] - centres[0]).to(length)
        seen = (-0.5 * place.square()).exp()
        return torch.cat([seen, previous["bond"].exp()], 1) if bonds else seen
