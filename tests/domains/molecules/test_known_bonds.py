"""Bonds that files bring, and files that keep them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from structdiff.domains.molecules import embedded
from structdiff.domains.molecules.aromaticity import aromatised
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.output import grid, write
from structdiff.domains.molecules.readers import embedding
from structdiff.domains.molecules.readers.records import tidy
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Structures
from tests.domains.molecules.smiles import plain, scattered

SMILES = ["C=O", "CC#N", "O=C([O-])c1c[nH]cc1", "c1ccc2[nH]ccc2c1", "C[NH+]=C", "NC(=O)c1ccsc1"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "conformers"


def many(smiles=SMILES):
    return Structures.concatenate([scattered(one) for one in smiles])


def block(smiles, *, kekulize=False, v3000=False):
    """What RDKit writes, coordinates at random."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)) * 5)
    mol.AddConformer(conformer)
    return Chem.MolToMolBlock(mol, kekulize=kekulize, forceV3000=v3000) + "$$$$\n"


def rows(structures):
    """(molecule, atom, atom, order) of each bond."""
    return np.stack([structures.bond.molecule, *structures.bond.pair, structures.bond.order])


@pytest.mark.parametrize("v3000", [False, True])
@pytest.mark.parametrize("kekulize", [False, True])
def test_an_sdf_brings_its_bonds(tmp_path, v3000, kekulize):
    path = tmp_path / "m.sdf"
    path.write_text("".join(block(s, kekulize=kekulize, v3000=v3000) for s in SMILES))
    loaded = read(path)
    assert (loaded.skipped, loaded.notes) == ((), ())
    found = loaded.structures
    want = many()
    np.testing.assert_array_equal(found.bond.pair, want.bond.pair)
    ringed = aromatised(want)[0].bond.order == AROMATIC
    fixed = np.where(ringed, AROMATIC, want.bond.order)
    if kekulize:
        assert (found.bond.order < AROMATIC).all()
        np.testing.assert_array_equal(found.bond.order[~ringed], fixed[~ringed])
    else:
        np.testing.assert_array_equal(found.bond.order, fixed)
    assert [v.smiles for v in judge(found)] == [plain(one) for one in SMILES]
    assert [v.connected for v in judge(replace(found, bond=None))] == [False] * 6  # by distance


