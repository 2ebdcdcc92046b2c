"""Generated bonds at the command line: in every file that holds the molecules."""

from dataclasses import replace

import numpy as np
import pytest

from structdiff.cli.main import main
from structdiff.domains.molecules import (
    MoleculesConfig,
    Run,
    Structures,
    embedded,
    train,
    write,
)
from structdiff.domains.molecules.aromaticity import aromatised
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.structures import AROMATIC
from tests.domains.molecules.smiles import scattered


def tiny(folder, **data):
    config = MoleculesConfig.model_validate(
        {
            "data": {"bonds": "kekulized", "validation": 0, **data},
            "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
            "training": {"steps": 2, "batch_size": 4, "warm_up": 1},
            "sampler": {"steps": 6, "batch_size": 3},
        }
    )
    return train(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def bonded(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("runs") / "bonded")


@pytest.fixture(scope="module")
def implicit(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("runs") / "implicit", hydrogens="implicit")


@pytest.fixture
def drawn(monkeypatch):
    """What the model draws: molecules some of whose bonds do not follow from their distances."""
    whole, _ = assigned(embedded().select(range(12)))
    molecules = whole.select(range(6))
    order = np.where(molecules.bond.order > 1, 1, molecules.bond.order)
    molecules = replace(molecules, bond=replace(molecules.bond, order=order), properties={})
    draw = lambda self, asked, part, **_: molecules.select(range(part.low, part.high))  # noqa: E731
    monkeypatch.setattr(Run, "draw", draw)
    assert (order != whole.select(range(6)).bond.order).any()
    return molecules


def same(found, want):
    """Whether bonds are those, whatever the order they are listed in."""
    rows = [np.stack([one.bond.molecule, *one.bond.pair, one.bond.order]) for one in (found, want)]
    return np.array_equal(*(row[:, np.lexsort(row[::-1])] for row in rows))


@pytest.mark.parametrize("name", ["out.npz", "out.sdf", "shards/", "valid.npz"])
def test_files_have_the_bonds_that_were_drawn(bonded, drawn, tmp_path, capsys, name):
    count = ["--only-valid", "6"] if name == "valid.npz" else ["-n", "6"]
    main(["sample", str(bonded.folder.path), *count, "-o", f"{tmp_path}/{name}"])
    capsys.readouterr()
    loaded = read(tmp_path / name)
    assert (loaded.skipped, loaded.notes) == ((), ())
    assert same(loaded.structures, drawn)


def test_a_given_part_with_hydrogens_fits_a_model_without(implicit, tmp_path, capsys):
    places = [[-0.735, 0.0, 0.0], [0.735, 0.0, 0.0], [-1.1, 0.9, 0.2], [0.0, 1.227, 0.0]]
    core = Structures.from_list([([6, 6, 1, 8], places)])
    path = tmp_path / "core.sdf"
    write(path, core, judge(core), overwrite=True)
    out = tmp_path / "out.npz"
    words = ["-n", "3", "--sizes", "6", "--given", str(path), "-o", str(out)]
    main(["sample", str(implicit.folder.path), *words])
    capsys.readouterr()
    with np.load(out) as arrays:
        number = arrays["z"].reshape(3, 6)
    assert (number[:, :3] == [6, 6, 8]).all()
    assert not (number == 1).any()


def test_aromatic_rings_of_a_given_part_are_written_out_with_their_hydrogens(implicit):
    """Which nitrogen of a ring has the hydrogen decides on its double bonds."""
    ring, _ = aromatised(scattered("c1cc[nH]c1"))
    assert (ring.bond.order == AROMATIC).sum() == 5
    drawn = implicit.sample(2, sizes=[8], given=ring, progress=False).structures
    for molecule in range(2):
        own = drawn.bond.molecule == molecule
        pair = drawn.bond.pair[:, own] - drawn.offsets[molecule]
        held = (pair < 5).all(0)
        assert sorted(drawn.bond.order[own][held].tolist()) == [1, 1, 1, 2, 2]
