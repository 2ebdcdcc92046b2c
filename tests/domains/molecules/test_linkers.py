"""Molecules of which two fragments are given and a linker is missing."""

import numpy as np
import pytest
import torch

from structdiff.batch import Batch
from structdiff.counter import Counter
from structdiff.domains.molecules import (
    MoleculeCodec,
    MoleculesConfig,
    Run,
    Structures,
    embedded,
    write,
)
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.fragments import (
    random_either,
    random_fragments,
    random_linkers,
    random_parts,
)
from structdiff.domains.molecules.generation import sample
from structdiff.domains.molecules.recipe import build
from structdiff.layout import Layout
from structdiff.objectives import Denoising, GivenRows
from structdiff.random import Generator

PIECES = Structures.from_list(
    [([6, 8, 6, 7], [[5.0, 5, 5], [6.2, 5, 5], [11.0, 6, 5], [12.4, 6, 5]])]
)
SMALL = {"layers": 1, "width": 8, "hidden": 8, "basis": 6}


@pytest.fixture(scope="module")
def batch():
    qm9 = embedded().select(range(300))
    return MoleculeCodec.fit(qm9).encode(qm9)


def everyone(batch):
    return torch.ones(batch.samples, dtype=torch.bool)


def parts(batch):
    """Positions and mask of each molecule."""
    counts = list(batch.layouts["position"].counts)
    return zip(
        torch.split(batch["position"], counts),
        torch.split(batch.given["position"], counts),
        strict=True,
    )


def test_what_is_missing_is_a_stretch_between_two_ends(batch):
    """Some atom and the one farthest from it: the missing ones are next to each other in order."""
    made = random_linkers(batch, Generator(0), everyone(batch))
    assert torch.equal(made.given["position"], made.given["element"])
    for position, mask in parts(made):
        missing = torch.nonzero(~mask).flatten().tolist()
        assert 1 <= len(missing) <= len(mask) - 2
        gap = torch.cdist(position, position)
        found = False
        for first in range(len(mask)):
            order = (gap[first] - gap[gap[first].argmax()]).argsort(stable=True).tolist()
            places = sorted(order.index(atom) for atom in missing)
            inside = places[0] > 0 and places[-1] < len(mask) - 1
            found |= inside and places[-1] - places[0] == len(places) - 1
        assert found


def line(atoms, copies):
    """Atoms in a line, in a random order in space and in the record."""
    place = torch.arange(float(atoms)).repeat(copies)[:, None] * torch.tensor([[1.4, 0.0, 0.0]])
    layout = Layout.ragged([atoms] * copies)
    kinds = torch.zeros(atoms * copies, dtype=torch.long)
    return Batch({"position": place, "element": kinds}, {"position": layout, "element": layout})


def test_the_missing_stretch_is_of_any_size_with_equal_chances():
    """Uniform in 1 to n - 2; and seen from an end of a line, a stretch of it."""
    n, copies = 6, 24_000
    made = random_linkers(line(n, copies), Generator(1), everyone(line(n, copies)))
    mask = made.given["position"].reshape(copies, n)
    missing = (~mask).sum(1)
    shares = torch.bincount(missing, minlength=n)[1 : n - 1] / copies
    assert (shares - 1 / (n - 2)).abs().max() < 4 * (0.25 * 0.75 / copies) ** 0.5
    places = torch.arange(n).expand(copies, n)
    first = torch.where(mask, n, places).amin(1)
    last = torch.where(mask, -1, places).amax(1)
    stretch = last - first + 1 == missing
    assert stretch.double().mean() > 0.75


def test_small_molecules_keep_something_to_draw():
    layout = Layout.ragged([1, 2, 3])
    batch = Batch(
        {"position": torch.randn(6, 3), "element": torch.zeros(6, dtype=torch.long)},
        {"position": layout, "element": layout},
    )
    for seed in range(20):
        held = random_linkers(batch, Generator(seed), everyone(batch)).given["position"]
        assert layout.sum(held.long()).tolist() == [0, 1, 2]


def test_molecules_that_are_not_chosen_have_nothing_given(batch):
    chosen = torch.arange(batch.samples) % 3 == 0
    for choose in (random_linkers, random_either):
        made = choose(batch, Generator(2), chosen)
        some = made.layouts["position"].sum(made.given["position"].long()) > 0
        assert torch.equal(some, chosen)


