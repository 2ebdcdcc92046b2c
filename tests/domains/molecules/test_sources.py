"""Named data sets: where they are looked for, how they are made, and what is said otherwise."""

import csv
import io
import os
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.readers import sources
from structdiff.domains.molecules.readers.qm9 import COLUMNS, TABLES
from structdiff.domains.molecules.readers.sources import locate, qm9, qm9_split

QM9 = Path(__file__).parents[3].parent / "shared" / "data" / "qm9"
ROWS = {  # two per table: in the file the indices of the parts are mixed
    "qm9_part1.csv": [
        (1, "CH", "[[-0.0126981359,1.0858041578,0.],[0.002150416,-0.0060313176,2.]]")
    ],
    "qm9_part2.csv": [(7, "OHH", "[[0,0,0],[0.76,0.59,0],[-0.76,0.59,1.5*^-3]]")],
    "qm9_part3.csv": [(3, "NN", "[[0,0,0],[0,0,1.1]]")],
}


def table(rows):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Index", "Elements", "XYZ_Ang", *COLUMNS])
    for index, symbols, place in rows:
        values = [f"{index}.{k:02d}" for k in range(len(COLUMNS))]
        elements = "[" + ",".join(f"'{symbol}'" for symbol in symbols) + "]"
        writer.writerow([index, elements, place, *values])
    return text.getvalue()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for the wheel, whose hash is the expected one."""
    path = tmp_path / "net" / "files" / sources.WHEEL
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in TABLES:
            archive.writestr(f"qm9pack/data/{name}", table(ROWS[name]))
    monkeypatch.setattr(sources, "SHA256", sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No net, no data folder, no installed qm9pack, an empty cache."""
    for name in ("STRUCTDIFF_DATA", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STRUCTDIFF_PYPI", (tmp_path / "net").as_uri())
    monkeypatch.setattr(sources, "_installed", lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def index_page(wheel, text=None):
    page = wheel.parents[1] / "qm9pack" / "index.html"
    page.parent.mkdir()
    link = f'<a href="../files/{wheel.name}#sha256=00">x</a>'
    page.write_text(
        f'<a href="../files/qm9pack-1.0.2.tar.gz">old</a> {link if text is None else text}'
    )


def check(loaded):
    assert loaded.skipped == ()
    assert loaded.structures.name == ("gdb 1", "gdb 3", "gdb 7")  # sorted by index
    assert loaded.structures.number.tolist() == [6, 1, 7, 7, 8, 1, 1]
    assert loaded.structures.position[0].tolist() == [-0.0127, 1.0858, 0.0]
    assert loaded.structures.position[-1].tolist() == [-0.76, 0.59, 0.0015]
    np.testing.assert_allclose(loaded.structures.properties["mu"], [1.0, 3.0, 7.0])
    np.testing.assert_allclose(loaded.structures.properties["alpha"], [1.01, 3.01, 7.01])
    assert loaded.units["alpha"] == "bohr^3" and loaded.units["U0"] == "Ha"


def test_qm9_is_fetched_once(wheel, nowhere):
    index_page(wheel)
    check(read("qm9"))
    assert [path.name for path in (nowhere / "cache" / "qm9").iterdir()] == ["qm9_3d.npz"]
    wheel.unlink()
    check(read("qm9"))


def test_the_data_folder_comes_first(wheel, nowhere, monkeypatch):
    index_page(wheel)
    made = qm9()
    folder = nowhere / "data" / "qm9"
    folder.mkdir(parents=True)
    monkeypatch.setenv("STRUCTDIFF_DATA", str(folder.parent))
    assert qm9() == made
    for place in (folder.parent / "qm9_3d.npz", folder / "qm9_3d.npz"):
        place.touch()
        assert locate("qm9") == place


def test_a_wheel_in_the_data_folder_needs_no_net(wheel, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_DATA", str(wheel.parent))
    check(read("qm9"))


def test_an_installed_qm9pack_is_read_and_not_imported(nowhere, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(nowhere / "cache"))
    monkeypatch.setenv("STRUCTDIFF_PYPI", (nowhere / "none").as_uri())
    package = nowhere / "site" / "qm9pack"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    for name in TABLES:
        (package / "data" / name).write_text(table(ROWS[name]))
    monkeypatch.syspath_prepend(str(package.parent))
    check(read(qm9()))
    assert "qm9pack" not in sys.modules


def test_what_is_there_goes_before_a_name(nowhere):
    (nowhere / "qm9").mkdir()
    assert locate("qm9") == Path("qm9")
    assert locate("m.sdf") == Path("m.sdf")


def test_offline_the_error_says_what_to_do(nowhere, wheel):
    with pytest.raises(FileNotFoundError, match="pip download qm9pack==1.0.3 --no-deps") as error:
        read("qm9")
    assert "set STRUCTDIFF_DATA" in str(error.value)
    assert list((nowhere / "cache" / "qm9").iterdir()) == []
    index_page(wheel, text="nothing here")
    with pytest.raises(FileNotFoundError, match="is not on that page"):
        qm9()


def test_a_wheel_with_another_hash_is_refused(nowhere, wheel, monkeypatch):
    index_page(wheel)
    monkeypatch.setattr(sources, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="it is damaged or not what it says"):
        qm9()
    assert list((nowhere / "cache" / "qm9").iterdir()) == []
    monkeypatch.setenv("STRUCTDIFF_DATA", str(wheel.parent))
    with pytest.raises(ValueError, match="it is damaged or not what it says"):
        qm9()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("qm9_part2.csv", "Index,Elements\n7,['O']\n", "molecule 2 .*'XYZ_Ang'"),
        ("qm9_part2.csv", table([(7, "OHH", "[[0,0,0]]")]), "molecule 2 .*cannot reshape"),
        ("qm9_part3.csv", table([(3, ["Qq"], "[[0,0,0]]")]), "molecule 3 .*'Qq'"),
    ],
)
def test_broken_tables_are_one_clear_error(nowhere, wheel, monkeypatch, name, content, match):
    with zipfile.ZipFile(wheel, "w") as archive:
        for other in TABLES:
            text = content if other == name else table(ROWS[other])
            archive.writestr(f"qm9pack/data/{other}", text)
    monkeypatch.setattr(sources, "SHA256", sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setenv("STRUCTDIFF_DATA", str(wheel.parent))
    with pytest.raises(ValueError, match=match):
        qm9()
    assert list((nowhere / "cache" / "qm9").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_clear_error(nowhere, monkeypatch):
    (nowhere / "file").touch()
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(nowhere / "file"))
    with pytest.raises(ValueError, match="set STRUCTDIFF_CACHE to a folder"):
        qm9()


def test_the_split_is_that_of_edm():
    split = qm9_split()
    assert [len(part) for part in split] == [100_000, 17_748, 13_083]
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(130_831))
    if not (QM9 / "edm_split.npz").is_file():
        pytest.skip(f"EDM's split is not at {QM9}")
    with np.load(QM9 / "edm_split.npz") as edm:
        np.testing.assert_array_equal(split.train, edm["train"])
        np.testing.assert_array_equal(split.validation, edm["valid"])
        np.testing.assert_array_equal(split.test, edm["test"])


def test_the_real_wheel_gives_the_molecules_of_the_shared_file(nowhere, monkeypatch):
    folder = os.environ.get("QM9PACK_FOLDER", "")
    if not (Path(folder) / sources.WHEEL).is_file() or not (QM9 / "qm9_3d.npz").is_file():
        pytest.skip("QM9PACK_FOLDER does not hold the wheel, or QM9 is not in the shared folder")
    monkeypatch.setenv("STRUCTDIFF_DATA", folder)
    with np.load(QM9 / "qm9_3d.npz") as expected, np.load(qm9()) as made:
        for key in ("pos_1e4A", "z", "n_atoms", "gdb_index"):
            np.testing.assert_array_equal(made[key], expected[key])
        np.testing.assert_array_equal(made["props"][:, :9].astype("f4"), expected["props"])