KINDS = {"any": "  8", "zero": " 10", "single or double": "  5"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_bonds_of_other_kinds_are_not_known(tmp_path, kind):
    """The molecule is read, its bonds are not, and those beside it are dropped."""
    good, path = block("C=O"), tmp_path / "m.sdf"
    bad = good.replace("  1  2  2", f"  1  2{kind}")
    assert bad != good
    path.write_text(good + bad + good)
    loaded = read(path)
    assert len(loaded.structures) == 3 and loaded.structures.bond is None
    assert loaded.notes == (
        "bonds of 2 molecules are dropped: 1 have none that are known, the first record 2",
    )
    path.write_text(bad * 2)
    assert read(path).notes == ()


def test_dative_bonds_are_not_known(tmp_path):
    path = tmp_path / "m.sdf"
    path.write_text(block("N->[Fe]", v3000=True) + block("C=O"))
    assert read(path).structures.bond is None
    for _ in range(2):  # embedded, then from the cache
        found = embedding.embed(["N->[Fe]", "C=O"])
        assert [one.reason for one in found] == ["", ""]
        assert found[0].bond is None
        assert found[1].bond.tolist() == [[0, 0, 0], [1, 2, 3], [2, 1, 1]]


def test_a_file_without_bond_lines_has_no_known_bonds(tmp_path):
    water = "w\n     test           3D\n\n  3  0  0  0  0  0  0  0  0  0999 V2000\n"
    water += "".join(f"    {x:.4f}    0.6000    0.1000 {s}   0  0\n" for x, s in
                     ((0.0, "O"), (0.8, "H"), (1.6, "H")))  # fmt: skip
    path = tmp_path / "m.sdf"
    path.write_text(f"{water}M  END\n$$$$\n" * 2)
    loaded = read(path)
    assert loaded.structures.bond is None and loaded.notes == ()
    path.write_text(f"{water}M  END\n$$$$\n" + block("C=O"))
    assert "bonds of 1 molecules are dropped: 1 have none" in read(path).notes[0]


def test_formats_without_bonds_beside_an_sdf(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.sdf").write_text(block("C=O") * 2)
    (tmp_path / "set" / "b.xyz").write_text("2\n\nC 0 0 0\nO 0 0 1.13\n")
    loaded = read(tmp_path / "set")
    assert loaded.structures.bond is None
    assert "bonds of 2 molecules are dropped: 1 have none" in loaded.report()
    assert "b.xyz: line 1" in loaded.report()


def test_bonds_of_skipped_records_do_not_count(tmp_path):
    """What is left out neither shifts the bonds of the others nor drops them."""
    path = tmp_path / "m.sdf"
    lonely = "1\n\nC 0 0 0\n"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.xyz").write_text(lonely)
    (tmp_path / "set" / "b.sdf").write_text(block(SMILES[1]) + "rubbish\n$$$$\n" + block("C=O"))
    loaded = read(tmp_path / "set")
    assert len(loaded.skipped) == 2
    assert [v.smiles for v in judge(loaded.structures)] == ["CC#N", "C=O"]
    path.write_text(block(SMILES[3]) + block("C=O"))
    assert rows(read(path, max_atoms=5).structures).tolist() == [
        [0, 0, 0], [0, 0, 0], [1, 2, 3], [2, 1, 1]
    ]  # fmt: skip


def test_smiles_bring_bonds_from_the_cache_too(tmp_path, cache):
    path = tmp_path / "m.smi"
    path.write_text("".join(f"{one}\n" for one in [*SMILES, "C1CC"]))
    first = read(path).structures
    (stored,) = cache.iterdir()
    again = read(path).structures
    for found in (first, again):
        assert (found.bond.order < AROMATIC).all()
        assert [v.smiles for v in judge(found)] == [plain(one) for one in SMILES]
    np.testing.assert_array_equal(rows(first), rows(again))
    assert again.bond.pair.dtype == np.int64
    with np.load(stored) as file:
        whole = dict(file)
    whole["bond"] = whole["bond"][:, :-1]  # damaged: embedded again
    np.savez(stored, **whole)
    np.testing.assert_array_equal(rows(read(path).structures), rows(first))


def test_conformers_that_were_stored_without_bonds_are_not_mixed_in(cache, monkeypatch):
    """An earlier version's file of the same list lies beside the new one."""
    with monkeypatch.context() as earlier:
        earlier.setattr(embedding, "METHOD", 1)
        old = embedding._place(["C=O"], 500)
    old.parent.mkdir(parents=True)
    np.savez(old, z=[1], charge=[0], pos_1e4A=[[0, 0, 0]], n_atoms=[1], isotopes=[0], reason=[""])
    (found,) = embedding.embed(["C=O"])
    assert found.number.tolist() == [6, 8, 1, 1]
    assert found.bond.shape == (3, 3)
    assert len(list(cache.iterdir())) == 2


def test_the_worker_answers_with_bonds():
    made = embedding.embed(["c1cc[nH]c1"], processes=2)
    assert sorted(made[0].bond[2].tolist()) == [1] * 8 + [2, 2]
    json.dumps(embedding.script.conformer("CO", 99, 9.0))


@pytest.mark.parametrize("suffix", [".sdf", ".npz"])
@pytest.mark.parametrize("aromatic", [False, True])
def test_files_keep_bonds(tmp_path, suffix, aromatic):
    known = aromatised(many())[0] if aromatic else many()
    path = tmp_path / f"m{suffix}"
    write(path, known, judge(known))
    found = read(path)
    assert found.notes == ()
    np.testing.assert_array_equal(rows(found.structures), rows(known))
    np.testing.assert_array_equal(found.structures.charge, known.charge)
    if suffix == ".sdf":  # RDKit alone reads what we wrote
        mols = Chem.SDMolSupplier(str(path), removeHs=True)
        found = [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols]
        assert found == [plain(one) for one in SMILES]


def test_embedded_molecules_keep_their_assigned_bonds(tmp_path):
    for aromatic in (False, True):
        known, _ = assigned(embedded().select(range(120)), aromatic=aromatic)
        for suffix in (".sdf", ".npz"):
            write(tmp_path / f"m{suffix}", known, judge(known), overwrite=True)
            back = read(tmp_path / f"m{suffix}").structures
            np.testing.assert_array_equal(rows(back), rows(known))


def test_an_npz_of_molecules_without_known_bonds_has_none(tmp_path):
    bare = replace(many(), bond=None)
    write(tmp_path / "m.npz", bare, judge(bare))
    assert read(tmp_path / "m.npz").structures.bond is None
    none = Bonds(np.zeros((2, 0), int), np.zeros(0, int), np.zeros(0, int))
    empty = replace(bare, bond=none)
    write(tmp_path / "m.npz", empty, judge(empty), overwrite=True)
    assert len(read(tmp_path / "m.npz").structures.bond) == 0


def test_bonds_of_an_npz_may_stand_in_any_order(tmp_path):
    known = many()
    write(tmp_path / "m.npz", known, judge(known))
    with np.load(tmp_path / "m.npz") as file:
        arrays = dict(file)
    mixed = np.random.default_rng(0).permutation(len(known.bond))
    arrays["bond_pair"] = arrays["bond_pair"][::-1, mixed].astype(np.int32)
    arrays["bond_order"] = arrays["bond_order"][mixed].astype(np.uint8)
    np.savez(tmp_path / "n.npz", **arrays)
    loaded = read(tmp_path / "n.npz").structures
    np.testing.assert_array_equal(rows(loaded), rows(known))
    assert "bond_order" not in loaded.properties


def test_two_bonds_between_two_atoms_are_refused():
    with pytest.raises(ValueError, match="two different atoms, each pair once"):
        tidy(np.array([[0, 1], [1, 0]]), np.array([1, 2]))
    with pytest.raises(ValueError, match="two different atoms, each pair once"):
        tidy(np.array([[3], [3]]), np.array([1]))


def test_pictures_draw_the_bonds_that_molecules_came_with(tmp_path):
    """Two far atoms: a stick between them if there is a bond, else none."""
    pair = Structures(np.array([[0, 0, 0], [4.0, 0, 0]]), [6, 6], [2])
    bond = Bonds(np.array([[0], [1]]), np.array([1]), np.array([0]))
    middle = []
    for one in (pair, replace(pair, bond=bond)):
        path = grid(one, judge(one), tmp_path / "m.png", overwrite=True)
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        height, width = pixels.shape[:2]
        part = pixels[: int(height * 0.8), width // 2 - 5 : width // 2 + 5]
        middle.append(int((part.max(-1) < 150).sum()))
    assert middle[0] == 0
    assert middle[1] > 20