def test_either_is_one_or_the_other_half_of_the_time(batch):
    """By addressed noise what the kinds alone give, molecule by molecule."""
    made, ball, ends = (
        torch.split(
            choose(batch, Counter(3), everyone(batch)).given["position"],
            list(batch.layouts["position"].counts),
        )
        for choose in (random_either, random_fragments, random_linkers)
    )
    balls = [torch.equal(*pair) for pair in zip(made, ball, strict=True)]
    both = [torch.equal(*pair) for pair in zip(made, ends, strict=True)]
    assert all(one or other for one, other in zip(balls, both, strict=True))
    assert abs(np.mean(balls) - 0.5) < 4 * 0.5 / len(balls) ** 0.5 + 0.02
    assert random_parts("either") is random_either
    assert random_parts("linkers") is random_linkers


def test_the_fragments_fix_the_frame_and_cost_nothing(batch):
    made = random_linkers(batch, Generator(4), everyone(batch))
    layout, held = made.layouts["position"], made.given["position"].unsqueeze(1)
    centre = layout.sum(held * made["position"]) / layout.sum(held.float())
    assert centre.abs().max() < 1e-5
    codec = MoleculeCodec.fit(embedded().select(range(300)))
    denoiser = build(MoleculesConfig.model_validate({"network": SMALL}), codec)
    seen = []
    denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = GivenRows(Denoising(), random_linkers, rate=1.0)(denoiser, batch, Generator(4))
    noisy = seen[0]
    mask = noisy.given["position"]
    assert 0.3 < mask.double().mean() < 0.9
    torch.testing.assert_close(
        noisy["element"][noisy.given["element"]], batch["element"][noisy.given["element"]]
    )
    assert all(term.isfinite().all() for term in terms.leaves.values())


@pytest.fixture(scope="module", params=[{"given": 0.5}, {}, {"bonds": "kekulized"}])
def run(request, tmp_path_factory):
    """Models that were not trained at all: one that takes given parts as such, two that do not."""
    from structdiff.artifacts import RunFolder
    from structdiff.domains.molecules.assignment import assigned

    settings = dict(request.param)
    bonds = settings.pop("bonds", "none")
    data = embedded().select(range(60))
    data = assigned(data)[0] if bonds != "none" else data
    codec = MoleculeCodec.fit(data, bonds=bonds)
    config = MoleculesConfig.model_validate(
        {
            "data": {"bonds": bonds},
            "network": SMALL,
            "loss": settings,
            "sampler": {"steps": 6, "batch_size": 5},
        }
    )
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "untrained")
    return Run(folder, config, codec, build(config, codec).eval())


def check_held(structures):
    size = len(PIECES.number)
    for number, position in structures:
        assert number[:size].tolist() == PIECES.number.tolist()
        assert len(number) > size
        assert np.abs(position[:size] - PIECES.position).max() < 1e-5


@pytest.mark.parametrize("settings", [{}, {"repaint": 3}, {"randomness": "sample", "eta": 0.0}])
def test_both_fragments_stay_where_they_are(run, settings):
    found = run.sample(7, sizes=[6, 9], given=PIECES, seed=1, progress=False, **settings)
    check_held(found.structures)
    if run.codec.bond_counts:
        for local in found.structures.bond.split(found.structures):
            inside = [
                (*pair, order)
                for *pair, order in zip(*local.pair.tolist(), local.order.tolist(), strict=True)
                if max(pair) < 4
            ]
            assert inside == [(0, 1, 2), (2, 3, 1)]  # and no bond between the fragments


@pytest.mark.parametrize("settings", [{}, {"repaint": 3}])
def test_both_fragments_are_held_by_the_walk_itself(run, settings, monkeypatch):
    """Not by what is done afterwards: their distances are those of the file before it."""
    monkeypatch.setattr("structdiff.domains.molecules.sampling.at_home", lambda drawn, _: drawn)
    found = run.sample(5, sizes=[7], given=PIECES, seed=2, progress=False, **settings).structures
    home = PIECES.position - PIECES.position.mean(0)
    for _, position in found:
        np.testing.assert_allclose(position[:4] - position[:4].mean(0), home, atol=1e-5)


def test_a_file_with_two_pieces_is_given_whole(run, tmp_path, monkeypatch):
    path, out = tmp_path / "two.sdf", tmp_path / "out.sdf"
    write(path, PIECES, judge(PIECES))
    monkeypatch.setattr(Run, "load", lambda _: run)
    sample(
        tmp_path,
        5,
        out,
        folder=False,
        condition={},
        guidance=None,
        sizes=(8,),
        given=str(path),
        only_valid=None,
        settings={"steps": 3},
        seed=0,
        overwrite=False,
    )
    from structdiff.domains.molecules import read

    made = read(out).structures
    assert len(made) == 5
    for _, position in made:
        assert np.abs(position[:4] - PIECES.position).max() < 1.1e-4  # four digits in an SDF
