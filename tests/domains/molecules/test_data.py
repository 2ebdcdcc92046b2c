"""Reading, packing and screening of molecules."""

import subprocess
import sys

import numpy as np
import pytest

from structdiff.domains.molecules.data import Loaded, Skipped, Structures, embedded, read
from structdiff.domains.molecules.structures import pairs

WATER = ([8, 1, 1], [[0.0, 0.0, 0.0], [0.7572, 0.5865, 0.0], [-0.7572, 0.5865, 0.1]])
METHANE = (
    [6, 1, 1, 1, 1],
    0.6293 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
)

SDF = """{title}
     test           {dimension}

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    {z} {first:<3} 0  0  0  0  0  0  0  0  0  0  0  0
    0.7572    0.5865    0.0000 H   0  0  0  0  0  0  0  0  0  0  0  0
   -0.7572    0.5865    0.0000 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
$$$$
"""


def sdf(title="", dimension="3D", z="0.1000", first="O"):
    return SDF.format(title=title, dimension=dimension, z=z, first=first)


def xyz(molecule, title="m"):
    symbols = {1: "H", 6: "C", 8: "O"}
    rows = [f"{symbols[z]} {a} {b} {c}" for z, (a, b, c) in zip(*molecule, strict=True)]
    return "\n".join([str(len(rows)), title, *rows]) + "\n"


