"""What columns say, beside scipy, numpy and the spaces themselves."""

import re

import numpy as np
import pytest
import torch
from scipy.linalg import expm, logm
from scipy.spatial.transform import Rotation

from structdiff.domains.manifolds.codec import space_of
from structdiff.domains.manifolds.leaf import KINDS
from structdiff.domains.manifolds.matrices import matrix_exp, matrix_log

RANDOM = np.random.default_rng(0)
N = 200


def _unit(width):
    x = RANDOM.normal(size=(N, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _spd(n, spread=1.0):
    a = RANDOM.normal(size=(N, n, n))
    return matrix_exp(spread * (a + a.transpose(0, 2, 1)) / 2)


def _upper(matrices):
    rows, columns = np.triu_indices(matrices.shape[-1])
    return matrices[:, rows, columns]


def _hyperboloid(n):
    x = RANDOM.normal(size=(N, n))
    return np.concatenate([np.sqrt(1 + np.square(x).sum(1))[:, None], x], 1)


TURN = 2 * np.pi
ROWS = {
    "sphere": np.stack([RANDOM.uniform(-1.5, 1.5, N), RANDOM.uniform(-3.1, 3.1, N)], 1),
    "sphere-vector": _unit(5),
    "torus": RANDOM.uniform(-3.1, 3.1, (N, 3)),
    "so3-bunge": np.stack([RANDOM.uniform(0, m, N) for m in (TURN, np.pi, TURN)], 1),
    "so3-quaternion": _unit(4),
    "so3-quaternion-xyzw": _unit(4),
    "so3-matrix": Rotation.random(N, random_state=0).as_matrix().reshape(N, 9),
    "spd": _spd(3).reshape(N, 9),
    "spd-upper": _upper(_spd(4)),
    "log-euclidean": _spd(2).reshape(N, 4),
    "log-euclidean-upper": _upper(_spd(2)),
    "simplex": RANDOM.dirichlet(np.ones(4), N),
    "hyperbolic": _hyperboloid(2),
    "ball": _unit(3) * RANDOM.uniform(0, 0.95, (N, 1)),
    "euclidean": RANDOM.normal(size=(N, 3)),
}
ROWS["so3-quaternion"] *= np.sign(ROWS["so3-quaternion"][:, :1])
ROWS["so3-quaternion-xyzw"] *= np.sign(ROWS["so3-quaternion-xyzw"][:, 3:])


def test_rows_of_every_kind():
    assert ROWS.keys() == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_points_are_of_the_space_and_are_written_as_they_were(name):
    kind, rows = KINDS[name], ROWS[name]
    points, faults = kind.read(rows)
    assert not faults
    np.testing.assert_allclose(kind.write(points), rows, rtol=1e-9, atol=1e-9)
    space = space_of(kind.space(rows.shape[1]))
    assert points.shape[1:] == space.point
    belonging = space.belongs(torch.from_numpy(points), 1e-9)
    assert belonging.inside.all(), belonging.reason


def test_distances_on_the_earth_are_haversine():
    (a, b), (c, d) = ROWS["sphere"][:100].T, ROWS["sphere"][100:].T
    half = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    points, _ = KINDS["sphere"].read(ROWS["sphere"])
    angle = np.arccos((points[:100] * points[100:]).sum(1))
    np.testing.assert_allclose(angle, 2 * np.arcsin(np.sqrt(half)), atol=1e-7)


def test_the_poles_and_the_date_line():
    rows = np.radians([[90, 0], [-90, 77], [0, 180], [0, -180], [0, 270]])
    points, faults = KINDS["sphere"].read(rows)
    expected = [[0, 0, 1], [0, 0, -1], [-1, 0, 0], [-1, 0, 0], [0, -1, 0]]
    np.testing.assert_allclose(points, expected, atol=1e-15)
    assert not faults


@pytest.mark.parametrize(
    ("name", "rotation"),
    [
        ("so3-bunge", lambda rows: Rotation.from_euler("ZXZ", rows)),
        ("so3-quaternion", lambda rows: Rotation.from_quat(rows[:, [1, 2, 3, 0]])),
        ("so3-quaternion-xyzw", Rotation.from_quat),
    ],
)
def test_rotations_are_those_of_scipy(name, rotation):
    points, _ = KINDS[name].read(ROWS[name])
    np.testing.assert_allclose(points, rotation(ROWS[name]).as_matrix(), atol=1e-12)


@pytest.mark.parametrize("name", ["so3-bunge", "so3-quaternion", "so3-quaternion-xyzw"])
def test_special_rotations_are_written_and_read_again(name):
    """No turn, half turns about every axis and diagonal, and tilts of 0 and 180 degrees."""
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, -1], [1, 1, 1]], float)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turns = np.concatenate([angle * axes for angle in (0, 1e-9, 1.0, np.pi - 1e-9, np.pi)])
    points = Rotation.from_rotvec(turns).as_matrix()
    rows = KINDS[name].write(points)
    again, faults = KINDS[name].read(rows)
    assert not faults
    np.testing.assert_allclose(again, points, atol=3e-8)


def test_angles_are_wrapped():
    rows = np.array([[np.pi], [-np.pi], [3 * np.pi], [7.0], [-0.5]])
    points, _ = KINDS["torus"].read(rows)
    expected = [-np.pi, -np.pi, -np.pi, 7 - 2 * np.pi, -0.5]
    np.testing.assert_allclose(points[:, 0], expected, atol=1e-14)


