"""Schemas: written, guessed, and bound to the columns of a file."""

import re

import numpy as np
import pytest

from structdiff.domains.manifolds.columns import Asked, bind, find, parse
from structdiff.domains.manifolds.guessing import guess
from structdiff.domains.manifolds.leaf import Leaf
from structdiff.domains.manifolds.readers.table import Given, Table
from structdiff.domains.manifolds.schema import schema

RANDOM = np.random.default_rng(1)

WRITTEN = [
    ("lat,lon:sphere", [Asked(("lat", "lon"), "sphere")]),
    ("2, 3 : torus : degrees", [Asked(("2", "3"), "torus", None, "degrees")]),
    ("3..9:torus", [Asked(("3..9",), "torus")]),
    (
        "place=lat,lon:sphere; depth:euclidean",
        [Asked(("lat", "lon"), "sphere", "place"), Asked(("depth",), "euclidean")],
    ),
    (
        "a,b:torus:radians c:euclidean ;",
        [Asked(("a", "b"), "torus", None, "radians"), Asked(("c",), "euclidean")],
    ),
    ("phi1,Phi,phi2:so3-bunge", [Asked(("phi1", "Phi", "phi2"), "so3-bunge")]),
    ("q_w=a,b,c,d:so3-quaternion", [Asked(("a", "b", "c", "d"), "so3-quaternion", "q_w")]),
]


@pytest.mark.parametrize(("text", "asked"), WRITTEN)
def test_a_schema_is_read_and_written(text, asked):
    assert parse(text) == asked
    assert parse("; ".join(map(str, asked))) == asked


MISWRITTEN = [
    ("", "data.columns is empty: write columns:kind"),
    (" ; ", "data.columns is empty"),
    ("lat,lon", "it must be columns:kind, the kind one of sphere"),
    (":sphere", "it must be columns:kind"),
    ("lat,lon:ellipsoid", "there is no kind 'ellipsoid'; there are: sphere, "),
    ("a:torus:grad", "after the kind may be :degrees or :radians"),
    ("a:torus:degrees:radians", "after the kind may be"),
    ("a:euclidean:degrees", "euclidean has no angles"),
    ("2x=a:torus", "the name '2x' must be a letter"),
    ("a=b=c:torus", "the name 'a=b' must be a letter"),
    ("a,,b:torus", "a comma too many"),
    ("a,b,:torus", "a comma too many"),
]


@pytest.mark.parametrize(("text", "why"), MISWRITTEN)
def test_what_is_no_schema_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse(text)


NAMES = ("time", "lat", "lon", "Depth", "depth km", "7")


def test_columns_are_found_by_name_case_or_number():
    assert find("lat", NAMES, "f") == "lat"
    assert find("DEPTH", NAMES, "f") == "Depth"
    assert find("2", NAMES, "f") == "lat"
    assert find("7", NAMES, "f") == "7"
    assert find("phi", ("phi", "Phi"), "f") == "phi"


@pytest.mark.parametrize("word", ["", "0", "-1", "8", "9" * 40, "longitude", "PHI"])
def test_columns_that_are_not_there_are_named(word):
    names = (*NAMES, "phi", "Phi") if word == "PHI" else NAMES[:5]
    with pytest.raises(ValueError, match=f"f.csv has no column '{word}', it has: time, lat"):
        find(word, names, "f.csv")


def _bound(text, names=NAMES):
    (asked,) = parse(text)
    return bind(asked, dict.fromkeys(names, ()), "f.csv")


def test_ranges_are_all_columns_between():
    assert _bound("lat..Depth:torus") == ("lat", "lon", "Depth")
    assert _bound("2..4,1:torus") == ("lat", "lon", "Depth", "time")
    assert _bound("a..b:torus", ("a..b",)) == ("a..b",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lon..lat:torus", "but lat is before lon: swap them"),
        ("lat,2:torus", "the column 'lat' is there twice"),
        ("lon,lat:sphere", "latitude, then longitude: write lat,lon:sphere"),
        ("north..lat:torus", "no column 'north'"),
    ],
)
def test_columns_that_cannot_be_meant_are_refused(text, why):
    with pytest.raises(ValueError, match=why):
        _bound(text)


def _source(named=True, **columns):
    source = Given(Table({name: np.asarray(x) for name, x in columns.items()}), "some.csv")
    source.named = named
    return source


def _spread(columns, low, high, rows=50):
    return RANDOM.uniform(low, high, (rows, columns))


