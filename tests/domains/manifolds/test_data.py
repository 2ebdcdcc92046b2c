"""Tables and arrays: read, split, left out, and the data sets of geomstats."""

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from structdiff.domains.manifolds import defaults
from structdiff.domains.manifolds.data import DataConfig, open_source, read, read_points
from structdiff.domains.manifolds.defaults import electromyography
from tests.domains.manifolds.worlds import EARTH, ROWS, all_rows, write

RANDOM = np.random.default_rng(2)


def test_leaves_side_by_side(tmp_path):
    lines = "".join(f"{a},{b},{i * i}\n" for i, (a, b) in enumerate(EARTH))
    path = write(tmp_path, f"lat,lon,depth\n{lines}")
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


def test_groups_of_a_file(tmp_path):
    lines = "".join(f"{a},{b},p{i % 8}\n" for i, (a, b) in enumerate(EARTH))
    path = write(tmp_path, f"lat,lon,pdb\n{lines}")
    data = read(path, split_by="PDB", split_seed=3)
    groups = [{int(row - 2) % 8 for row in p.rows} for p in (data.train, data.validation)]
    assert not groups[0] & groups[1]
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    with pytest.raises(ValueError, match="split_by is 'lat', a column of a leaf"):
        read(path, split_by="lat")
    with pytest.raises(ValueError, match="no column 'chain', it has: lat, lon, pdb"):
        read(path, split_by="chain")


def test_files_of_their_own(tmp_path):
    path = write(tmp_path, "lat,lon\n" + ROWS)
    test = write(tmp_path, "lon,lat,x\n" + "".join(f"{b},{a},0\n" for a, b in EARTH[:7]), "t.csv")
    data = read(path, test_path=test)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 7)
    table = data.codec.decode(data.test.batch())
    np.testing.assert_allclose(table.columns["lat"], [a for a, _ in EARTH[:7]])
    data = read(path, test_path=test, validation_path=test)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 7, 7)


def test_parts_may_be_empty_but_not_that_for_training(tmp_path):
    path = write(tmp_path, "lat,lon\n1,2\n3,4\n")
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
    path = write(tmp_path, BROKEN.format(row))
    data = read(path)
    np.testing.assert_allclose(all_rows(data), EARTH * 6, atol=1e-9)
    assert f"1 of 241 rows left out: 1 x {reason} (first line 42: {first})" in data.report


@pytest.mark.parametrize(("row", "reason", "first"), BAD)
def test_bad_rows_beyond_the_share_are_refused(tmp_path, row, reason, first):
    path = write(tmp_path, BROKEN.format(row))
    with pytest.raises(ValueError) as caught:
        read(path, skip_bad=0.004)
    said = str(caught.value)
    assert said.startswith(f"{path}, line 42: {reason}: {first}; ")
    assert said.endswith(
        "(1 of 241 rows are no points, more than the share 0.004 of data.skip_bad)"
    )


def test_reasons_are_counted(tmp_path):
    path = write(tmp_path, "lat,lon\n" + ROWS * 9 + "95,1\n99,1\nx,1\n1\n")
    report = read(path, skip_bad=0.02).report
    assert "4 of 364 rows left out: 2 x a latitude" in report
    assert "1 x not 2 cells as in other rows (first line 365: 1 cell)" in report


def test_swapped_columns_are_named(tmp_path):
    path = write(tmp_path, "a,b\n" + "".join(f"{b},{a}\n" for a, b in EARTH))
    with pytest.raises(ValueError, match="latitude comes first: if they are swapped, swap"):
        read(path, columns="a,b:sphere")


def test_a_model_reads_its_own_columns(tmp_path):
    path = write(tmp_path, "lat,lon\n" + ROWS)
    codec = read(path).codec
    other = write(tmp_path, "x,LON,lat\n" + "".join(f"0,{b},{a}\n" for a, b in EARTH), "o.csv")
    with pytest.raises(ValueError, match=r"o.csv has no column 'lon', it has: x, LON, lat"):
        read_points(other, codec)
    points = read_points(other, codec, columns="lat,LON:sphere")
    assert points.rows.tolist() == list(range(2, 42))
    table = codec.decode(points.batch())
    np.testing.assert_allclose(np.stack([*table.columns.values()], 1), EARTH)
    for asked in ("lat,lon:torus", "place=lat,lon:sphere", "lat,lon:sphere x:euclidean"):
        with pytest.raises(ValueError, match=r"the model has the leaves sphere \(sphere of 2 col"):
            read_points(other, codec, columns=asked)


def test_a_model_reads_its_own_units_unless_others_are_said(tmp_path):
    codec = read(write(tmp_path, "lat,lon\n" + ROWS)).codec
    radians = np.radians(EARTH)
    lines = "".join(f"{a!r},{b!r}\n" for a, b in radians.tolist())
    path = write(tmp_path, "lat,lon\n" + lines + "4,0\n", "radians.csv")
    points = read_points(path, codec, angles="radians", skip_bad=0.1)
    np.testing.assert_allclose(points.leaves["sphere"][:, 2], np.sin(radians[:, 0]), atol=1e-12)
    assert "1 of 41 rows left out: 1 x a latitude beyond the poles" in points.notes[0]
    again = read_points(path, codec, columns="lat,lon:sphere:radians", skip_bad=0.1)
    assert again.identity() == points.identity()
    notes = read_points(path, codec).notes
    assert "they look like radians, set --data.angles radians" in notes[0]


def test_matrices_of_a_model_may_be_spread_over_columns(tmp_path):
    cov = np.stack([np.array([[i + 2.0, 1], [1, 1]]) for i in range(30)])
    path = tmp_path / "some.npz"
    np.savez(path, cov=cov)
    codec = read(path).codec
    flat = codec.decode(read_points(path, codec).batch()).flat()
    names = ",".join(flat)
    assert names == "cov_1_1,cov_1_2,cov_2_1,cov_2_2"
    lines = "\n".join(",".join(map(repr, row)) for row in zip(*flat.values(), strict=True))
    table = write(tmp_path, f"{names}\n{lines}\n")
    again = read_points(table, codec)
    torch.testing.assert_close(again.leaves["spd"], read_points(path, codec).leaves["spd"])


def test_identities_tell_samples_apart(tmp_path):
    path = write(tmp_path, "lat,lon\n" + ROWS)
    data = read(path)
    same, seed = read(path), read(path, split_seed=1)
    assert data.train.identity() == same.train.identity() != seed.train.identity()
    assert data.train.identity()["leaves"] == {"sphere": [3]}
    other = read(write(tmp_path, "lat,lon\n" + ROWS.replace(str(EARTH[0][0]), "8.5", 1)))
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
    path = write(folder, " time,c0,c1,c2,label,exp\n", "emg.csv")
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
