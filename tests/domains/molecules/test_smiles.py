"""Lists of SMILES: coordinates, the cache, parallel workers, and what is skipped."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.readers import embedding
from structdiff.domains.molecules.readers.conformer import conformer
from structdiff.domains.molecules.readers.embedding import embed

NAMES = ["CCO", "CC(C)O", "NCC#N", "O=C1CCCO1", "FC(F)F", "C[NH3+]"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "conformers"


def test_lists_have_names_and_reasons(tmp_path):
    path = tmp_path / "m.smi"
    path.write_text(
        "smiles name\n# a comment\nCCO ethanol  of\twine\nCC(C)O\n\n"
        "c1ccc nonsense\n[Na+].[Cl-] salt\nC[CH2] radical\n[2H]C heavy\n*C open\n[Ne]\n"
        "C(C)(C)(C)(C)C\n"
    )
    loaded = read(path)
    assert loaded.structures.name == ("ethanol of wine", "line 4", "heavy")
    assert [v.smiles for v in judge(loaded.structures)] == ["CCO", "CC(C)O", "C"]
    found = {skip.where: skip.reason for skip in loaded.skipped}
    assert found == {
        "line 6 (c1ccc)": "RDKit cannot parse the SMILES",
        "line 7 ([Na+].[Cl-])": "2 fragments: a record is one molecule",
        "line 8 (C[CH2])": "a radical",
        "line 10 (*C)": "unknown element '*'",
        "line 11 ([Ne])": "one atom: no geometry",
        "line 12 (C(C)(C)(C)(C)C)": "RDKit cannot parse the SMILES",
    }
    assert loaded.notes == ("1 molecules with isotopes: the labels were dropped",)


def test_tables_have_properties(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        'id,Smiles,name,logP,class,\n1,CCO,ethanol,-0.1,"a, b",x\n2,C,methane,,c,x\n3,CC,ethane\n'
    )
    loaded = read(path)
    assert loaded.structures.name == ("ethanol", "methane")
    known = loaded.structures.properties
    assert set(known) == {"id", "logP", "class"}
    np.testing.assert_array_equal(known["logP"], [-0.1, np.nan])
    assert known["class"].tolist() == ["a, b", "c"]
    assert [(s.where, s.reason) for s in loaded.skipped] == [
        ("line 4", "not 6 cells as in the header")
    ]
    for suffix, mark in ((".tsv", "\t"), (".csv", ";")):
        (tmp_path / f"n{suffix}").write_text(f"SMILES{mark}x\nCCO{mark}1\n")
        assert read(tmp_path / f"n{suffix}").structures.properties["x"].tolist() == [1]
    path.write_text("structure,x\nCCO,1\n")
    with pytest.raises(ValueError, match="no column smiles, it has: structure, x; rename"):
        read(path)


def test_cells_of_tables_are_numbers_marks_or_words(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(
        "smiles,logP,code,y\nC,N/A,007,1\nCC,1.5,x,\nCCC,-,y,2\nCCCC,2,z,<5\nCCO,?,08,n/a\n"
    )
    loaded = read(path)
    known = loaded.structures.properties
    np.testing.assert_array_equal(known["logP"], [np.nan, 1.5, np.nan, 2, np.nan])
    assert known["code"].tolist() == ["007", "x", "y", "z", "08"]
    assert known["y"].tolist() == ["1", "", "2", "<5", ""]
    assert loaded.notes == (
        "property 'y' is numeric but for 1 cell, the first '<5' (line 5): taken as words",
    )


def test_coordinates_do_not_depend_on_processes_or_order(tmp_path, monkeypatch):
    alone = embed(NAMES)
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "other"))
    together = embed(NAMES[::-1] + ["CCO"], processes=2)
    for one, other in zip(alone, together[-2::-1], strict=True):
        np.testing.assert_array_equal(one.position, other.position)
        np.testing.assert_array_equal(one.charge, other.charge)
    np.testing.assert_array_equal(together[-1].position, alone[0].position)


def test_a_conformer_is_a_minimum_of_its_force_field():
    made = conformer("O=C1CCCO1", 100, 10.0)
    mol = Chem.AddHs(Chem.MolFromSmiles("O=C1CCCO1"))
    shape = Chem.Conformer(mol.GetNumAtoms())
    shape.SetPositions(np.array(made["position"]) / 1e4)
    mol.AddConformer(shape)
    types = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, types)
    field.Initialize()
    assert np.abs(field.CalcGrad()).max() < 0.5  # kcal/(mol A), of coordinates in 1e-4 A


def test_what_has_no_type_in_mmff_gets_uff():
    mol = Chem.AddHs(Chem.MolFromSmiles("CB(O)O"))
    assert not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol)
    assert conformer("CB(O)O", 100, 10.0)["number"].count(5) == 1


def test_a_second_reading_embeds_nothing(tmp_path, monkeypatch, cache):
    path = tmp_path / "m.smi"
    path.write_text("CCO\nc1cc\nCCO\n")
    first = read(path)
    (stored,) = cache.iterdir()

    def never(*arguments):
        raise AssertionError("embedded again")

    monkeypatch.setattr(embedding.script, "conformer", never)
    again = read(path)
    np.testing.assert_array_equal(again.structures.position, first.structures.position)
    assert again.skipped == first.skipped
    with pytest.raises(AssertionError, match="embedded again"):
        read(path, max_atoms=100)  # other settings
    monkeypatch.undo()
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(cache.parent))
    stored.write_bytes(stored.read_bytes()[:-40])
    mended = read(path)
    np.testing.assert_array_equal(mended.structures.position, first.structures.position)
    np.load(stored).close()  # whole again


def test_no_cache_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "file"))
    assert embed(["CCO"])[0].number.tolist() == [6, 6, 8] + [1] * 6


def test_large_molecules_and_hopeless_ones_are_skipped():
    long = "C" * 3000
    cage = "C12C3C4C1C5C2C3C45"  # cubane is fine
    knot = "[C@]12(C)[C@@]3(C)[C@]1(C)[C@@]23C"
    reasons = [made.reason for made in embed([long, "C" * 40, cage, knot], max_atoms=100)]
    assert reasons[:3] == ["more than 100 atoms", "more than 100 atoms", ""]
    assert reasons[3] in ("", "cannot be embedded")


WORKER = """
import json, os, sys, time
for line in sys.stdin:
    smiles = json.loads(line)[0]
    if smiles == "crash":
        os._exit(1)
    if smiles == "hang":
        time.sleep(60)
    print(json.dumps({"reason": smiles}), flush=True)
"""


def test_a_worker_that_dies_or_hangs_costs_one_molecule(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(embedding.script, "__file__", str(script))
    monkeypatch.setattr(embedding, "LIMIT", 1.5)
    smiles = ["a", "crash", "b", "hang", "c", "d"]
    reasons = [made.reason for made in embed(smiles, processes=2)]
    gone = "RDKit crashed, or hung beyond the time limit"
    assert reasons == ["a", gone, "b", gone, "c", "d"]