def _matrices(n, shift):
    a = RANDOM.normal(size=(20, n, n))
    return a @ a.transpose(0, 2, 1) + shift * np.eye(n)


def _numbered(values):
    return {str(i): column for i, column in enumerate(values.T, 1)}


ANY = np.arange(3.0)
EARTH = np.concatenate([_spread(1, -60, 70), _spread(1, -170, 170)], 1)
CIRCLE = _spread(1, 0, 2 * np.pi)[:, 0]
GUESSED = [
    ("latitude", {"id": ANY, "Longitude": ANY, "Latitude": ANY}, "Latitude,Longitude:sphere"),
    ("lng", {"lat": ANY, "lng": ANY, "population": ANY}, "lat,lng:sphere"),
    ("torsions", {"res": ANY, "phi": ANY, "psi": ANY, "omega (deg)": ANY},
        "phi,psi,omega (deg):torus"),
    ("chi", {"chi1": ANY, "chi2": ANY}, "chi1,chi2:torus"),
    ("bunge", {"phi2": ANY, "phi1": ANY, "Phi": ANY}, "phi1,Phi,phi2:so3-bunge"),
    ("ebsd", {"x": ANY, "Euler1": ANY, "Euler2": ANY, "Euler3": ANY},
        "Euler1,Euler2,Euler3:so3-bunge"),
    ("quaternion", {"qx": ANY, "qy": ANY, "qz": ANY, "qw": ANY}, "qw,qx,qy,qz:so3-quaternion"),
    ("grid", {f"c_{i}_{j}": ANY for i in (1, 2) for j in (1, 2)}, "c_1_1,c_1_2,c_2_1,c_2_2:spd"),
    ("matrices", {"cov": _matrices(4, 0.1), "label": np.arange(20)}, "cov:spd"),
    ("rotations", {"R": np.linalg.qr(_matrices(3, 1))[0], "weight": np.ones(20)},
        "R:so3-matrix"),
    ("unit vectors", {"x": EARTH / np.linalg.norm(EARTH, axis=1, keepdims=True)},
        "x:sphere-vector"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "schema_"), GUESSED, ids=[x[0] for x in GUESSED])
def test_names_and_arrays_say_what_they_are(name, columns, schema_):
    asked, _ = guess(_source(**columns))
    assert str(asked) == schema_


BY_VALUE = [
    ("earth", EARTH, "1,2:sphere"),
    ("angles", _spread(3, -180, 180), "1,2,3:torus"),
    ("angles from 0", _spread(2, 0, 360), "1,2:torus"),
    ("probabilities", RANDOM.dirichlet(np.ones(3), 50), "1,2,3:simplex"),
    ("circle", np.stack([np.cos(CIRCLE), np.sin(CIRCLE)], 1), "1,2:sphere-vector"),
]


@pytest.mark.parametrize(("name", "values", "schema_"), BY_VALUE, ids=[x[0] for x in BY_VALUE])
def test_values_say_what_they_are_without_names(name, values, schema_):
    asked, how = guess(_source(named=False, **_numbered(values)))
    assert (str(asked), how) == (schema_, "values")


UNCLEAR = [
    ("small angles", _spread(2, -3, 3)),
    ("percentages", _spread(3, 0, 100)),
    ("amounts", _spread(2, 0, 1000)),
    ("quaternions or a sphere", RANDOM.normal(size=(50, 4)) / 2),
    ("missing", np.where(RANDOM.random((50, 2)) < 0.1, np.nan, EARTH)),
]


@pytest.mark.parametrize(("name", "values"), UNCLEAR, ids=[x[0] for x in UNCLEAR])
def test_what_is_not_clear_is_asked(name, values):
    if values.shape[1] == 4:
        values = values / np.linalg.norm(values, axis=1, keepdims=True)
    why = "some.csv: what its columns mean is not clear; it has: 1, 2.*--data.columns"
    with pytest.raises(ValueError, match=why):
        guess(_source(named=False, **_numbered(values)))


def test_several_candidates_are_told():
    source = _source(a=_matrices(3, 1), b=_matrices(2, 1))
    with pytest.raises(ValueError, match=r"not clear \(it may be a:spd or b:spd\)"):
        guess(source)


