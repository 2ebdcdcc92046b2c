"""Files and pictures of molecules."""

import errno
import os

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem

from structdiff.domains.molecules.chemistry import bonds, judge
from structdiff.domains.molecules.data import Structures, embedded, read
from structdiff.domains.molecules.drawing import frame, render
from structdiff.domains.molecules.output import grid, trajectory, write
from structdiff.domains.molecules.readers import files
from structdiff.reports.charts import curves

METHANE = (
    [6, 1, 1, 1, 1],
    0.6293 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]),
)
CROWDED = ([*METHANE[0], 1], [*METHANE[1], [0, 0, 1.0]])
LOST = (METHANE[0], np.full((5, 3), np.inf))


@pytest.fixture
def mixed():
    return Structures.from_list([METHANE, LOST, CROWDED], ["methane", "lost", "crowded"])


@pytest.fixture(scope="module")
def qm9():
    return embedded().select(range(30))


@pytest.mark.parametrize("suffix", [".sdf", ".xyz", ".npz"])
def test_round_trips(tmp_path, qm9, suffix):
    path = tmp_path / f"m{suffix}"
    written = write(path, qm9, judge(qm9))
    assert (written.path, written.molecules, written.left_out) == (path, 30, ())
    loaded = read(path)
    assert loaded.skipped == ()
    assert loaded.structures.name == qm9.name
    np.testing.assert_array_equal(loaded.structures.number, qm9.number)
    np.testing.assert_array_equal(loaded.structures.count, qm9.count)
    np.testing.assert_allclose(loaded.structures.position, qm9.position, atol=5.1e-5)


@pytest.mark.parametrize("suffix", [".sdf", ".npz"])
def test_charges_and_properties_round_trip(tmp_path, qm9, suffix):
    some = qm9.select(range(4))
    charge = np.arange(len(some.number)) % 3 - 1
    known = {
        "energy": np.array([-76.123456789012, np.nan, 1e-30, 3.0]),
        "two words": np.array(["a", "", "b c", "a"]),
        "vector": np.array([[1.0, 2.0], [np.nan, 1 / 3], [np.nan, np.nan], [0.0, -1e9]]),
    }
    full = Structures(some.position, some.number, some.count, some.name, charge, known)
    write(tmp_path / f"m{suffix}", full, judge(full))
    back = read(tmp_path / f"m{suffix}").structures
    np.testing.assert_array_equal(back.charge, charge)
    assert list(back.properties) == list(known)
    for name, column in known.items():
        np.testing.assert_array_equal(back.properties[name], column)


def test_a_property_cannot_pose_as_a_verdict(tmp_path, qm9):
    one = qm9.select([0]).with_properties({
        "VALID": np.array(["no"]), "a<b>\nc": np.array(["x\n\n$$$$\ny"])
    })  # fmt: skip
    write(tmp_path / "m.sdf", one, judge(one))
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "m.sdf"), removeHs=False)
    assert mol.GetProp("VALID") == "True"
    back = read(tmp_path / "m.sdf").structures
    assert {n: v.tolist() for n, v in back.properties.items()} == {"a(b) c": ["x $$$$ y"]}


def test_sdf_has_bonds_and_reasons(tmp_path, mixed):
    written = write(tmp_path / "m.sdf", mixed, judge(mixed))
    assert written.left_out == (1,)
    assert written.report().endswith("m.sdf, 1 left out (coordinates not finite)")
    supplier = Chem.SDMolSupplier(str(tmp_path / "m.sdf"), sanitize=False, removeHs=False)
    methane, crowded = list(supplier)
    assert methane.GetProp("_Name") == "methane"
    assert methane.GetNumBonds() == 4 and crowded.GetNumBonds() == 5
    assert methane.GetProp("VALID") == "True" and not methane.HasProp("REASONS")
    assert crowded.GetProp("VALID") == "False"
    assert crowded.GetProp("REASONS").startswith("atom 0 (C) has valence 5, allowed 4; RDKit:")


