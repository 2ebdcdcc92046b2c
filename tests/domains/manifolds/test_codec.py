"""Columns as records and back, densities after the move, and states that are not a codec's."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigvalsh
from scipy.stats import multivariate_normal, norm

from structdiff.domains.manifolds.codec import ManifoldsCodec, Table, space_of
from structdiff.domains.manifolds.frames import fit_frame
from structdiff.domains.manifolds.matrices import matrix_exp, matrix_log
from structdiff.domains.manifolds.schema import schema

RANDOM = np.random.default_rng(3)
N = 60


def _spd(n, spread=2.0, rows=N):
    a = RANDOM.normal(size=(rows, n, n))
    scale = np.diag(10.0 ** np.arange(n))
    return scale @ matrix_exp(spread * (a + a.transpose(0, 2, 1)) / 4) @ scale


def _table():
    turn = {name: RANDOM.uniform(0, 360, N) for name in ("phi1", "phi2")}
    return Table(
        {
            "lat": RANDOM.uniform(-90, 90, N),
            "lon": RANDOM.uniform(-180, 180, N),
            "depth": RANDOM.gamma(2.0, 30.0, N),
            **turn,
            "Phi": RANDOM.uniform(0, 180, N),
            "a": RANDOM.uniform(-3, 3, N),
            "cov": _spd(3),
            "dti": _spd(2),
            "share": RANDOM.dirichlet(np.ones(3), N),
        }
    )


ALL = (
    "place=lat,lon:sphere depth:euclidean phi1,Phi,phi2:so3-bunge a:torus:radians cov:spd "
    "dti:log-euclidean share:simplex"
)


def _codec(table=None, text=ALL):
    table = table or _table()
    leaves, _ = schema(table, text)
    return ManifoldsCodec.of(leaves, {leaf.name: leaf.read(table)[0] for leaf in leaves})


def test_columns_come_back_in_their_units_and_names():
    table = _table()
    codec = _codec(table)
    batch = codec.encode(table)
    back = codec.decode(batch)
    assert set(back.columns) == set(table.columns)
    for name, column in table.columns.items():
        np.testing.assert_allclose(back.columns[name], column, rtol=1e-9, atol=1e-9, err_msg=name)
    assert {layout.counts for layout in batch.layouts.values()} == {(1,) * N}
    assert len(back.flat()) == 7 + 9 + 4 + 3


def test_points_are_of_their_spaces():
    codec = _codec()
    batch = codec.encode(_table())
    assert [*codec.specs.values()] == [
        "sphere:2", "euclidean:1", "so3", "torus:1", "spd:3", "log-euclidean:2", "simplex:3",
    ]  # fmt: skip
    for name, space in codec.spaces.items():
        assert batch[name].shape[1:] == space.point
        assert space.belongs(batch[name], 1e-9).inside.all()


def test_the_codec_of_a_table_is_guessed():
    table = Table({"lat": np.array([10.0, 80.0]), "lon": np.array([3.0, 4.0])})
    codec = ManifoldsCodec.fit(table)
    assert codec.specs == {"sphere": "sphere:2"}
    with pytest.raises(ValueError, match="the table: what its columns mean is not clear"):
        ManifoldsCodec.fit(Table({"x": np.array([1.0, 2.0])}))


def test_moving_matrices_keeps_affine_invariant_distances():
    """Distances from generalised eigenvalues of the data, and from the space after the move."""
    cov = _spd(3)
    frame = fit_frame("spd:3", cov, "cov")
    moved = torch.from_numpy(frame.encode(cov))
    found = space_of("spd:3").distance(moved[:-1], moved[1:])
    expected = [
        np.sqrt((np.log(eigvalsh(b, a)) ** 2).sum()) for a, b in zip(cov, cov[1:], strict=False)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert frame.log_scale == 0
    middle = frame.encode(matrix_exp(matrix_log(cov).mean(0))[None])
    np.testing.assert_allclose(middle[0], np.eye(3), atol=1e-9)


def test_moving_logarithms_scales_log_euclidean_distances():
    cov = _spd(2)
    frame = fit_frame("log-euclidean:2", cov, "cov")
    moved = torch.from_numpy(frame.encode(cov))
    found = space_of("log-euclidean:2").distance(moved[:-1], moved[1:]).numpy()
    logs = matrix_log(cov)
    expected = np.linalg.norm(logs[1:] - logs[:-1], axis=(1, 2))
    np.testing.assert_allclose(found / expected, np.exp(frame.log_scale / 3), rtol=1e-9)
    coordinates = matrix_log(moved.numpy())
    assert np.allclose(coordinates.mean(0), 0, atol=1e-12)
    square = (coordinates**2).sum((1, 2)).mean() / 3
    assert square == pytest.approx(1)


def test_densities_of_standardised_columns_are_per_unit_of_the_data():
    table = Table({"a": RANDOM.normal(5, 3, 400), "b": RANDOM.normal(0, 0.01, 400)})
    codec = _codec(table, "a,b:euclidean")
    z = codec.encode(table)["euclidean"].numpy()
    frame = {"mean": [x.mean() for x in table.columns.values()],
             "cov": [x.var() for x in table.columns.values()]}  # fmt: skip
    x = np.stack([*table.columns.values()], 1)
    expected = multivariate_normal(frame["mean"], np.diag(frame["cov"])).logpdf(x)
    found = norm.logpdf(z).sum(1) + codec.log_scale["euclidean"]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_densities_of_logarithms_are_per_unit_of_the_data():
    """A normal law of the coordinates (diagonal, sqrt 2 of the others) of the logarithm."""
    cov = _spd(2, rows=400)
    frame = fit_frame("log-euclidean:2", cov, "cov")

    def coordinates(matrices):
        logs = matrix_log(matrices)
        return np.stack([logs[:, 0, 0], logs[:, 1, 1], np.sqrt(2) * logs[:, 0, 1]], 1)

    mean, deviation = coordinates(cov).mean(0), 1 / np.exp(frame.log_scale / 3)
    expected = norm(mean, deviation).logpdf(coordinates(cov)).sum(1)
    found = norm.logpdf(coordinates(frame.encode(cov))).sum(1) + frame.log_scale
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("columns", "text", "why"),
    [
        (
            {"a": np.ones(5), "b": np.arange(5.0)},
            "a,b:euclidean",
            "number 1 of them.*leave it out",
        ),
        ({"a": np.full(5, 1e9)}, "a:euclidean", "has one value in all rows"),
        ({"c": np.stack([np.eye(2)] * 5)}, "c:log-euclidean", "has one value in all rows"),
    ],
)
def test_columns_that_never_change_are_refused(columns, text, why):
    with pytest.raises(ValueError, match=why):
        _codec(Table(columns), text)


def test_rows_that_are_no_points_are_named():
    table = _table()
    codec = _codec(table)
    lat = table.columns["lat"].copy()
    lat[17] = 123
    with pytest.raises(ValueError, match="row 17: a latitude beyond the poles.*: lat = 123"):
        codec.encode(Table({**table.columns, "lat": lat}))
    rest = {name: column for name, column in table.columns.items() if name != "lon"}
    with pytest.raises(ValueError, match="leaf 'place' has the column 'lon', the data has lat, "):
        codec.encode(Table(rest))
    with pytest.raises(ValueError, match=r"entries of shape \(2, 2\), not \(3, 3\)"):
        codec.encode(Table({**table.columns, "cov": _spd(2)}))


def test_states_go_through_json():
    table = _table()
    codec = _codec(table)
    again = ManifoldsCodec.from_state(json.loads(json.dumps(codec.state())))
    assert again.leaves == codec.leaves
    assert again.log_scale == codec.log_scale
    assert again.state() == codec.state()
    for name, x in codec.encode(table).leaves.items():
        assert torch.equal(again.encode(table)[name], x)


STATE = _codec().state()
SPOILED = [
    (("leaves",), [], "a frame for each"),
    (("leaves",), None, "not the state of a codec of manifolds"),
    (("leaves",), "text", "not the state"),
    (("frames",), {}, "'place' is missing"),
    (("frames",), None, "not the state"),
    (("more",), 3, "it must have leaves, and a frame for each"),
    (("frames", "more"), {}, "it must have leaves, and a frame for each"),
    (("leaves", 0, "name"), 3, "a leaf must have name"),
    (("leaves", 0, "name"), "__class__ x", "a leaf is called"),
    (("leaves", 0, "name"), "euclidean", "the leaf 'euclidean' is there twice|'mean'|must have"),
    (("leaves", 0, "kind"), "cube", "no kind of leaf 'cube'"),
    (("leaves", 0, "kind"), ["sphere"], "a leaf must have name"),
    (("leaves", 0, "units"), "", "units of sphere cannot be ''"),
    (("leaves", 0, "positive"), 1, "a leaf must have name"),
    (("leaves", 0, "columns"), ["lat"], "a leaf must have name"),
    (("leaves", 0, "columns"), "ab", "a leaf must have name"),
    (("leaves", 0, "columns"), ["lat", 3], "a leaf must have name"),
    (("leaves", 0, "columns"), ["lat", "depth"], "the column 'depth' is there twice"),
    (("leaves", 0, "shapes"), [[], [2]], "takes 2 columns"),
    (("leaves", 0, "shapes"), [[], [0]], "a leaf must have name"),
    (("leaves", 0, "shapes"), [[], [1.5]], "a leaf must have name"),
    (("leaves", 0, "shapes"), 7, "not the state"),
    (("leaves", 4, "shapes"), [[9999] * 8], "there is no space 'spd:9"),
    (("leaves", 0, "extra"), 7, "a leaf must have name"),
    (("frames", "place"), {"mean": 0}, "the frame of sphere:2 must have nothing"),
    (("frames", "euclidean"), {}, "the frame of euclidean:1 must have"),
    (("frames", "euclidean", "mean"), [0, 0], r"mean must be finite numbers of shape \(1,\)"),
    (("frames", "euclidean", "mean"), ["0"], "mean must be finite numbers"),
    (("frames", "euclidean", "mean"), [float("nan")], "mean must be finite numbers"),
    (("frames", "euclidean", "mean"), [[1], [2, 3]], "mean must be finite numbers"),
    (("frames", "euclidean", "deviation"), [0.0], "deviation must be positive"),
    (("frames", "euclidean", "deviation"), [-1.0], "deviation must be positive"),
    (("frames", "spd", "mean"), np.triu(np.ones((3, 3))).tolist(), "a symmetric matrix"),
    (("frames", "spd", "mean"), (np.eye(3) * 1e5).tolist(), "a symmetric matrix of logarithms"),
    (("frames", "spd_2", "deviation"), True, "deviation must be finite numbers"),
    (("frames", "spd_2", "deviation"), -2, "deviation must be positive"),
]


@pytest.mark.parametrize(("place", "value", "why"), SPOILED)
def test_a_spoiled_state_is_refused(place, value, why):
    state = copy.deepcopy(STATE)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=why):
        ManifoldsCodec.from_state(json.loads(json.dumps(state)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = [
    ("leaves",), ("frames",), ("leaves", 0), ("leaves", 1, "name"), ("leaves", 2, "columns"),
    ("leaves", 4, "shapes"), ("leaves", 3, "units"), ("frames", "spd"), ("frames", "spd", "mean"),
    ("frames", "spd_2", "deviation"), ("frames", "euclidean", "mean"),
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_other_state_is_refused_or_whole(place, value):
    state = copy.deepcopy(STATE)
    inner = state
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    try:
        codec = ManifoldsCodec.from_state(state)
    except ValueError as error:
        assert "not the state of a codec of manifolds" in str(error)
        return
    assert json.loads(json.dumps(codec.state())) == json.loads(json.dumps(state))


@pytest.mark.parametrize(
    "spec",
    ["", "sphere", "sphere:", "sphere:0", "sphere:-1", "sphere:2:3", "so3:3", "so3:x", "cube:3",
     "torus:1e3", "torus:99999", "torus:٣", "SPHERE:2"],
)  # fmt: skip
def test_spaces_that_are_not_there_are_refused(spec):
    with pytest.raises(ValueError, match="there is no space"):
        space_of(spec)


@pytest.mark.parametrize(
    ("spec", "dimension"),
    [("sphere:3", 3), ("torus:7", 7), ("so3", 3), ("hyperbolic:2", 2), ("ball:3", 3),
     ("spd:3", 6), ("log-euclidean:2", 3), ("simplex:4", 3), ("euclidean:5", 5)],
)  # fmt: skip
def test_spaces_have_their_dimension(spec, dimension):
    assert space_of(spec).dimension == dimension