def test_angles_at_the_ends_of_the_range_stay_in_it():
    ends = np.arange(-9, 10, 2)[:, None] * np.pi
    rows = (ends + np.arange(-20, 21) * np.spacing(np.abs(ends))).reshape(-1, 1)
    points, _ = KINDS["torus"].read(rows)
    assert ((points >= -np.pi) & (points < np.pi)).all()
    np.testing.assert_allclose(np.cos(points), np.cos(rows), atol=1e-13)
    np.testing.assert_allclose(np.sin(points), np.sin(rows), atol=1e-13)
    inside = (rows >= -np.pi) & (rows < np.pi)
    assert inside.any()
    assert (points[inside] == rows[inside]).all()


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("sphere-vector", 1.005),
        ("so3-quaternion", 0.995),
        ("so3-matrix", 1.002),
        ("simplex", 1.005),
        ("hyperbolic", 1.0005),
    ],
)
def test_rows_that_are_nearly_points_are_mended(name, factor):
    kind, rows = KINDS[name], ROWS[name]
    points, faults = kind.read(rows * factor)
    assert not faults
    space = space_of(kind.space(rows.shape[1]))
    assert space.belongs(torch.from_numpy(points), 1e-9).inside.all()
    exact, _ = kind.read(rows)
    np.testing.assert_allclose(points, exact, atol=2e-3 * np.abs(exact).max())


WRONG = [
    ("sphere", [1.6, 0], "beyond the poles", (0,), ""),
    ("sphere", [0, 7.0], "beyond a full turn", (1,), ""),
    ("sphere-vector", [0, 0, 0], "not of length 1", (), "length 0"),
    ("sphere-vector", [1, 1, 0], "not of length 1", (), "length 1.41421"),
    ("so3-quaternion", [1, 0, 0, 0.2], "not of length 1", (), "length 1.0198"),
    ("so3-bunge", [0, 4, 0], "a tilt Phi", (1,), ""),
    ("so3-bunge", [7, 1, 0], "beyond a full turn", (0, 2), ""),
    ("so3-matrix", [1, 0, 0, 0, 1, 0, 0, 0, 2], "no rotation", (), "off the identity by 3"),
    ("so3-matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1], "a reflection", (), "determinant -1"),
    ("spd", [1, 2, 2, 1], "not positive definite", (), "smallest eigenvalue -1"),
    ("spd", [1, 1, 1, 1], "not positive definite", (), "smallest eigenvalue"),
    ("spd", [1, 2, 0, 9], "not symmetric", (), ""),
    ("spd-upper", [1, 2, 1], "not positive definite", (), "smallest eigenvalue -1"),
    ("simplex", [0.5, 0.6], "do not sum to 1", (), "sum 1.1"),
    ("simplex", [-0.5, 1.5], "below 0", (), ""),
    ("hyperbolic", [1, 1], r"not sqrt\(1 \+ \|x\|\^2\)", (), "x_0 must be 1.41421"),
    ("hyperbolic", [-1, 0], r"not sqrt", (), "x_0 must be 1"),
    ("ball", [0.6, 0.8], "not inside the unit ball", (), "length 1"),
]


@pytest.mark.parametrize(("name", "row", "reason", "columns", "tell"), WRONG)
def test_rows_that_are_no_points(name, row, reason, columns, tell):
    kind = KINDS[name]
    _, faults = kind.read(np.array([row, row], float))
    (fault,) = faults
    assert fault.rows.tolist() == [True, True]
    assert re.search(reason, fault.reason)
    assert fault.columns == columns
    assert tell in fault.tell(1)
    assert fault.fix


WIDTHS = [
    ("sphere", 3, "takes 2 columns, latitude and longitude, got 3"),
    ("sphere-vector", 1, "at least 2 columns"),
    ("so3-bunge", 4, "takes 3 columns"),
    ("so3-quaternion", 3, "takes 4 columns, a unit quaternion w, x, y, z, got 3"),
    ("so3-quaternion-xyzw", 3, "a unit quaternion x, y, z, w"),
    ("so3-matrix", 3, "takes 9 columns"),
    ("spd", 36 + 1, r"takes n\^2 columns.*spd-upper"),
    ("spd-upper", 35, r"takes n \(n \+ 1\) / 2 columns"),
    ("simplex", 1, "at least 2 columns, probabilities"),
    ("hyperbolic", 1, "at least 2 columns"),
]


@pytest.mark.parametrize(("name", "width", "why"), WIDTHS)
def test_another_number_of_columns_is_refused(name, width, why):
    with pytest.raises(ValueError, match=why):
        KINDS[name].space(width)


def test_sizes_of_matrices():
    assert KINDS["spd"].space(36) == "spd:6"
    assert KINDS["spd-upper"].space(36) == "spd:8"
    assert KINDS["log-euclidean-upper"].space(1) == "log-euclidean:1"


def test_functions_of_matrices_are_those_of_scipy():
    for x in _spd(3)[:5]:
        np.testing.assert_allclose(matrix_log(x), logm(x), atol=1e-10)
        np.testing.assert_allclose(matrix_exp(matrix_log(x)), expm(logm(x)), atol=1e-10)
