"""npz files, compressed files and folders that are cut, foreign or wrong."""

import bz2
import gzip
import lzma
import os
import pickle
import zipfile

import numpy as np
import pytest

from structdiff.domains.molecules import data
from structdiff.domains.molecules.data import read
from tests.bad.corpus import Case, npz, refusal, sdf, xyz

WHOLE = "it must be a whole npz with the arrays pos_1e4A, z, n_atoms"
FEW = np.zeros((2, 3), np.int32)


class Trap:
    """What unpickling would call."""

    def __reduce__(self):
        return os._exit, (99,)


def encrypted(path):
    """The first member says that a password is needed."""
    content = bytearray(npz())
    content[6] |= 1
    central = content.index(b"PK\1\2")
    content[central + 8] |= 1
    path.write_bytes(content)


def packed_oddly(path):
    """The first member says that it is packed by a method that does not exist."""
    content = bytearray(npz())
    content[8:10] = b"\x61\0"
    central = content.index(b"PK\1\2")
    content[central + 10 : central + 12] = b"\x61\0"
    path.write_bytes(content)


def header(old, new):
    """Changes the header of one array, and the checksum of the zip with it."""

    def write(path):
        plain = path.with_suffix(".plain")
        plain.write_bytes(npz())
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                assert name != "z.npy" or old in content
                if name == "z.npy":
                    content = content.replace(old, new.ljust(len(old)))
                target.writestr(name, content)
        plain.unlink()

    return write


def lone(path):
    with path.open("wb") as file:
        np.save(file, np.arange(3))