UNITS = [
    ("1,2:sphere", EARTH, "auto", "degrees", None),
    ("1,2:sphere", np.radians(EARTH), "auto", "degrees", "look like radians.*angles radians"),
    ("1,2:sphere", np.radians(EARTH), "radians", "radians", None),
    ("1,2:torus", EARTH, "auto", "degrees", "from -1.* to 1.*: read as degrees"),
    ("1,2:torus", np.radians(EARTH), "auto", "radians", "from -.* to .*: read as radians"),
    ("1,2:torus", EARTH, "radians", "radians", "warning: .*look like degrees.*angles degrees"),
    ("1,2:torus", np.radians(EARTH), "degrees", "degrees", "warning: .*look like radians"),
    ("1,2:torus:radians", EARTH, "degrees", "radians", "warning: .*look like degrees"),
    ("1,2:torus:degrees", EARTH, "radians", "degrees", None),
    ("1,2:torus:degrees", np.radians(EARTH)[:5], "auto", "degrees", None),
    ("1,2:euclidean", EARTH, "degrees", "", None),
]


@pytest.mark.parametrize(("text", "values", "angles", "units", "note"), UNITS)
def test_units_of_angles(text, values, angles, units, note):
    (leaf,), notes = schema(Table(_numbered(values)), text, angles)
    assert leaf.units == units
    assert len(notes) == (note is not None)
    if note:
        assert re.search(note, notes[0])


def test_a_leaf_is_called_as_asked_or_by_its_kind():
    table = Table({name: np.linspace(0, 1, 5) for name in "abcde"})
    leaves, _ = schema(table, "a:torus b:torus c:euclidean here=d,e:ball")
    assert [leaf.name for leaf in leaves] == ["torus", "torus_2", "euclidean", "here"]
    assert [leaf.space for leaf in leaves] == ["torus:1", "torus:1", "euclidean:1", "ball:2"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x=a:torus x=b:torus", "two leaves called 'x': give them other names"),
        ("a,b:torus b:euclidean", "the column 'b' in two leaves"),
        ("a:sphere", "sphere takes 2 columns, latitude and longitude, got 1: a"),
        ("a,b,c:spd", "spd takes n.2 columns"),
    ],
)
def test_leaves_that_do_not_go_together_are_refused(text, why):
    table = Table({name: np.linspace(0, 1, 5) for name in "abcde"})
    with pytest.raises(ValueError, match=why):
        schema(table, text)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "2"}, "a leaf is called '2'"),
        ({"name": "a b"}, "a leaf is called 'a b'"),
        ({"kind": "cube"}, "no kind of leaf 'cube'"),
        ({"units": "grad"}, "the units of torus cannot be 'grad'"),
        ({"units": ""}, "the units of torus cannot be ''"),
        ({"kind": "euclidean"}, "the units of euclidean cannot be 'degrees'"),
    ],
)
def test_a_leaf_must_be_whole(changes, why):
    whole = {"name": "x", "columns": ("a",), "shapes": ((),), "kind": "torus", "units": "degrees"}
    assert Leaf(**whole).space == "torus:1"
    with pytest.raises(ValueError, match=why):
        Leaf(**whole | changes)


def test_angles_are_written_in_the_range_they_were_read_in():
    for rows in ([[-170.0, 10.0], [170.0, -20.0]], [[190.0, 10.0], [350.0, 0.0]]):
        table = Table(_numbered(np.array(rows)))
        (leaf,), _ = schema(table, "1,2:torus")
        points, _ = leaf.read(table)
        assert np.abs(points).max() <= np.pi
        back = np.stack([*leaf.write(points).values()], 1)
        np.testing.assert_allclose(back, rows, atol=1e-9)
    earth = Table({"lat": np.array([-80.0, 80.0]), "lon": np.array([10.0, 300.0])})
    (leaf,), _ = schema(earth)
    back = leaf.write(leaf.read(earth)[0])
    np.testing.assert_allclose(back["lat"], [-80, 80])
    np.testing.assert_allclose(back["lon"], [10, 300])


def test_faults_show_the_row_and_its_numbers():
    table = Table(_numbered(np.array([[0.0, 0.0], [95.0, 10.0], [np.nan, 0.0], [0.0, np.inf]])))
    (leaf,), _ = schema(table, "1,2:sphere")
    points, (missing, high) = leaf.read(table)
    assert points.shape == (4, 3)
    assert missing.rows.tolist() == [False, False, True, True]
    assert "1, 2 = nan, 0" in missing.first
    assert high.rows.tolist() == [False, True, False, False]
    assert high.first == "1 = 95"
    assert "latitude comes first" in high.fix


def test_faults_of_radians_that_are_degrees_say_so():
    table = Table(_numbered(EARTH))
    (leaf,), _ = schema(table, "1,2:sphere:radians")
    _, faults = leaf.read(table)
    assert "set --data.angles degrees" in faults[0].fix
