"""Tables and arrays: read, split, left out, and the data sets of geomstats."""

import builtins
import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from structdiff.domains.manifolds import defaults
from structdiff.domains.manifolds.data import DataConfig, open_source, read, read_points
from structdiff.domains.manifolds.defaults import electromyography
from structdiff.domains.manifolds.readers.tables import TextTable
from structdiff.domains.manifolds.split import by_groups, by_rows

RANDOM = np.random.default_rng(2)
EARTH = np.round(
    np.stack([RANDOM.uniform(-90, 90, 40), RANDOM.uniform(-180, 180, 40)], 1), 3
).tolist()
ROWS = "".join(f"{a},{b}\n" for a, b in EARTH)
TORSIONS = np.round(RANDOM.uniform(-180, 180, (30, 3)), 6)


def _write(folder, text, name="some.csv"):
    path = Path(folder) / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _all(data):
    """The rows of all parts in the order of the file, as they are written."""
    parts = [part for part in (data.train, data.validation, data.test) if len(part)]
    tables = [data.codec.decode(part.batch()) for part in parts]
    values = [np.stack([*table.columns.values()], 1) for table in tables]
    order = np.argsort(np.concatenate([part.rows for part in parts]))
    return np.concatenate(values)[order]


FORMS = {
    "names after a comment": ("# https://somewhere\nLatitude,Longitude\n" + ROWS, 3),
    "three comments": ("# a, b\r\n# c\r\n# d\r\nLAT,LON\r\n" + ROWS.replace("\n", "\r\n"), 5),
    "a comment": ("# https://somewhere/some-thing\n" + ROWS, 2),
    "nothing above": (ROWS, 1),
    "a byte-order mark": ("\ufefflat,lon\n" + ROWS, 2),
    "words above": ("An export of 2020,\nall rights reserved\n\nlat,lon\n" + ROWS, 5),
    "names in the comment": ("# lat, lon\n" + ROWS, 2),
    "semicolons": ("lat;lon\n" + ROWS.replace(",", ";"), 2),
    "tabs": ("lat\tlon\n" + ROWS.replace(",", "\t"), 2),
    "blanks": ("lat lon\n" + ROWS.replace(",", "   "), 2),
    "blanks before commas": ("lat , lon\n" + ROWS.replace(",", " , "), 2),
    "quotes": ('"lat","lon"\n' + "".join(f'"{a}","{b}"\n' for a, b in EARTH), 2),
    "blank lines and comments": ("lat,lon\n" + ROWS.replace("\n", "\n\n# no\n"), 2),
    "no end of line": (ROWS.rstrip("\n"), 1),
}


@pytest.mark.parametrize(("text", "line"), FORMS.values(), ids=FORMS)
def test_the_same_rows_in_many_forms(tmp_path, text, line):
    path = _write(tmp_path, text)
    data = read(path, columns="1,2:sphere", skip_bad=0)
    np.testing.assert_allclose(_all(data), EARTH, atol=1e-9)
    assert min(part.rows.min() for part in (data.train, data.validation, data.test)) == line
    if text != FORMS["words above"][0]:
        guessed = read(path)
        assert guessed.train.identity() == data.train.identity()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_packed_tables(tmp_path, pack):
    path = _write(tmp_path, pack(FORMS["tabs"][0].encode()), "some.tsv.packed")
    np.testing.assert_allclose(_all(read(path)), EARTH, atol=1e-9)


def test_columns_between_others(tmp_path):
    lines = [f'402d,"G, {i}",{a},{b},{c},x\n' for i, (a, b, c) in enumerate(TORSIONS.tolist())]
    path = _write(tmp_path, "".join(lines))
    data = read(path, columns="3..5:torus")
    np.testing.assert_allclose(_all(data), TORSIONS, atol=1e-9)
    assert data.codec.leaves[0].columns == ("3", "4", "5")
    assert data.codec.specs == {"torus": "torus:3"}
    guessed = read(path)
    assert guessed.codec.leaves == data.codec.leaves


