"""What is said of data before training."""

import re

import numpy as np
import pytest

from structdiff.domains.manifolds.doctor import examine

RANDOM = np.random.default_rng(4)
ROWS = 400


def _table(folder, names, values, name="some.csv"):
    path = folder / name
    np.savetxt(path, values, delimiter=",", header=",".join(names), comments="")
    return str(path)


def _sphere(rows=ROWS):
    x = RANDOM.normal(size=(rows, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _line(text, start):
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith(start)]
    return line


def _number(text, start):
    return float(_line(text, start).removeprefix(start).strip().split()[0].rstrip(",:"))


def test_evenly_spread_points_have_no_warning(tmp_path):
    text = examine(_table(tmp_path, "xyz", _sphere()), columns="x,y,z:sphere-vector")
    assert text.splitlines()[0].endswith("some.csv: no warnings")
    assert _number(text, "the uniform law takes") == pytest.approx(np.log(4 * np.pi), abs=1e-4)
    assert _number(text, "mean resultant length") < 0.15
    assert "320 for training, 40 for validation, 40 for the test" in text
    assert '--data.columns "sphere=x,y,z:sphere-vector" says the same' in text


def test_the_schema_that_is_shown_can_be_used(tmp_path):
    values = np.concatenate([RANDOM.uniform(-80, 80, (ROWS, 2)), np.arange(ROWS)[:, None]], 1)
    path = _table(tmp_path, ("lat", "lon", "deep"), values)
    first = examine(path, columns="lat,lon:sphere deep:euclidean")
    said = _line(first, "--data.columns").split('"')[1]
    assert said == "sphere=lat,lon:sphere:degrees; euclidean=deep:euclidean"
    assert examine(path, columns=said) == first


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_spread_is_the_root_mean_square_distance(tmp_path, sigma):
    values = np.degrees(sigma * RANDOM.normal(size=(2000, 3))) + np.array([170, 0, -60])
    text = examine(_table(tmp_path, "abc", (values + 180) % 360 - 180), columns="a,b,c:torus")
    assert _number(text, "spread") == pytest.approx(sigma * np.sqrt(3), rel=0.06)
    assert _number(text, "a: mean direction") == pytest.approx(170, abs=2)
    length = float(_line(text, "b:").split()[-1])
    assert length == pytest.approx(np.exp(-(sigma**2) / 2), abs=0.02)


def test_spread_of_matrices_is_that_of_their_logarithms(tmp_path):
    logs = 0.3 * RANDOM.normal(size=(500, 2))
    path = tmp_path / "some.npz"
    np.savez(path, cov=np.stack([np.diag(row) for row in np.exp(logs)]))
    text = examine(str(path))
    assert _number(text, "spread") == pytest.approx(0.3 * np.sqrt(2), rel=0.1)
    train = "eigenvalues"
    low = float(_line(text, train).split()[1])
    assert np.exp(logs).min() * 0.99 <= low <= np.exp(logs).min() * 3
    assert "the uniform law" not in text


def test_numbers_say_what_densities_are_of(tmp_path):
    values = RANDOM.normal(7, 5, (ROWS, 1))
    text = examine(_table(tmp_path, ["x"], values), columns="x:euclidean")
    shift = float(_line(text, "densities are per unit of the data:").split()[7])
    assert shift == pytest.approx(np.log(5), abs=0.15)


WARNED = [
    ("copies", "abc", np.repeat(RANDOM.normal(size=(100, 3)), 2, 0), "a,b,c:euclidean",
        "100 of 200 rows are copies of others"),
    ("few", "abc", RANDOM.normal(size=(50, 3)), "a,b,c:euclidean", "40 rows for training are few"),
    ("radians", "ab", RANDOM.uniform(-1, 1, (ROWS, 2)), "a,b:sphere", "set --data.angles radians"),
    ("degrees", "ab", RANDOM.uniform(-90, 90, (ROWS, 2)), "a,b:torus:radians",
        "look like degrees, set --data.angles degrees"),
    ("zeros", "abc", np.tile(np.eye(3), (200, 1)), "a,b,c:simplex", "have a probability of 0"),
    ("far", "ab", np.tanh(RANDOM.uniform(4, 6, (ROWS, 1))) * np.ones((1, 2)) / np.sqrt(2),
        "a,b:ball", "points are as far as 1.* from the origin"),
    ("tails", "a", np.exp(3 * RANDOM.normal(size=(4000, 1))), "a:euclidean",
        "a goes .* deviations from its mean"),
    ("flat", "abc", RANDOM.uniform(1, 2, (ROWS, 1)) * [1, 0, 1e-8],
        "a,b,c:spd-upper", "single precision loses the smallest"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "columns", "values", "schema", "why"), WARNED, ids=[x[0] for x in WARNED]
)
def test_what_looks_wrong_is_said_first(tmp_path, name, columns, values, schema, why):
    text = examine(_table(tmp_path, columns, values), columns=schema)
    marked = [line for line in text.splitlines() if line.startswith("  ! ")]
    assert any(re.search(why, line) for line in marked), text
    assert f": {len(marked)} warning" in text.splitlines()[0]
    assert text.splitlines()[1 : 1 + len(marked)] == marked


def test_what_cannot_be_read_is_refused(tmp_path):
    path = _table(tmp_path, "ab", RANDOM.normal(size=(50, 2)))
    with pytest.raises(ValueError, match="what its columns mean is not clear"):
        examine(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        examine(str(tmp_path / "nowhere.csv"))
