"""What anyone's files may hold: charges, properties, packed files, folders, and rubbish."""

import gzip
import lzma

import numpy as np
import pytest
from rdkit import Chem

from structdiff.domains.molecules.data import embedded, read
from structdiff.domains.molecules.readers import files
from structdiff.domains.molecules.readers.records import columns

XYZ = "3\n{title}\nO 0 0 0\nH 0.7572 0.5865 0\nH -0.7572 0.5865 0.1\n"
ACETATE = """acetate
     test           3D

  7  6  0  0  0  0  0  0  0  0999 V2000
   -0.0700    0.0000    0.0000 C   0  0
    1.4500    0.0000    0.1000 C   0  0
    2.0500    1.1000    0.0000 O   0  0
    2.0500   -1.1000    0.0000 O   0  5
   -0.4300    1.0300    0.0000 H   0  0
   -0.4300   -0.5100    0.8900 H   0  0
   -0.4300   -0.5100   -0.8900 H   0  0
  1  2  1  0
  2  3  2  0
  2  4  1  0
  1  5  1  0
  1  6  1  0
  1  7  1  0
{end}M  END
{fields}$$$$
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))


def acetate(end="M  CHG  1   4  -1\n", fields=""):
    return ACETATE.format(end=end, fields=fields)


def v3000(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)) * 3)
    mol.AddConformer(conformer)
    return Chem.MolToV3KMolBlock(mol) + "$$$$\n"


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bytes])
@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz"])
def test_packed_files_are_the_same_as_plain_ones(tmp_path, pack, suffix):
    qm9 = embedded().select(range(5))
    plain = tmp_path / f"m{suffix}"
    if suffix == ".npz":
        np.savez(
            plain,
            pos_1e4A=np.rint(qm9.position * 1e4).astype(np.int32),
            z=qm9.number,
            n_atoms=qm9.count,
        )
    else:
        plain.write_text(acetate() if suffix == ".sdf" else XYZ.format(title="water"))
    packed = tmp_path / f"p{suffix}{'.xz' if pack is lzma.compress else '.gz'}"
    packed.write_bytes(pack(plain.read_bytes()))
    one, other = read(plain).structures, read(packed).structures
    np.testing.assert_array_equal(other.position, one.position)
    np.testing.assert_array_equal(other.charge, one.charge)
    assert other.name == one.name


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    inner = tmp_path / "set" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "set" / "c.xyz.gz").write_bytes(gzip.compress(XYZ.format(title="").encode()))
    (inner / "one.sdf").write_text(acetate() + "rubbish\n$$$$\n")
    (tmp_path / "set" / "a.npz").write_bytes(b"no npz")
    (tmp_path / "set" / "empty.sdf").touch()
    (tmp_path / "set" / "README.txt").write_text("CCO is not read from here")
    (tmp_path / "set" / ".hidden.xyz").write_text(XYZ.format(title="hidden"))
    (tmp_path / "set" / "table.csv").write_text("a,b\n1,2\n")
    loaded = read(tmp_path / "set")
    assert loaded.structures.name == ("acetate", "c.xyz.gz: line 1")
    found = {skip.where: skip.reason for skip in loaded.skipped}
    assert set(found) == {"a.npz", "b/one.sdf: record 2 (rubbish)", "empty.sdf", "table.csv"}
    assert "must be a whole npz" in found["a.npz"]
    assert "is empty" in found["empty.sdf"]
    assert "no column smiles, it has: a, b" in found["table.csv"]


def test_a_folder_without_molecules_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("CCO\n")
    with pytest.raises(ValueError, match=r"has no file that ends in \.sdf"):
        read(tmp_path)


def test_charges_of_both_sdf_versions_are_kept(tmp_path):
    path = tmp_path / "m.sdf"
    path.write_text(acetate() + acetate(end="") + v3000("C[N+](C)(C)CC(=O)[O-]"))
    loaded = read(path).structures
    assert loaded.charges(0).tolist() == [0, 0, 0, -1, 0, 0, 0]
    assert loaded.charges(1).tolist() == [0, 0, 0, -1, 0, 0, 0]  # the column of the atom block
    assert loaded.charges(2).tolist() == [0, 1, 0, 0, 0, 0, 0, -1] + [0] * 11
    (tmp_path / "m.mol").write_text(acetate().split("$$$$")[0])
    assert read(tmp_path / "m.mol").structures.charge.sum() == -1


def test_sdf_fields_are_properties(tmp_path):
    fields = "> <energy>\n{}\n\n>  <vector>  (1)\n1 2.5\n-3e-1\n\n> 25 <note>\n{}\n\n"
    fields += "> <VALID>\nTrue\n\n"
    path = tmp_path / "m.sdf"
    path.write_text(
        acetate(fields=fields.format("-76.4", "two\nlines"))
        + acetate(fields="> <late>\nyes\n")
        + acetate(fields=fields.format("", "7") + "> <long>\n" + "x" * 300 + "\n\n")
    )
    loaded = read(path)
    known = loaded.structures.properties
    assert set(known) == {"energy", "vector", "note", "late"}
    np.testing.assert_array_equal(known["energy"], [-76.4, np.nan, np.nan])
    np.testing.assert_array_equal(known["vector"][[0, 2]], [[1, 2.5, -0.3]] * 2)
    assert np.isnan(known["vector"][1]).all()
    assert known["note"].tolist() == ["two lines", "", "7"]
    assert known["late"].tolist() == ["", "yes", ""]
    assert loaded.notes == (
        "property 'note' is numeric but for 1 cell, the first 'two lines' (record 1 (acetate)): "
        "taken as words",
        "left out, words over 256 characters: long",
    )
    assert "left out, words over 256" in loaded.report()


def test_isotopes_are_noted(tmp_path):
    (tmp_path / "m.sdf").write_text(acetate(end="M  ISO  1   1  13\n") + acetate())
    loaded = read(tmp_path / "m.sdf")
    assert loaded.notes == ("1 molecules with isotopes: the labels were dropped",)
    assert loaded.structures.number[0] == 6


def test_extended_xyz(tmp_path):
    path = tmp_path / "m.xyz"
    path.write_text(
        XYZ.format(title="water energy=-76.4 gap=0.5")
        + XYZ.format(title="CC=O")
        + '2\nLattice="9 0 0 0 9 0 0 0 9" Properties=forces:R:3:species:S:1:pos:R:3 '
        'energy=-1.5 name=CO kind="a b" pbc="F F F"\n'
        "9 9 9 C 0 0 0\n9 9 9 O 0 0 1.13\n"
    )
    loaded = read(path).structures
    assert loaded.name == ("water", "CC=O", "CO")
    assert loaded.molecule(2)[0].tolist() == [6, 8]
    assert loaded.molecule(2)[1].tolist() == [[0, 0, 0], [0, 0, 1.13]]
    np.testing.assert_array_equal(loaded.properties["energy"], [-76.4, np.nan, -1.5])
    assert set(loaded.properties) == {"energy", "gap", "kind"}
    assert loaded.properties["kind"].tolist() == ["", "", "a b"]


def test_files_of_qm9_have_their_properties(tmp_path):
    path = tmp_path / "dsgdb9nsd_000003.xyz"
    path.write_text(
        "3\ngdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t"
        "19.0002\t0.021375\t-76.404702\t-76.401867\t-76.400922\t-76.422349\t6.002\t\n"
        "O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706\n"
        "H\t 0.0647664923\t 0.0205721989\t 1.5346341*^-3\t 0.294853\n"
        "H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853\n"
        "1671.4222\t3803.6305\t3907.698\t\nO\tO\t\nInChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
    )
    loaded = read(path)
    assert loaded.skipped == () and loaded.structures.name == ("gdb 3",)
    assert loaded.structures.properties["mu"].tolist() == [1.8511]
    assert loaded.structures.properties["U0"].tolist() == [-76.404702]
    assert loaded.structures.properties["Cv"].tolist() == [6.002]
    assert loaded.units["alpha"] == "bohr^3" and loaded.units["Cv"] == "cal/(mol K)"


def test_the_embedded_molecules_have_properties_with_units():
    loaded = read(files.Path(read.__code__.co_filename).with_name("qm9_mini2000.npz"))
    known = loaded.structures.properties
    assert list(known) == ["mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "Cv"]
    np.testing.assert_allclose(known["lumo"] - known["homo"], known["gap"], atol=2e-4)
    assert loaded.units["gap"] == "Ha" and loaded.units["mu"] == "D"


def test_further_arrays_of_an_npz_are_properties(tmp_path):
    qm9 = embedded().select(range(4))
    arrays = {
        "pos_1e4A": np.rint(qm9.position * 1e4).astype(np.int32),
        "z": qm9.number,
        "n_atoms": qm9.count,
        "charge": np.arange(len(qm9.number)).astype(np.int8) % 2,
        "valid": np.ones(4, bool),
        "label": np.array(["a", "", "b", "a"]),
        "pair": np.arange(8.0).reshape(4, 2),
        "properties/count": np.arange(4),
        "elsewhere": np.arange(5),
    }
    np.savez(tmp_path / "m.npz", **arrays)
    loaded = read(tmp_path / "m.npz").structures
    assert set(loaded.properties) == {"label", "pair", "count"}
    assert loaded.properties["label"].tolist() == ["a", "", "b", "a"]
    assert loaded.properties["pair"].tolist() == arrays["pair"].tolist()
    np.testing.assert_array_equal(loaded.charge, arrays["charge"])
    np.savez(tmp_path / "p.npz", **arrays, props=np.zeros((4, 2)), prop_names=["a"])
    with pytest.raises(ValueError, match=r"props is \(4, 2\), but there are 4 molecules and 1"):
        read(tmp_path / "p.npz")
    np.savez(tmp_path / "q.npz", **(arrays | {"charge": np.full(len(qm9.number), 0.5)}))
    with pytest.raises(ValueError, match="charge must hold small whole numbers, not float64"):
        read(tmp_path / "q.npz")


def test_columns_are_numbers_rows_or_words():
    rows = [{"n": "1", "r": "1 2", "w": "1", "u": ""}, {"n": " nan", "r": "3 nan", "w": "1_0"}, {}]
    found, _ = columns(rows)
    np.testing.assert_array_equal(found["n"], [1, np.nan, np.nan])
    np.testing.assert_array_equal(found["r"], [[1, 2], [3, np.nan], [np.nan, np.nan]])
    assert found["w"].tolist() == ["1", "1_0", ""]
    assert "u" not in found


MARKS = [
    "",
    "NA",
    "n/a",
    "N/A",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
    "none",
    "-",
    "?",
    ".",
    " - ",
]


@pytest.mark.parametrize("mark", MARKS)
def test_marks_among_numbers_are_unknown(mark):
    rows = [{"n": "1.5", "v": "1 2", "u": mark}, {"n": mark, "v": mark}, {"n": "-2"}]
    found, notes = columns(rows)
    np.testing.assert_array_equal(found["n"], [1.5, np.nan, -2])
    np.testing.assert_array_equal(found["v"], [[1, 2], [np.nan] * 2, [np.nan] * 2])
    assert set(found) == {"n", "v"}
    assert notes == []


def test_words_are_kept_as_they_are_written():
    cells = ["007", "0.942", "1e3", "1.0", "A 2", "B", "None", "C", "D", "x\n y", "nan", ""]
    found, notes = columns([{"code": cell} for cell in cells])
    assert found["code"].tolist() == [*cells[:9], "x y", "", ""]
    assert notes == []  # less than half are numbers


def test_a_column_that_is_nearly_numeric_is_told():
    cells = ["1", "-", "<5", "2.50", "1,5", "3", "~4" * 20, "4", ""]
    where = [f"line {i}" for i in range(2, 11)]
    found, notes = columns([{"y": cell, "v": cell} for cell in cells], where)
    assert found["y"].tolist() == ["1", "", *cells[2:]]
    assert notes[0] == (
        "property 'y' is numeric but for 3 cells, the first '<5' (line 4): taken as words"
    )
    assert len(notes) == 2
    _, (note,) = columns([{"v": "1 2"}, {"v": "3 4"}, {"v": "~" * 30}])
    assert note.endswith(f"for 1 cell, the first '{'~' * 24}...': taken as words")
    _, (note,) = columns([{"v": "1 2"}, {"v": "3 4"}, {"v": "5"}])
    assert note == "property 'v' is numeric but for 1 cell, the first '5': taken as words"


def test_marks_in_comments_of_xyz_are_no_part_of_the_name(tmp_path):
    path = tmp_path / "m.xyz"
    path.write_text(
        XYZ.format(title="one energy=NA gap=0.5") + XYZ.format(title="two energy=-1 gap=?")
    )
    loaded = read(path).structures
    assert loaded.name == ("one", "two")
    np.testing.assert_array_equal(loaded.properties["energy"], [np.nan, -1])
    np.testing.assert_array_equal(loaded.properties["gap"], [0.5, np.nan])


RUBBISH = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint8).tobytes()


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz", ".smi", ".txt", ".csv", ".mol"])
@pytest.mark.parametrize("content", [RUBBISH, bytes(3000), b"\n" * 50, b"3\n\n", b"\xff\xfe3\x00"])
def test_rubbish_is_one_clear_error(tmp_path, suffix, content):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="nothing in .* could be used|cannot read|no column smiles"
    ):
        read(path)
    assert list(tmp_path.iterdir()) == [path] or suffix in (".smi", ".txt")  # the cache


def test_packed_twice_cut_and_unreadable(tmp_path, monkeypatch):
    inner = gzip.compress(XYZ.format(title="water").encode())
    twice = tmp_path / "m.xyz.gz"
    twice.write_bytes(gzip.compress(inner))
    with pytest.raises(ValueError, match="it is compressed twice; unpack it once"):
        read(twice)
    with pytest.raises(ValueError, match="it is compressed twice: unpack it once"):
        read(tmp_path / "m.xyz.gz.gz")
    rows = "".join(XYZ.format(title=f"{i} {np.sin(i)}") for i in range(2000))
    cut = tmp_path / "cut.xyz.gz"
    cut.write_bytes(gzip.compress(rows.encode())[:-4000])
    loaded = read(cut)
    assert 500 < len(loaded.structures) < 2000
    assert loaded.skipped[-1].reason.startswith("cannot be read: Compressed file ended before")
    assert loaded.structures.name[-1] == f"{len(loaded.structures) - 1} " + str(
        np.sin(len(loaded.structures) - 1)
    )

    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.Path, "open", denied)  # root may read anything
    with pytest.raises(ValueError, match="Permission denied; check its permissions"):
        read(cut)


def test_an_sdf_is_not_held_whole(tmp_path, monkeypatch):
    (tmp_path / "m.sdf").write_text(acetate() * 50)
    seen, longest = [], 0
    from structdiff.domains.molecules.readers import sdf

    whole = sdf._record

    def counted(lines, where):
        nonlocal longest
        longest = max(longest, len(lines))
        seen.append(where)
        return whole(lines, where)

    monkeypatch.setattr(sdf, "_record", counted)
    source = iter((acetate() * 3).splitlines())
    next(sdf.read_sdf(source))
    assert seen == ["record 1"] and len(list(source)) == 2 * len(acetate().splitlines())
    monkeypatch.setattr(sdf, "_LONGEST", 10)
    with pytest.raises(ValueError, match="50 x broken SDF record"):
        read(tmp_path / "m.sdf")
    assert longest <= 19
