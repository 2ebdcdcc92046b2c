"""What of the data a run takes, and what is said of the rest."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from rdkit import Chem

from structdiff.domains.molecules import MoleculesConfig, Structures, embedded, loading, write
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.readers import sources
from structdiff.domains.molecules.readers.sources import Split
from structdiff.domains.molecules.structures import Bonds
from tests.domains.molecules.smiles import scattered


def load(path, **data):
    return load_data(MoleculesConfig.model_validate({"data": {"path": str(path), **data}}))


def save(path, structures):
    write(path, structures, judge(structures), overwrite=True)
    return path


@pytest.fixture
def named(tmp_path, monkeypatch):
    """`qm9` is 40 molecules with a split of their own, the largest ones in both parts."""
    some = embedded().select(range(40))
    path = save(tmp_path / "forty.npz", some)
    order = np.argsort(some.count, kind="stable")
    parts = Split(order[::2], order[:0], order[1::2])
    monkeypatch.setitem(sources.NAMES, "qm9", lambda: path)
    monkeypatch.setattr(loading, "qm9_split", lambda: parts)
    monkeypatch.chdir(tmp_path)
    return some, parts


def test_a_named_set_keeps_its_split_where_large_molecules_are_left_out(named):
    some, parts = named
    most = int(np.sort(some.count)[20])
    found = load("qm9", max_atoms=most, validation=0)
    for got, part in ((found.train, parts.train), (found.reference, parts.test)):
        want = some.select(part[some.count[part] <= most])
        np.testing.assert_allclose(got.position, want.position, atol=1e-3)
    lost = int((some.count > most).sum())
    assert [one.reason for one in found.skipped] == [f"more than {most} atoms"] * lost
    assert found.report.startswith(f"{40 - lost} molecules read, {lost} skipped")


def test_a_folder_with_the_name_of_a_set_is_ones_own(named, tmp_path):
    some, _ = named
    (tmp_path / "qm9").mkdir()
    save(tmp_path / "qm9" / "mine.npz", some.select(range(7)))
    assert len(load("qm9", validation=0).train) == 7


def test_hydrogen_alone_is_counted_where_hydrogens_are_left_out(tmp_path):
    rows = [([6, 8, 1], np.eye(3) * 1.1), ([8, 1, 1], np.eye(3)), ([1, 1], np.eye(3)[:2])]
    path = save(tmp_path / "m.xyz", Structures.from_list([*rows, rows[0]]))
    found = load(path, hydrogens="implicit")
    assert found.train.count.tolist() == [2, 1, 2]
    assert found.report.startswith("3 molecules read, 1 skipped")
    assert "1 x hydrogen only: nothing is left without hydrogens" in found.report


def test_test_molecules_without_bonds_are_counted_and_placed(tmp_path):
    """Water and OH, which no valencies fit, in either part; all are called the same."""
    water = ([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    broken = ([8, 1], [[0, 0, 0], [0.96, 0, 0]])
    text = ""
    for number, position in (water, broken, water, water, broken):
        text += f"{len(number)}\nsame\n"
        for z, xyz in zip(number, position, strict=True):
            text += f"{ {1: 'H', 8: 'O'}[z] } {' '.join(map(str, xyz))}\n"
    path = tmp_path / "m.xyz"
    path.write_text(text)
    split = tmp_path / "split.npz"
    np.savez(split, train=[0, 1, 2], test=[3, 4])
    found = load(path, split=str(split), bonds="kekulized")
    assert (len(found.train), len(found.reference)) == (2, 1)
    assert [one.where for one in found.skipped] == ["line 6", "line 20"]
    assert found.report.startswith("3 molecules read, 2 skipped")


def heavy(path, smiles):
    """An SDF with bonds and without hydrogens."""
    text = ""
    for one in smiles:
        mol = Chem.MolFromSmiles(one)
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)) * 5)
        mol.AddConformer(conformer)
        text += Chem.MolToMolBlock(mol) + "$$$$\n"
    path.write_text(text)
    return path


def test_a_record_whose_bonds_are_not_known_does_not_cost_the_others_theirs(tmp_path):
    path = heavy(tmp_path / "m.sdf", ["CCO", "C=O", "CC#N", "N->[Cu]", "CCC"])
    found = load(path, bonds="kekulized", hydrogens="implicit", validation=0)
    assert found.train.count.tolist() == [3, 2, 3, 3]
    assert found.train.bond.order.tolist() == [1, 1, 2, 1, 3, 1, 1]
    assert [one.where for one in found.skipped] == ["record 4"]
    assert "1 x its bonds are not known, those of the others are" in found.report
    # Without hydrogens distances do not tell, however many have none.
    most = heavy(tmp_path / "most.sdf", ["CCO", "N->[Cu]", "N->[Cu]"])
    assert len(load(most, bonds="none", validation=0).train) == 3
    with pytest.raises(ValueError, match="1 molecules are left to train on"):
        load(most, bonds="kekulized")
    # A model without bonds has a use for it.
    assert len(load(path, hydrogens="implicit", validation=0).train) == 5


def test_aromatic_bonds_need_the_hydrogens_of_the_data(tmp_path):
    path = heavy(tmp_path / "m.sdf", ["c1ccccc1", "c1cc[nH]c1", "CCO"])
    with pytest.raises(ValueError, match="data.bonds aromatic needs the hydrogens"):
        load(path, bonds="aromatic")


def test_without_bonds_and_hydrogens_the_file_is_told(tmp_path):
    path = save(tmp_path / "m.xyz", embedded().select(range(5)).without_hydrogens())
    with pytest.raises(ValueError, match="give a file with bonds"):
        load(path, bonds="kekulized")


@pytest.mark.parametrize("last", [0.001, 8.0, 9.0])
def test_a_walk_must_end_within_the_noise(last):
    with pytest.raises(ValidationError, match="sampler.sigma_last must be at least"):
        MoleculesConfig.model_validate({"sampler": {"sigma_last": last}})


def test_linkers_need_a_share_of_given_parts():
    with pytest.raises(ValidationError, match="given_kind linkers needs given above 0"):
        MoleculesConfig.model_validate({"loss": {"given_kind": "linkers"}})


def test_valencies_that_are_named_are_those_that_count():
    """Of sulphur with known bonds 2, 4 and 6, selenium's too; EDM's table alone has less."""
    right, wrong = scattered("S"), scattered("[SeH]")
    assert judge(right)[0].stable
    (verdict,) = judge(wrong)
    assert verdict.reasons == ("atom 0 (Se) has valence 1, allowed 2 or 4 or 6",)


def test_hydrogen_may_be_called_by_its_isotopes(tmp_path):
    path = tmp_path / "heavy_water.xyz"
    path.write_text("3\n\nO 0 0 0\nD 0.76 0.59 0\nT -0.76 0.59 0\n" * 2)
    found = load(path)
    assert found.train.number.tolist() == [8, 1, 1, 8, 1, 1]
    assert found.notes == ("2 molecules with isotopes: the labels were dropped",)


def test_test_molecules_alone_may_have_no_hydrogens(tmp_path):
    """Distances tell the bonds of carbon dioxide where other molecules have hydrogens."""
    water = "3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
    path = tmp_path / "m.xyz"
    path.write_text(water * 3 + "3\n\nC 0 0 0\nO 1.16 0 0\nO -1.16 0 0\n")
    np.savez(tmp_path / "split.npz", train=[0, 1, 2], test=[3])
    found = load(path, split=str(tmp_path / "split.npz"), bonds="kekulized", validation=0)
    assert found.reference.bond.order.tolist() == [2, 2]


def test_distances_tell_all_bonds_where_most_are_not_known(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    water = "3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
    (folder / "b.xyz").write_text(water * 2)
    (tmp_path / "one.xyz").write_text(water)
    one = loading.read(tmp_path / "one.xyz").structures
    loose = replace(one, bond=Bonds(np.array([[0], [1]]), np.array([1]), np.zeros(1, int)))
    save(folder / "a.sdf", loose)  # one of its two bonds
    found = load(folder, bonds="kekulized", validation=0)
    assert found.train.bond.order.tolist() == [1] * 6
    assert found.skipped == ()
    assert "bonds of 1 molecules are dropped: 2 have none" in found.notes[0]