def test_blocks_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("structdiff.domains.manifolds.readers.tables._BLOCK", 7)
    path = _write(tmp_path, FORMS["blank lines and comments"][0])
    np.testing.assert_allclose(_all(read(path)), EARTH, atol=1e-9)
    table = TextTable(path).read(["lon"], ["lat"])
    assert table.columns["lat"].tolist() == [str(a) for a, _ in EARTH]
    assert table.number.tolist() == list(range(2, 2 + 3 * 40, 3))


def test_two_columns_of_one_name_go_by_number(tmp_path):
    path = _write(tmp_path, "lat,lat,lon\n1,2,3\n4,5,6\n")
    table = TextTable(path).read(["2", "lon"])
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "2": [2, 5],
        "lon": [3, 6],
    }


def test_leaves_side_by_side(tmp_path):
    lines = "".join(f"{a},{b},{i * i}\n" for i, (a, b) in enumerate(EARTH))
    path = _write(tmp_path, f"lat,lon,depth\n{lines}")
    data = read(path, columns="place=lat,lon:sphere; depth:euclidean")
    batch = data.train.collate([2, 0, 1])
    assert batch.ids.tolist() == [2, 0, 1]
    assert {n: tuple(x.shape) for n, x in batch.leaves.items()} == {
        "place": (3, 3),
        "euclidean": (3, 1),
    }
    assert batch["place"].dtype == torch.float32
    assert {layout.counts for layout in batch.layouts.values()} == {(1, 1, 1)}
    rows = data.train.rows[[2, 0, 1]] - 2
    table = data.codec.decode(data.train.collate([2, 0, 1], torch.float64))
    np.testing.assert_allclose(table.columns["depth"], rows**2)
    np.testing.assert_allclose(table.columns["lat"], [EARTH[row][0] for row in rows])


def test_arrays_of_an_npz(tmp_path):
    cov = np.stack([np.diag([i + 1.0, 2.0, 3.0]) for i in range(20)])
    label, group = np.arange(20), np.arange(20) // 4
    path = tmp_path / "some.npz"
    np.savez(path, cov=cov.astype(np.float32), label=label, group=group, name=np.array("x"))
    data = read(path, split_by="group")
    assert data.codec.specs == {"spd": "spd:3"}
    back = np.concatenate(
        [data.codec.decode(p.batch()).columns["cov"] for p in (data.train, data.validation)]
    )
    places = np.concatenate([data.train.rows, data.validation.rows])
    np.testing.assert_allclose(back, cov[places], rtol=1e-12, atol=1e-12)
    two = read(path, columns="cov:log-euclidean label:euclidean")
    assert two.codec.specs == {"spd": "log-euclidean:3", "euclidean": "euclidean:1"}


@pytest.mark.parametrize("rows", [10, 19, 827, 6120, 12809])
@pytest.mark.parametrize("seed", [0, 3])
def test_rows_are_split_as_torch_splits_them(rows, seed):
    held = rows // 10
    sizes = [rows - 2 * held, held, held]
    expected = random_split(range(rows), sizes, torch.Generator().manual_seed(seed))
    split = by_rows(rows, 0.1, 0.1, seed)
    assert [part.tolist() for part in split] == [list(part.indices) for part in expected]


