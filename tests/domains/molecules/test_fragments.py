"""Molecules of which a part is given."""

import numpy as np
import pytest
import torch

from structdiff.domains.molecules import MoleculeCodec, Structures, embedded
from structdiff.domains.molecules.fragments import anchored, at_home, random_fragments, with_core
from structdiff.random import Generator


@pytest.fixture(scope="module")
def batch():
    qm9 = embedded().select(range(400))
    return MoleculeCodec.fit(qm9).encode(qm9)


def parts(batch, name):
    return torch.split(batch[name], list(batch.layouts[name].counts))


def test_fragments_are_an_atom_and_its_nearest(batch):
    chosen = torch.arange(batch.samples) % 2 == 0
    made = random_fragments(batch, Generator(0), chosen)
    masks = torch.split(made.given["position"], list(batch.layouts["position"].counts))
    assert torch.equal(made.given["position"], made.given["element"])
    for mask, position, here in zip(masks, parts(batch, "position"), chosen.tolist(), strict=True):
        if not here:
            assert not mask.any()
            continue
        count = int(mask.sum())
        assert 1 <= count < len(mask)  # something is given, something is left
        gaps = torch.cdist(position[mask], position)
        balls = [set(row.argsort()[:count].tolist()) for row in gaps]
        assert set(torch.nonzero(mask).flatten().tolist()) in balls


def test_the_size_of_a_fragment_is_uniform(batch):
    ten = [i for i, n in enumerate(batch.layouts["position"].counts) if n == 18]
    some = batch.select(ten)
    counts = []
    for seed in range(60):
        made = random_fragments(some, Generator(seed), torch.ones(some.samples, dtype=torch.bool))
        counts.append(some.layouts["position"].sum(made.given["position"].long()))
    seen = torch.bincount(torch.cat(counts), minlength=18)[1:18].double()
    expected = seen.sum() / 17
    assert (((seen - expected) ** 2 / expected).sum()) < 45  # chi-square, 16 degrees, p ~ 1e-4


def test_the_given_part_fixes_the_frame(batch):
    made = random_fragments(batch, Generator(1), torch.ones(batch.samples, dtype=torch.bool))
    layout, held = made.layouts["position"], made.given["position"].unsqueeze(1)
    centre = layout.sum(held * made["position"]) / layout.sum(held.float())
    assert centre.abs().max() < 1e-5
    for before, after in zip(parts(batch, "position"), parts(made, "position"), strict=True):
        shift = after - before  # one translation a molecule
        assert (shift - shift[0]).abs().max() < 1e-5


def test_a_core_comes_first_and_goes_home(batch):
    qm9 = embedded()
    codec = MoleculeCodec.fit(qm9)
    core = Structures.from_list([([6, 8], [[5.0, 1.0, -2.0], [5.0, 1.0, -0.8]])])
    blank = batch.select([0, 1, 2])
    known = with_core(blank, codec, core)
    for position, element, mask in zip(
        parts(known, "position"),
        parts(known, "element"),
        torch.split(known.given["position"], list(known.layouts["position"].counts)),
        strict=True,
    ):
        assert mask.tolist() == [True, True] + [False] * (len(mask) - 2)
        np.testing.assert_allclose(position[:2].numpy(), core.position)
        assert [codec.types[k][0] for k in element[:2].tolist()] == [6, 8]
    framed = anchored(known)
    assert framed["position"][:2].mean(0).abs().max() < 1e-6
    home = at_home(framed, known)
    assert torch.equal(
        home["position"][known.given["position"]], known["position"][known.given["position"]]
    )
    gap = home["position"] - framed["position"]
    assert (gap[:3] - gap[0]).abs().max() < 1e-5