ARRAYS = [
    ("no pos_1e4A", {"pos_1e4A": None}, "keys pos_1e4A are missing"),
    ("no z and no n_atoms", {"z": None, "n_atoms": None}, "keys z, n_atoms are missing"),
    ("positions flat", {"pos_1e4A": np.zeros(18, np.int32)},
        r"position must be \(6, 3\) .*not \(18,\)"),
    ("positions in a plane", {"pos_1e4A": np.zeros((6, 2), np.int32)},
        r"position must be \(6, 3\) .*not \(6, 2\)"),
    ("positions too few", {"pos_1e4A": FEW}, r"position must be \(6, 3\) .*not \(2, 3\)"),
    ("positions of words", {"pos_1e4A": np.full((6, 3), "a")},
        "pos_1e4A must hold numbers, not <U1"),
    ("positions complex", {"pos_1e4A": np.zeros((6, 3), complex)},
        "pos_1e4A must hold numbers, not complex128"),
    ("positions objects", {"pos_1e4A": np.full((6, 3), Trap())}, "Object arrays cannot be loaded"),
    ("z too few", {"z": np.array([8, 1, 1])}, r"number \(6,\), not .*\(3,\)"),
    ("z of 119", {"z": np.array([8, 1, 1, 8, 1, 119])}, "atomic numbers 0 to 118, not 1 to 119"),
    ("z negative", {"z": np.array([8, 1, 1, 8, 1, -1])}, "atomic numbers 0 to 118, not -1 to 8"),
    ("z of fractions", {"z": np.array([8.5, 1, 1, 8, 1, 1])},
        "z must hold whole numbers, not float64"),
    ("z of words", {"z": np.array(["O", "H", "H"] * 2)}, "z must hold whole numbers, not <U1"),
    ("z one number", {"z": np.array(8)}, r"z must be \(atoms,\) .*not \(\) and \(2,\)"),
    ("z pickled", {"z": np.array([Trap()] * 6)}, "Object arrays cannot be loaded"),
    ("n_atoms too many", {"n_atoms": np.array([3, 4])},
        r"n_atoms sums to 7|count sums to 7 atoms"),
    ("n_atoms negative", {"n_atoms": np.array([7, -1])}, "positive; leave out empty molecules"),
    ("n_atoms of zero", {"n_atoms": np.array([3, 0, 3])}, "positive; leave out empty molecules"),
    ("n_atoms of fractions", {"n_atoms": np.array([3.5, 2.5])},
        "n_atoms must hold whole numbers, not float64"),
    ("n_atoms NaN", {"n_atoms": np.array([3, np.nan])},
        "n_atoms must hold whole numbers, not float64"),
    ("n_atoms one number", {"n_atoms": np.array(6)},
        r"n_atoms \(molecules,\), not \(6,\) and \(\)"),
    ("n_atoms that overflow", {"n_atoms": np.array([2**62, 2**62, 2**62, 2**62, 6])},
        "n_atoms|count"),
    ("n_atoms pickled", {"n_atoms": np.array([Trap()])}, "Object arrays cannot be loaded"),
    ("charge too short", {"charge": np.array([1, 0])},
        r"charge must be \(6,\), one per atom, not \(2,\)"),
    ("charge of 300", {"charge": np.array([300, 0, 0, 0, 0, 0])},
        "charge must hold small whole numbers"),
    ("charge of fractions", {"charge": np.full(6, 0.5)},
        "charge must hold small whole numbers, not float64"),
    ("names too few", {"name": np.array(["a"])}, "name has 1 entries for 2 molecules"),
    ("names pickled", {"name": np.array([Trap(), Trap()])}, "Object arrays cannot be loaded"),
    ("props of another height", {"props": np.zeros((3, 1)), "prop_names": np.array(["a"])},
        r"props is \(3, 1\), but there are 2 molecules and 1 prop_names"),
    ("props of another width", {"props": np.zeros((2, 2)), "prop_names": np.array(["a"])},
        "props is .2, 2., but .* 1 prop_names"),
    ("props complex", {"props": np.zeros((2, 1), complex), "prop_names": np.array(["a"])},
        "props must hold numbers, not complex128"),
    ("props of words", {"props": np.full((2, 1), "x"), "prop_names": np.array(["a"])},
        "props must hold numbers, not <U1"),
]  # fmt: skip
WRONG = [Case(name, "m.npz", npz(**changes), refused=why) for name, changes, why in ARRAYS]
NPZS = [
    *WRONG,
    Case("empty", "m.npz", b"", refused="m.npz is empty"),
    Case("no zip", "m.npz", b"no zip at all", refused=WHOLE),
    Case("zip cut", "m.npz", npz()[:-30], refused=WHOLE),
    Case("zip half", "m.npz", npz()[:200], refused=WHOLE),
    Case("a pickle", "m.npz", pickle.dumps(Trap()), refused=WHOLE),
    Case("a lone array", "m.npz", lone, refused=WHOLE),
    Case("zip encrypted", "m.npz", encrypted, refused=WHOLE),
    Case("zip of an unknown method", "m.npz", packed_oddly, refused=WHOLE),
    Case("a header cut", "m.npz", header(b"'shape': (6,), }", b"'shape': (6"), refused=WHOLE),
    Case("a header of no dict", "m.npz", header(b"'descr'", b"{{{{{{{"), refused=WHOLE),
    Case("a huge array", "m.npz", header(b"'shape': (6,), }       ", b"'shape': (10**18,), }"),
        refused=WHOLE),
    Case("an array that does not fit", "m.npz", header(b"'shape': (6,), }             ",
        b"'shape': (9999999999999,), }"), refused=WHOLE),
    Case("NaN", "m.npz", npz(pos_1e4A=np.concatenate([np.full((3, 3), np.nan), np.eye(3) * 1e4])),
        1, {"coordinates are not finite": 1}),
    Case("coincident", "m.npz", npz(pos_1e4A=np.concatenate([np.zeros((3, 3), int), np.eye(3,
        dtype=int) * 10_000])), 1, {"two atoms within 0.001 A": 1}),
    Case("unknown element", "m.npz", npz(z=np.array([0, 1, 1, 8, 1, 1])), 1,
        {"unknown element (atomic number 0)": 1}),
    Case("props without names", "m.npz", npz(props=np.zeros((2, 1))), 2),
    Case("names without props", "m.npz", npz(prop_names=np.array(["a"])), 2),
    Case("words in two columns", "m.npz", npz(note=np.array([["a", "b"], ["c", "d"]])), 2),
    Case("times", "m.npz", npz(when=np.array(["2020-01-01", "2021-01-01"], "datetime64[D]")), 2),
    Case("infinite property", "m.npz", npz(energy=np.array([np.inf, 1.0])), 2),
]  # fmt: skip


def twice(path):
    path.write_bytes(gzip.compress(lzma.compress(sdf().encode())))


def folder_of_nothing(path):
    path.mkdir()
    (path / "notes.pdf").write_bytes(b"x")


def folder_of_some(path):
    path.mkdir()
    (path / "good.sdf").write_text(sdf())
    (path / "empty.xyz").touch()
    (path / "cut.npz").write_bytes(npz()[:100])
    (path / "table.csv").write_text("a\n1\n")
    (path / "deeper.sdf").mkdir()
    (path / "deeper.sdf" / "m.xyz").write_text(xyz())
    (path / "gone.sdf").symlink_to(path / "nowhere.sdf")