def write_npz(path, structures, **changes):
    arrays = {
        "pos_1e4A": np.rint(structures.position * 1e4).astype(np.int32),
        "z": structures.number,
        "n_atoms": structures.count,
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def reasons(loaded):
    return [skip.reason for skip in loaded.skipped]


def test_the_embedded_molecules_are_qm9():
    qm9 = embedded()
    assert len(qm9) == 2000
    assert qm9.elements == (1, 6, 7, 8, 9)
    assert len(qm9.number) == 36172
    assert qm9.name[0].startswith("gdb ")
    number, position = qm9.molecule(0)
    assert number.tolist().count(1) == 8
    assert np.linalg.norm(position[0] - position[1:], axis=1).min() == pytest.approx(1.09, abs=0.5)


def test_reading_does_not_load_matplotlib():
    code = (
        "import sys; from structdiff.domains.molecules.data import embedded; embedded();"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_packing_selecting_and_joining():
    both = Structures.from_list([WATER, METHANE], ["water", "methane"])
    assert both.offsets.tolist() == [0, 3, 8]
    assert both.owner.tolist() == [0] * 3 + [1] * 5
    turned = both.select([1, 0, 1])
    assert turned.name == ("methane", "water", "methane")
    assert turned.number.tolist() == METHANE[0] + WATER[0] + METHANE[0]
    np.testing.assert_array_equal(turned.molecule(1)[1], WATER[1])
    np.testing.assert_array_equal(turned.molecule(-1)[1], METHANE[1])
    np.testing.assert_array_equal(both.select([False, True]).position, METHANE[1])
    joined = Structures.concatenate([both, turned])
    assert len(joined) == 5
    assert [len(number) for number, _ in joined] == [3, 5, 5, 3, 5]
    assert len(both.select([])) == 0


def test_molecules_of_hydrogen_only_vanish_without_hydrogens():
    h2 = ([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    heavy = Structures.from_list([h2, WATER, METHANE], ["h2", "water", "methane"])
    heavy = heavy.without_hydrogens()
    assert heavy.number.tolist() == [8, 6]
    assert heavy.count.tolist() == [1, 1]
    assert heavy.name == ("water", "methane")


def test_precision_is_kept_and_inputs_are_not_changed():
    position = np.zeros((2, 3), dtype=np.float32)
    structures = Structures(position, np.array([6, 8]), np.array([2]))
    assert structures.position.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        structures.position[0] = 1
    position[0] = 1  # the caller's own array stays writable


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.zeros((2, 3)), [6, 6], [3]), "count sums to 3 atoms"),
        ((np.zeros((2, 3)), [6, 300], [2]), "atomic numbers 0 to 118"),
        ((np.zeros((2, 3)), [6, 6], [2, 0]), "must be .* positive"),
        ((np.zeros((2, 3)), [6, 6], [2], ("a", "b")), "2 entries for 1 molecules"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        Structures(*arguments)


@pytest.mark.parametrize("budget", [1, 7, 10**6])
def test_pairs_are_those_of_a_double_loop(budget):
    structures = embedded().select(range(20))
    expected = [
        (a, b)
        for start, end in zip(structures.offsets[:-1], structures.offsets[1:], strict=True)
        for a in range(start, end)
        for b in range(a + 1, end)
    ]
    found = [np.stack(block, 1) for block in pairs(structures, budget)]
    assert np.concatenate(found).tolist() == [list(pair) for pair in expected]


def test_sdf_records_are_read_or_skipped_with_the_reason(tmp_path):
    one = sdf("lonely", z="0.1000").replace("  3  2  0", "  1  0  0")
    one = "\n".join(line for i, line in enumerate(one.split("\n")) if i not in (5, 6, 7, 8))
    records = [
        sdf("good"),
        sdf("flat", dimension="2D", z="0.0000"),
        sdf("planar", z="0.0000"),
        sdf("odd", first="Xx"),
        sdf("cut").replace("M  END\n", "")[:150] + "\n$$$$\n",
        sdf("nan", z="   nan"),
        one,
        sdf("unclosed").replace("$$$$\n", ""),
    ]
    path = tmp_path / "m.SDF"
    path.write_text("".join(records))
    loaded = read(path)
    assert loaded.structures.name == ("good", "planar", "unclosed")
    np.testing.assert_allclose(loaded.structures.molecule(0)[1][0], [0, 0, 0.1])
    assert loaded.structures.number.tolist() == [8, 1, 1] * 3
    found = {skip.where: skip.reason for skip in loaded.skipped}
    assert found["record 2 (flat)"] == "no 3-D coordinates"
    assert found["record 4 (odd)"] == "unknown element symbol 'Xx'"
    assert found["record 5 (cut)"] == "broken SDF record"
    assert found["record 7 (lonely)"] == "one atom: no geometry"
    assert "record 6 (nan)" in found
    assert len(found) == 5


def test_xyz_blocks_are_read_or_skipped_with_the_reason(tmp_path):
    path = tmp_path / "m.xyz"
    path.write_text(
        xyz(WATER, "water")
        + "\nsome words\nmore words\n"
        + "2\nodd\nC 0 0 0\nQq 0 0 1\n"
        + "2\nqm9 writes\nC 0 0 1.5*^-6\n8 0 0 1.13\n"
        + "2\nnot a number\nC 0 0 zero\nO 0 0 1.13\n"
        + "2\nnan\nC 0 0 nan\nO 0 0 1.13\n"
        + "2\nsame\nC 0 0 1\nO 0 0 1.0005\n"
        + "1\nlonely\nC 0 0 0\n"
        + xyz(METHANE)
        + "7\ncut\nC 0 0 0\n"
    )
    loaded = read(path, max_atoms=4)
    assert loaded.structures.name == ("water", "qm9 writes")
    assert loaded.structures.position[3].tolist() == [0, 0, 1.5e-6]
    assert sorted(reasons(loaded)) == sorted([
        "expected a number of atoms",
        "unknown element symbol 'Qq'",
        "broken XYZ block: a coordinate is not a number",
        "broken XYZ block: not 7 rows of `symbol x y z`",
        "coordinates are not finite",
        "two atoms within 0.001 A",
        "one atom: no geometry",
        "more than 4 atoms",
    ])  # fmt: skip
    assert "line 7" in [skip.where for skip in loaded.skipped]


def test_npz_round_trip_and_screening(tmp_path):
    qm9 = embedded().select(range(50))
    read_back = read(write_npz(tmp_path / "m.npz", qm9)).structures
    np.testing.assert_array_equal(read_back.position, qm9.position)
    np.testing.assert_array_equal(read_back.number, qm9.number)
    number = qm9.number.copy()
    number[qm9.offsets[3]] = 0
    loaded = read(write_npz(tmp_path / "n.npz", qm9, z=number), max_atoms=19)
    assert loaded.skipped[-1] == Skipped("molecule 4", "unknown element (atomic number 0)")
    large = int((np.delete(qm9.count, 3) > 19).sum())
    assert reasons(loaded).count("more than 19 atoms") == large
    assert len(loaded.structures) == 50 - large - 1


def test_the_report_counts_by_reason():
    skipped = tuple(Skipped(f"record {i}", "broken" if i else "flat") for i in range(6))
    text = Loaded(Structures.from_list([WATER]), skipped).report()
    assert text == (
        "1 molecules read, 6 skipped\n"
        "  5 x broken: record 1, record 2, record 3, ...\n"
        "  1 x flat: record 0"
    )


def test_files_that_give_nothing_are_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "none.sdf")
    with pytest.raises(ValueError, match=r"'\.pdb' is not known; allowed are \.sdf, \.xyz and"):
        read(tmp_path / "m.pdb")
    empty = tmp_path / "empty.xyz"
    empty.touch()
    with pytest.raises(ValueError, match="is empty"):
        read(empty)
    words = tmp_path / "words.sdf"
    words.write_text("these are\nno molecules\n")
    with pytest.raises(ValueError, match="1 x broken SDF record: record 1"):
        read(words)


def test_bad_npz_is_one_clear_error(tmp_path):
    qm9 = embedded().select(range(5))
    whole = write_npz(tmp_path / "whole.npz", qm9)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-200])
    bad = {
        "cannot read .*cut": cut,
        "keys z are missing": write_npz(tmp_path / "k.npz", qm9, z=None),
        "count sums to": write_npz(tmp_path / "c.npz", qm9, n_atoms=qm9.count[:-1]),
        "allow_pickle=False": write_npz(tmp_path / "p.npz", qm9, z=qm9.number.astype(object)),
    }
    for match, path in bad.items():
        with pytest.raises(ValueError, match=match):
            read(path)


def test_five_hundred_atoms_are_read_and_one_more_is_skipped(tmp_path):
    def block(atoms):
        lines = [
            f"C {1.5 * (i % 10)} {1.5 * (i // 10 % 10)} {1.5 * (i // 100)}" for i in range(atoms)
        ]
        return "\n".join([str(atoms), f"{atoms} atoms", *lines]) + "\n"

    path = tmp_path / "large.xyz"
    path.write_text(block(500) + block(501))
    loaded = read(path)
    assert loaded.structures.count.tolist() == [500]
    assert len(loaded.skipped) == 1
    assert "500" in loaded.skipped[0].reason
