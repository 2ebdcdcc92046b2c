"""Molecules of which a part is given: fragments in training, a core in sampling.

A given part is held at clean time and fixes the frame: positions are relative to its centre, so
that what is not given has noise that is not projected.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.domains.molecules.bonding import bonds
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.structures import Structures
from structdiff.objectives.hiding import per_sample
from structdiff.random import Randomness

__all__ = ["anchored", "at_home", "part_of", "random_fragments", "with_core"]


def random_fragments(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Molecules with a random fragment given: an atom and its nearest ones, all but one at most.

    Arguments:
        batch: Clean molecules.
        random: Where the choice comes from.
        chosen: Which molecules have one, `(samples,)`.
    """
    layout, position = batch.layouts["position"], batch["position"]
    centre, share = (
        per_sample(batch, random, name).to(batch.device)
        for name in ("centre of fragment", "size of fragment")
    )
    first = layout.start + (centre * layout.size).long()
    gap = (position - position[layout.spread(first)]).square().sum(1)
    by_gap = torch.argsort(gap, stable=True)
    order = by_gap[torch.argsort(layout.sample[by_gap], stable=True)]
    rank = torch.argsort(order) - layout.spread(layout.start)
    count = (1 + (share * (layout.size - 1)).long()).clamp(max=layout.size - 1)
    held = rank < layout.spread(count * chosen.to(batch.device))
    return anchored(replace(batch, given=_given(batch, held)))


def _given(batch: Batch, held: Tensor) -> dict[str, Tensor]:
    """Masks of the leaves where these atoms are given; a bond is if both its atoms are."""
    masks = {"position": held, "element": held}
    if "bond" in batch.layouts:
        nodes = batch.layouts["bond"].nodes
        assert nodes is not None
        masks["bond"] = held[nodes].all(0)
    return masks


def anchored(batch: Batch) -> Batch:
    """The molecules with the centre of their given atoms at the origin."""
    layout, held = batch.layouts["position"], batch.given["position"].unsqueeze(1)
    mask = held.to(batch["position"].dtype)
    centre = layout.sum(mask * batch["position"]) / layout.sum(mask).clamp(min=1)
    return batch.with_leaves(
        {**batch.leaves, "position": batch["position"] - layout.spread(centre)}
    )


def with_core(blank: Batch, codec: MoleculeCodec, core: Structures) -> Batch:
    """A batch in which the first atoms of each molecule are those of a core, where they are."""
    encoded = codec.encode(part_of(core, codec)).to(blank.device)
    row = blank.layouts["position"].row
    atoms = encoded.layouts["position"].rows
    held, index = row < atoms, row.clamp(max=atoms - 1)
    home = torch.from_numpy(core.molecule(0)[1].astype(np.float32)).to(blank.device)
    leaves = {"position": home[index], "element": encoded["element"][index]}
    given = _given(blank, held)
    if "bond" in blank.layouts:
        # The core's atoms are the first of each molecule, so its pairs keep their order.
        layout, chosen = blank.layouts["bond"], given["bond"]
        seen = torch.cumsum(chosen.long(), 0)
        before = torch.cat([seen.new_zeros(1), seen])[layout.start]
        within = seen - 1 - layout.spread(before)
        most = max(len(encoded["bond"]) - 1, 0)
        known = torch.cat([encoded["bond"], encoded["bond"].new_zeros(1)])
        leaves["bond"] = torch.where(chosen, known[within.clamp(0, most)], 0)
    return replace(blank, leaves=leaves, given=given)


def part_of(core: Structures, codec: MoleculeCodec) -> Structures:
    """The first molecule alone, with bonds if the codec asks for them."""
    one = core.select([0]).with_properties({})
    return replace(one, bond=bonds(one)) if codec.bond_counts else one


def at_home(drawn: Batch, known: Batch) -> Batch:
    """Molecules moved so that the given atoms are where they were given, exactly."""
    layout, held = drawn.layouts["position"], known.given["position"]
    gap = (known["position"] - drawn["position"]) * held.unsqueeze(1)
    count = layout.sum(held.to(gap.dtype)).unsqueeze(1)
    moved = drawn["position"] + layout.spread(layout.sum(gap) / count)
    position = torch.where(held.unsqueeze(1), known["position"], moved)
    return drawn.with_leaves({**drawn.leaves, "position": position})