MANY = "".join(xyz(f"{i} {np.sin(i)}") for i in range(300)).encode()
FILES = [
    Case("gz cut at once", "m.sdf.gz", gzip.compress(sdf().encode())[:12],
        refused="m.sdf.gz: .*copy it again"),
    Case("xz cut at once", "m.sdf.xz", lzma.compress(sdf().encode())[:20],
        refused="m.sdf.xz: .*copy it again"),
    Case("no gz", "m.sdf.gz", sdf(), 1),
    Case("gz without the suffix", "m.sdf", gzip.compress(sdf().encode()), 1),
    Case("gz of an empty file", "m.sdf.gz", gzip.compress(b""), refused="m.sdf.gz is empty"),
    Case("gz and rubbish behind", "m.sdf.gz", gzip.compress(sdf().encode()) + b"rubbish",
        refused="Not a gzipped file .*; copy it again"),
    Case("gz in xz", "m.sdf.gz", twice, refused="it is compressed twice; unpack it once"),
    Case("gz.gz", "m.sdf.gz.gz", sdf(), refused="it is compressed twice: unpack it once"),
    Case("bz2", "m.sdf.bz2", bz2.compress(sdf().encode()), refused="suffix '.bz2' is not known"),
    Case("bz2 that is called sdf", "m.sdf", bz2.compress(sdf().encode()),
        refused="nothing in .* could be used"),
    Case("gz alone", "m.gz", gzip.compress(sdf().encode()), refused="suffix '' is not known"),
    Case("no suffix", "molecules", sdf(),
        refused="suffix '' is not known; allowed are .sdf, .xyz"),
    Case("pdb", "m.pdb", sdf(), refused="suffix '.pdb' is not known"),
    Case("not there", "m.sdf", lambda _: None, refused="no such file: .*m.sdf; check the path"),
    Case("an empty folder", "set", lambda path: path.mkdir(), refused="has no file that ends in"),
    Case("an empty folder that is called sdf", "m.sdf", lambda path: path.mkdir(),
        refused="the folder .* has no file that ends in"),
    Case("a folder without molecules", "set", folder_of_nothing,
        refused="has no file that ends in"),
    Case("a new line in the name", "a\nb.sdf", b"", refused="is empty"),
    Case("other letters in the name", "mol\xe9cules \u5206\u5b50.sdf", b"",
        refused="mol\xe9cules \u5206\u5b50.sdf is empty"),
    Case("a name that is too long", "x" * 300 + ".sdf", lambda _: None,
        refused="File name too long|no such file"),
    Case("somebody without a home", "~nobody-at-all/m.sdf", lambda _: None,
        refused="no such file|home"),
]  # fmt: skip


@pytest.mark.parametrize("case", NPZS, ids=str)
def test_npz(case, tmp_path, capsys):
    case.check(tmp_path, capsys)


@pytest.mark.parametrize("case", FILES, ids=str)
def test_file(case, tmp_path, capsys):
    case.check(tmp_path, capsys)


def test_a_home_that_is_not_there_is_one_line(tmp_path, capsys):
    assert "no such file" in refusal(capsys, tmp_path, "doctor", "~nobody-at-all/m.sdf")


def test_a_file_that_breaks_off_keeps_what_was_whole(tmp_path):
    for name, pack in (("m.xyz.gz", gzip.compress), ("m.xyz.xz", lzma.compress)):
        path = tmp_path / name
        path.write_bytes(pack(MANY)[:-2000])
        loaded = read(path)
        assert 10 < len(loaded.structures) < 300
        assert loaded.skipped[-1].where.startswith("after line ")
        assert loaded.skipped[-1].reason.startswith("cannot be read: Compressed file ended")


def test_a_folder_keeps_the_good_files_and_names_the_others(tmp_path):
    folder_of_some(tmp_path / "set")
    loaded = read(tmp_path / "set")
    assert loaded.structures.name == ("water", "water")
    found = {skip.where: skip.reason for skip in loaded.skipped}
    assert set(found) == {"cut.npz", "empty.xyz", "table.csv"}
    assert "the file is empty" in found["empty.xyz"]
    assert "whole npz" in found["cut.npz"]
    assert "no column smiles" in found["table.csv"]


def test_a_file_in_a_folder_that_may_not_be_read_is_skipped(tmp_path, monkeypatch):
    folder_of_some(tmp_path / "set")
    real = data.opened

    def denied(path):
        if path.name == "m.xyz":
            raise ValueError(f"cannot read {path}: Permission denied; check its permissions")
        return real(path)

    monkeypatch.setattr(data, "opened", denied)  # root may read anything
    found = {skip.where: skip.reason for skip in read(tmp_path / "set").skipped}
    assert "the file: Permission denied" in found["deeper.sdf/m.xyz"]