def test_bond_orders_are_those_inferred(tmp_path, qm9):
    write(tmp_path / "m.sdf", qm9, judge(qm9))
    supplier = Chem.SDMolSupplier(str(tmp_path / "m.sdf"), sanitize=False, removeHs=False)
    for mol, local in zip(supplier, bonds(qm9).split(qm9), strict=True):
        found = sorted(
            (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), b.GetBondTypeAsDouble())
            for b in mol.GetBonds()
        )
        expected = sorted(zip(*local.pair.tolist(), local.order.tolist(), strict=True))
        assert found == expected


def test_smi_holds_the_valid_ones(tmp_path, mixed):
    written = write(tmp_path / "m.smi", mixed, judge(mixed))
    assert (tmp_path / "m.smi").read_text() == "C\tmethane\n"
    assert written.left_out == (1, 2)
    assert "2 left out (no SMILES)" in written.report()


def test_even_a_ball_of_atoms_is_written(tmp_path):
    ball = np.random.default_rng(0).normal(size=(200, 3)) / 3
    structures = Structures.from_list([([6] * 200, ball)])
    write(tmp_path / "m.sdf", structures, judge(structures))
    np.testing.assert_allclose(read(tmp_path / "m.sdf").structures.position, ball, atol=5.1e-5)
    (mol,) = Chem.SDMolSupplier(str(tmp_path / "m.sdf"), sanitize=False)
    assert mol.GetNumBonds() == 0  # 19,900 bonds would mean nothing
    grid(structures, judge(structures), tmp_path / "m.png")


def test_names_cannot_break_a_file(tmp_path):
    named = Structures.from_list([METHANE, METHANE], ["two\nlines", "$$$$"])
    write(tmp_path / "m.xyz", named, judge(named))
    assert read(tmp_path / "m.xyz").structures.name == ("two lines", "$$$$")


def test_existing_files_are_kept_unless_asked(tmp_path, mixed):
    path = tmp_path / "m.xyz"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists; choose another name, or allow --overwrite"):
        write(path, mixed, judge(mixed))
    with pytest.raises(ValueError, match="exists"):
        grid(mixed, judge(mixed), path)
    assert path.read_text() == "mine"
    write(path, mixed, judge(mixed), overwrite=True)
    assert path.read_text().startswith("5\nmethane\nC 0.000000")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, mixed, monkeypatch):
    path = tmp_path / "m.sdf"
    path.write_text("mine")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ValueError, match="cannot write .*m.sdf: No space left on device; free"):
        write(path, mixed, judge(mixed), overwrite=True)
    with pytest.raises(ValueError, match="No space left"):
        write(tmp_path / "new.npz", mixed, judge(mixed))
    with pytest.raises(ValueError, match="No space left"):
        grid(mixed, judge(mixed), tmp_path / "new.png")
    assert os.listdir(tmp_path) == ["m.sdf"]
    assert path.read_text() == "mine"


def test_a_read_only_folder_is_one_clear_error(tmp_path, mixed, monkeypatch):
    def denied(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.Path, "open", denied)  # root may write anywhere
    with pytest.raises(ValueError, match="Permission denied; .* folder that may be written"):
        write(tmp_path / "m.sdf", mixed, judge(mixed))


def test_bad_arguments_are_refused(tmp_path, mixed):
    with pytest.raises(ValueError, match=r"'\.pdb' is not known; allowed are \.sdf, \.xyz, \.smi"):
        write(tmp_path / "m.pdb", mixed, judge(mixed))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        write(tmp_path / "none" / "m.sdf", mixed, judge(mixed))
    with pytest.raises(ValueError, match="2 entries for 3 molecules"):
        write(tmp_path / "m.sdf", mixed, judge(mixed)[:2])
    with pytest.raises(ValueError, match="cannot draw 0 molecules"):
        grid(mixed.select([]), [], tmp_path / "m.png")
    with pytest.raises(ValueError, match="must match"):
        trajectory([mixed], [1.0, 0.0], tmp_path / "m.png")
    with pytest.raises(ValueError, match="their sizes differ"):
        trajectory([mixed.select([2, 0]), mixed], [1.0, 0.0], tmp_path / "m.png")