def test_shares_are_rounded_down_at_every_size():
    for rows in range(200):
        for tenths in range(5):
            parts = by_rows(rows, tenths / 10, 0.1, 0)
            assert [len(p) for p in parts[1:]] == [rows * tenths // 10, rows // 10]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [[50] * 4, [1] * 30, [90, 3, 3, 3, 1], [1000, *range(1, 60)]])
def test_groups_are_not_torn(sizes, seed):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    RANDOM.shuffle(groups)
    parts = by_groups(groups, 0.1, 0.2, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    inside = [set(groups[part]) for part in parts]
    assert all(inside)
    assert sum(map(len, inside)) == len(sizes)
    for part, share in zip(parts[1:], (0.1, 0.2), strict=True):
        assert len(part) <= max(share * len(groups), sorted(sizes)[1])


def test_groups_differ_by_seed_and_fill_their_share():
    groups = np.repeat(np.arange(200), 5)
    first, again, other = (by_groups(groups, 0.1, 0.1, seed) for seed in (0, 0, 1))
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()
    assert len(first.test) == len(first.validation) == 100


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="has 2 groups, too few for 3 parts.*data.test to 0"):
        by_groups(np.array(["a", "b", "b"]), 0.1, 0.1, 0)
    assert [len(part) for part in by_groups(np.array(["a", "b", "b"]), 0.4, 0, 0)] == [2, 1, 0]


def test_groups_of_a_file(tmp_path):
    lines = "".join(f"{a},{b},p{i % 8}\n" for i, (a, b) in enumerate(EARTH))
    path = _write(tmp_path, f"lat,lon,pdb\n{lines}")
    data = read(path, split_by="PDB", split_seed=3)
    groups = [{int(row - 2) % 8 for row in p.rows} for p in (data.train, data.validation)]
    assert not groups[0] & groups[1]
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    with pytest.raises(ValueError, match="split_by is 'lat', a column of a leaf"):
        read(path, split_by="lat")
    with pytest.raises(ValueError, match="no column 'chain', it has: lat, lon, pdb"):
        read(path, split_by="chain")


def test_files_of_their_own(tmp_path):
    path = _write(tmp_path, "lat,lon\n" + ROWS)
    test = _write(tmp_path, "lon,lat,x\n" + "".join(f"{b},{a},0\n" for a, b in EARTH[:7]), "t.csv")
    data = read(path, test_path=test)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 7)
    table = data.codec.decode(data.test.batch())
    np.testing.assert_allclose(table.columns["lat"], [a for a, _ in EARTH[:7]])
    data = read(path, test_path=test, validation_path=test)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 7, 7)


def test_parts_may_be_empty_but_not_that_for_training(tmp_path):
    path = _write(tmp_path, "lat,lon\n1,2\n3,4\n")
    data = read(path)
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 0, 0)
    assert "no row is for validation" in data.report
    with pytest.raises(ValueError, match="has 2 rows, none is left to train on"):
        read(path, validation=0.5, test=0.5)


BROKEN = "lat,lon\n" + ROWS + "{}\n" + ROWS * 5
BAD = [
    ("123,4", "a latitude beyond the poles (90 degrees)", "lat = 123"),
    ("12,450", "a longitude beyond a full turn (360 degrees)", "lon = 450"),
    ("NA,4", "a cell is missing or no number", "lat = 'NA'"),
    ("12,", "a cell is missing or no number", "lon = ''"),
    ("nan,4", "a cell is missing or no number", "lat = 'nan'"),
    ("12,north", "a cell is missing or no number", "lon = 'north'"),
    ("12,1e400", "a number is missing, infinite or beyond 1e100", "lat, lon = 12, inf"),
    ("12", "not 2 cells as in other rows", "1 cell"),
    ("12,13,14", "not 2 cells as in other rows", "3 cells"),
    ('"12,13', "not 2 cells as in other rows", "1 cell"),
]


@pytest.mark.parametrize(("row", "reason", "first"), BAD)
def test_few_bad_rows_are_left_out_and_told(tmp_path, row, reason, first):
    path = _write(tmp_path, BROKEN.format(row))
    data = read(path)
    np.testing.assert_allclose(_all(data), EARTH * 6, atol=1e-9)
    assert f"1 of 241 rows left out: 1 x {reason} (first line 42: {first})" in data.report


@pytest.mark.parametrize(("row", "reason", "first"), BAD)
def test_bad_rows_beyond_the_share_are_refused(tmp_path, row, reason, first):
    path = _write(tmp_path, BROKEN.format(row))
    with pytest.raises(ValueError) as caught:
        read(path, skip_bad=0.004)
    said = str(caught.value)
    assert said.startswith(f"{path}, line 42: {reason}: {first}; ")
    assert said.endswith(
        "(1 of 241 rows are no points, more than the share 0.004 of data.skip_bad)"
    )


