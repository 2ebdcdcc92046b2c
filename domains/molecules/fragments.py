"""Molecules of which a part is given: fragments in training, a core in sampling.

A given part is held at clean time and fixes the frame: positions are relative to its centre, so
that what is not given has noise that is not projected. It is a fragment, which is to be grown, or
two with a linker missing between them; a core in sampling may be in any number of pieces, which
keep their places to each other.

References:
    DiffLinker: Equivariant 3D-Conditional Diffusion Model for Molecular Linker Design (Igashov et
    al., 2022). https://arxiv.org/abs/2210.05274
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.domains.molecules.aromaticity import aromatised, kekulised
from structdiff.domains.molecules.bonding import bonds
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.structures import AROMATIC, Structures
from structdiff.objectives.hiding import per_sample
from structdiff.random import Randomness

__all__ = [
    "GivenKind",
    "anchored",
    "at_home",
    "part_of",
    "random_either",
    "random_fragments",
    "random_linkers",
    "random_parts",
    "with_core",
]

GivenKind = Literal["fragments", "linkers", "either"]
"""What a random given part is: a fragment, all but a linker, or the one or the other."""


def random_fragments(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Molecules with a random fragment given: an atom and its nearest ones, all but one at most.

    Arguments:
        batch: Clean molecules.
        random: Where the choice comes from.
        chosen: Which molecules have one, `(samples,)`.
    """
    return _with_given(batch, _near(batch, random), chosen)


def random_linkers(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Molecules with two random fragments given, between which a linker is missing.

    The atoms lie between a random one and the one farthest from it, in order of the difference of
    their distances to the two; a stretch of the order is missing, at least one atom and all but
    two. Of molecules of two atoms one is given.

    Arguments:
        batch: Clean molecules.
        random: Where the choice comes from.
        chosen: Which molecules have them, `(samples,)`.
    """
    return _with_given(batch, _apart(batch, random), chosen)


def random_either(batch: Batch, random: Randomness, chosen: Tensor) -> Batch:
    """Molecules with a random fragment given, or with two, half of them each.

    Arguments:
        batch: Clean molecules.
        random: Where the choice comes from.
        chosen: Which molecules have them, `(samples,)`.
    """
    coin = per_sample(batch, random, "kind of given part").to(batch.device) < 0.5
    one = batch.layouts["position"].spread(coin)
    return _with_given(
        batch, torch.where(one, _near(batch, random), _apart(batch, random)), chosen
    )


def random_parts(kind: GivenKind) -> Callable[[Batch, Randomness, Tensor], Batch]:
    """What chooses given parts of a kind, for `GivenRows`."""
    return {
        "fragments": random_fragments,
        "linkers": random_linkers,
        "either": random_either,
    }[kind]


def _near(batch: Batch, random: Randomness) -> Tensor:
    """An atom and its nearest ones, all but one at most, `(rows,)`."""
    layout, position = batch.layouts["position"], batch["position"]
    centre, share = _drawn(batch, random, "centre of fragment", "size of fragment")
    first = layout.start + (centre * layout.size).long()
    gap = (position - position[layout.spread(first)]).square().sum(1)
    count = (1 + (share * (layout.size - 1)).long()).clamp(max=layout.size - 1)
    return layout.rank(gap) < layout.spread(count)


def _apart(batch: Batch, random: Randomness) -> Tensor:
    """All atoms but those of a linker, `(rows,)`."""
    layout, position = batch.layouts["position"], batch["position"]
    end, size, place = _drawn(batch, random, "end of linker", "size of linker", "place of linker")
    first = layout.start + (end * layout.size).long()
    near = (position - position[layout.spread(first)]).square().sum(1).sqrt()
    place_of = torch.arange(layout.rows, device=batch.device)
    last = layout.sum(place_of * (layout.rank(near) == layout.spread(layout.size - 1)))
    far = (position - position[layout.spread(last)]).square().sum(1).sqrt()
    missing = 1 + (size * (layout.size - 2)).long().clamp(min=0)
    left = 1 + (place * (layout.size - missing - 1)).long().clamp(min=0)
    left = torch.minimum(left, layout.size - missing)
    rank = layout.rank(near - far)
    return (rank < layout.spread(left)) | (rank >= layout.spread(left + missing))


def _drawn(batch: Batch, random: Randomness, *names: str) -> list[Tensor]:
    """Uniform numbers of each molecule, below 1."""
    return [per_sample(batch, random, name).to(batch.device) for name in names]


def _with_given(batch: Batch, held: Tensor, chosen: Tensor) -> Batch:
    """These atoms given, of the molecules that are chosen, in their frame."""
    there = held & batch.layouts["position"].spread(chosen.to(batch.device))
    return anchored(replace(batch, given=_given(batch, there)))


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
    """The first molecule alone, with bonds as the codec has them, if it asks for any.

    Raises:
        ValueError: If its aromatic rings cannot be written as the codec has them.
    """
    one = core.select([0]).with_properties({})
    if not codec.bond_counts:
        return replace(one, bond=None)
    rewrite = aromatised if len(codec.bond_counts) > AROMATIC else kekulised
    found, (fault,) = rewrite(replace(one, bond=bonds(one)))
    if fault and rewrite is kekulised:
        msg = f"the given part has aromatic bonds, the model single and double ones: {fault}"
        raise ValueError(f"{msg}. Write it with single and double bonds")
    return found


def at_home(drawn: Batch, known: Batch) -> Batch:
    """Molecules moved so that the given atoms are where they were given, exactly."""
    layout, held = drawn.layouts["position"], known.given["position"]
    gap = (known["position"] - drawn["position"]) * held.unsqueeze(1)
    count = layout.sum(held.to(gap.dtype)).unsqueeze(1)
    moved = drawn["position"] + layout.spread(layout.sum(gap) / count)
    position = torch.where(held.unsqueeze(1), known["position"], moved)
    return drawn.with_leaves({**drawn.leaves, "position": position})