def test_the_nearer_atom_hides_the_other():
    pair = Structures.from_list([([8, 7], [[0, 0, 1.0], [0, 0, -1.0]])])
    view = frame(np.array([[3.0, 0, 0], [-3, 0, 0], [0, 2, 0], [0, -2, 0]]))
    number, position = pair.molecule(0)
    local = next(bonds(pair).split(pair))
    straight = type(view)(np.zeros(3), np.eye(3), view.reach)
    front = render(number, position, local, straight, pixels=80)
    back = render(number, -position, local, straight, pixels=80)
    red, blue = front[30, 40], back[30, 40]
    assert red[3] == blue[3] == 1
    assert red[0] > red[2] + 0.2  # oxygen in front
    assert blue[2] > blue[0] + 0.2  # nitrogen in front
    assert front[2, 2, 3] == 0  # nothing in the corner


def test_the_view_is_wide_and_does_not_depend_on_the_place():
    long = np.array([[0.0, 0, 0], [0, 0, 4], [1, 0, 2]])
    view = frame(long)
    seen = (long - view.centre) @ view.axes.T
    assert np.ptp(seen[:, 0]) > 3.5 > 1.5 > np.ptp(seen[:, 1])
    np.testing.assert_allclose(view.axes @ view.axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view.axes) == pytest.approx(1)
    assert frame(long + 7).reach == pytest.approx(view.reach)


def test_grid_draws_every_molecule(tmp_path, mixed):
    five = Structures.concatenate([mixed, mixed.select([0, 2])])
    path = grid(five, judge(five), tmp_path / "m.png", columns=3)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    dark = (pixels.max(-1) < 120) & (np.ptp(pixels, axis=-1) < 30)  # carbon
    halves = np.array_split(dark, 2)
    cells = [[cell.sum() > 100 for cell in np.array_split(h, 3, axis=1)] for h in halves]
    assert cells == [[True, False, True], [True, True, False]]


def test_grid_leaves_no_empty_box(tmp_path, mixed):
    """Of five molecules in three columns the sixth place is white, the fifth has a box."""
    five = Structures.concatenate([mixed, mixed.select([0, 2])])
    with Image.open(grid(five, judge(five), tmp_path / "m.png", columns=3)) as image:
        below = np.array_split(np.asarray(image.convert("RGB")), 2)[1]
    last = below[20:-20, -below.shape[1] // 3 + 20 : -20]
    assert (last == 255).all()
    fifth = below[:, below.shape[1] // 3 : 2 * below.shape[1] // 3]
    assert not (fifth[fifth.shape[0] // 2] == 255).all()


def test_a_training_of_one_logged_line_is_seen(tmp_path):
    """One point has no line: it has a marker, in the colour of its line."""
    lines = [{"step": 50, "loss": 0.7, "seconds": 1.0}]
    assert curves(lines, tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    middle = pixels[:, pixels.shape[1] // 4 : 3 * pixels.shape[1] // 4]
    assert (np.abs(middle.astype(int) - [0x3A, 0x63, 0xD8]).sum(-1) < 30).sum() > 10


def test_trajectory_draws_each_time(tmp_path, mixed):
    last = mixed.select([0])
    noise = Structures(last.position * 1.5, np.full(5, 8, dtype=np.uint8), last.count)
    path = trajectory([noise, last], [1.0, 0.0], tmp_path / "m.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 2]) > 80
    left, right = np.array_split(red, 2, axis=1)
    assert left.sum() > 500 and right.sum() == 0