def test_reasons_are_counted(tmp_path):
    path = _write(tmp_path, "lat,lon\n" + ROWS * 9 + "95,1\n99,1\nx,1\n1\n")
    report = read(path, skip_bad=0.02).report
    assert "4 of 364 rows left out: 2 x a latitude" in report
    assert "1 x not 2 cells as in other rows (first line 365: 1 cell)" in report


def test_decimal_commas_are_named(tmp_path):
    path = _write(tmp_path, "lat;lon\n1,5;2,5\n3,5;4,5\n")
    with pytest.raises(ValueError, match="has no number in its first"):
        read(path)
    path = _write(tmp_path, "lat;lon\n1;2\n3,5;4,5\n")
    with pytest.raises(ValueError, match="lat = '3,5'; write decimal points, not commas"):
        read(path, columns="lat,lon:sphere")


def test_swapped_columns_are_named(tmp_path):
    path = _write(tmp_path, "a,b\n" + "".join(f"{b},{a}\n" for a, b in EARTH))
    with pytest.raises(ValueError, match="latitude comes first: if they are swapped, swap"):
        read(path, columns="a,b:sphere")


def test_a_model_reads_its_own_columns(tmp_path):
    path = _write(tmp_path, "lat,lon\n" + ROWS)
    codec = read(path).codec
    other = _write(tmp_path, "x,LON,lat\n" + "".join(f"0,{b},{a}\n" for a, b in EARTH), "o.csv")
    with pytest.raises(ValueError, match=r"o.csv has no column 'lon', it has: x, LON, lat"):
        read_points(other, codec)
    points = read_points(other, codec, columns="lat,LON:sphere")
    assert points.rows.tolist() == list(range(2, 42))
    table = codec.decode(points.batch())
    np.testing.assert_allclose(np.stack([*table.columns.values()], 1), EARTH)
    for asked in ("lat,lon:torus", "place=lat,lon:sphere", "lat,lon:sphere x:euclidean"):
        with pytest.raises(ValueError, match=r"the model has the leaves sphere \(sphere of 2 col"):
            read_points(other, codec, columns=asked)


def test_matrices_of_a_model_may_be_spread_over_columns(tmp_path):
    cov = np.stack([np.array([[i + 2.0, 1], [1, 1]]) for i in range(30)])
    path = tmp_path / "some.npz"
    np.savez(path, cov=cov)
    codec = read(path).codec
    flat = codec.decode(read_points(path, codec).batch()).flat()
    names = ",".join(flat)
    assert names == "cov_1_1,cov_1_2,cov_2_1,cov_2_2"
    lines = "\n".join(",".join(map(repr, row)) for row in zip(*flat.values(), strict=True))
    table = _write(tmp_path, f"{names}\n{lines}\n")
    again = read_points(table, codec)
    torch.testing.assert_close(again.leaves["spd"], read_points(path, codec).leaves["spd"])


def test_identities_tell_samples_apart(tmp_path):
    path = _write(tmp_path, "lat,lon\n" + ROWS)
    data = read(path)
    same, seed = read(path), read(path, split_seed=1)
    assert data.train.identity() == same.train.identity() != seed.train.identity()
    assert data.train.identity()["leaves"] == {"sphere": [3]}
    other = read(_write(tmp_path, "lat,lon\n" + ROWS.replace(str(EARTH[0][0]), "8.5", 1)))
    assert other.train.identity() != data.train.identity()
    some = data.train.subset([3, 1])
    assert some.rows.tolist() == data.train.rows[[3, 1]].tolist()


def test_the_settings_are_the_arguments():
    config = DataConfig(path="cities", validation=0.2)
    data = read(**config.model_dump())
    assert (len(data.train), len(data.validation), len(data.test)) == (35, 10, 5)
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        DataConfig(validation=0.5, test=0.5)


def test_cities_are_where_they_are():
    data = read("cities")
    assert "50" in data.report or len(data.train) == 40
    whole = {round(x, 4) for p in (data.train, data.validation, data.test)
             for x in data.codec.decode(p.batch()).columns["lat"].tolist()}  # fmt: skip
    assert {35.685, 40.6943, -23.5587} <= whole  # Tokyo, New York, Sao Paulo


def _recording(folder, monkeypatch, signal, sign, session):
    path = _write(folder, " time,c0,c1,c2,label,exp\n", "emg.csv")
    with path.open("a") as file:
        for i, row in enumerate(signal):
            file.write(f"{i},{','.join(map(str, row))},{sign[i]},{session[i]}\n")
    monkeypatch.setattr(defaults, "_file", lambda *_: path)


def test_windows_are_covariances_within_a_sign_of_a_session(tmp_path, monkeypatch):
    signal = RANDOM.integers(0, 255, (1250, 3))
    sign = ["rest"] * 450 + ["ok"] * 450 + ["ok"] * 350
    session = ["a"] * 900 + ["b"] * 350
    _recording(tmp_path, monkeypatch, signal, sign, session)
    table = electromyography(3).read([])
    starts = [0, 200, 450, 650, 900]
    assert table.columns["sign"].tolist() == ["rest", "rest", "ok", "ok", "ok"]
    assert table.columns["session"].tolist() == ["a"] * 4 + ["b"]
    for cov, start in zip(table.columns["cov"], starts, strict=True):
        np.testing.assert_allclose(cov, np.cov(signal[start : start + 200].T), rtol=1e-12)


def test_geomstats_missing_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"geomstats is not installed.*structdiff\[manifolds\]"):
        open_source(None)


def test_reading_files_of_geomstats_does_not_import_it(monkeypatch):
    load = builtins.__import__

    def guarded(name, *rest):
        assert not name.startswith("geomstats")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", guarded)
    assert len(read("cities").train) == 40


STORE = Path(os.environ.get("STRUCTDIFF_DATA", "nowhere"))
BENCHMARKS = [
    ("earth/volerup.csv", {}, 827, "sphere:2"),
    ("earth/quakes_all.csv", {}, 6120, "sphere:2"),
    ("earth/flood.csv", {}, 4875, "sphere:2"),
    ("earth/fire.csv", {}, 12809, "sphere:2"),
    ("torus_rna/rna.tsv", {}, 9478, "torus:7"),
    ("torus_protein/phi_psi_deg.npz", {"columns": "General:torus"}, 59203, "torus:2"),
    (
        "torus_protein/phi_psi_deg.npz",
        {"columns": "Proline:torus", "split_by": "Proline_chain"},
        2961,
        "torus:2",
    ),
    ("spd_emg/emg_cov8.npz", {"split_by": "experiment"}, 3600, "spd:8"),
]


@pytest.mark.skipif(not STORE.is_dir(), reason="needs $STRUCTDIFF_DATA")
@pytest.mark.parametrize(("file", "settings", "rows", "space"), BENCHMARKS)
def test_benchmarks(file, settings, rows, space):
    data = read(STORE / file, skip_bad=0, **settings)
    assert len(data.train) + len(data.validation) + len(data.test) == rows
    assert [*data.codec.specs.values()] == [space]
    if "split_by" not in settings:
        assert len(data.validation) == len(data.test) == rows // 10


@pytest.mark.skipif(not STORE.is_dir(), reason="needs $STRUCTDIFF_DATA")
def test_covariances_of_geomstats_are_those_of_the_store():
    stored = np.load(STORE / "spd_emg" / "emg_cov8.npz")
    table = electromyography().read([])
    np.testing.assert_allclose(table.columns["cov"].astype(np.float32), stored["cov"], atol=1e-10)
    assert table.columns["sign"].tolist() == stored["label_names"][stored["label"]].tolist()
