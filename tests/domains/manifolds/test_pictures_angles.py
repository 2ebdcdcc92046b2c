"""What pictures of angles and rotations show: counts, densities, turns."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from structdiff.domains.manifolds.pictures import angle_pairs, ramachandran, rotation_maps
from structdiff.domains.manifolds.pictures.maps import Globe
from structdiff.domains.manifolds.pictures.projections import Mollweide
from structdiff.domains.manifolds.pictures.rotations import angle_of, tilt_of
from structdiff.domains.manifolds.pictures.torus import pair_counts
from tests.domains.manifolds.pictured import close, uniform

# Angles


def test_pairs_are_counted_in_their_cells():
    across = np.radians([90.5, 90.5, -179.5, 200.5])  # 200.5 is -159.5
    up = np.radians([-89.5, -88.5, 0.5, 0.5])
    counts = pair_counts(across, up, 4.0)
    assert counts.shape == (90, 90) and counts.sum() == 4
    assert counts[22, 67] == 2 and counts[45, 0] == 1 and counts[45, 5] == 1


def test_a_ramachandran_plot_shows_densities():
    data = np.random.default_rng(0).normal([1.0, -2.0], 0.3, (4000, 2))

    def log_density(points):  # of the first angle alone, for the axes
        return np.log(
            np.exp(3 * np.cos(points[:, 0] - 1.0)) / (2 * np.pi * np.i0(3)) / (2 * np.pi)
        )

    figure = close(ramachandran(data[:500], data, log_density=log_density, names=["phi", "psi"]))
    fields = [ax.images[0].get_array() for ax in figure.axes[:3]]
    cell = np.radians(4.0) ** 2
    for field in fields:
        assert np.exp(field.compressed()).sum() * cell == pytest.approx(1.0, abs=1e-3)
    for field in fields[:2]:
        row, column = np.argwhere(~field.mask).mean(0)
        np.testing.assert_allclose(
            [column * 4 - 178, row * 4 - 178], np.degrees([1.0, -2.0]), atol=4
        )
    assert np.unique(fields[2].argmax(1)) == (np.degrees(1.0) + 180) // 4
    assert figure.axes[0].get_xlabel() == "φ, degrees"
    assert figure.axes[0].get_ylabel() == "ψ, degrees"
    assert figure.axes[0].get_xlim() == (-180, 180)


def test_panels_above_the_diagonal_mirror_those_below():
    random = np.random.default_rng(0)
    data = random.uniform(-np.pi, np.pi, (600, 3)) * [1.0, 0.5, 0.1]
    figure = close(angle_pairs(data, data))
    axes = np.reshape(figure.axes, (3, 3))
    for row in range(3):
        for column in range(row):
            below, above = (axes[p].images[0] for p in ((row, column), (column, row)))
            np.testing.assert_array_equal(
                below.get_array().filled(9), above.get_array().T.filled(9)
            )
    counted = axes[0, 0].patches[0].get_data().values
    assert counted.sum() == pytest.approx(1.0) and len(counted) == 60
    assert (~axes[2, 0].images[0].get_array().mask).any(1).sum() < 10  # the third is narrow
    assert "data (n = 600) below" in figure.get_suptitle()


# Rotations


def test_the_tilt_is_the_sum_of_the_outer_euler_angles():
    alpha, beta, gamma = np.random.default_rng(0).uniform(0, 3, (3, 200))
    matrices = Rotation.from_euler("ZYZ", np.stack([alpha, beta, gamma], 1)).as_matrix()
    off = np.exp(1j * (tilt_of(matrices) - alpha - gamma))
    np.testing.assert_allclose(off, 1.0, atol=1e-12)
    np.testing.assert_allclose(np.cos(beta), matrices[:, 2, 2], atol=1e-12)


def test_what_the_shortest_turn_leaves_is_a_turn_by_the_tilt():
    rotations = Rotation.random(50, random_state=0)
    u = rotations.apply([0.0, 0.0, 1.0])
    axis = np.cross([0.0, 0.0, 1.0], u)
    turn = np.arccos(u[:, 2])[:, None] * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    left = (Rotation.from_rotvec(turn).inv() * rotations).as_rotvec()
    np.testing.assert_allclose(left[:, :2], 0.0, atol=1e-9)
    off = np.exp(1j * (left[:, 2] - tilt_of(rotations.as_matrix())))
    np.testing.assert_allclose(off, 1.0, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, 3.0, np.pi - 1e-7, np.pi])
def test_the_angle_is_right_at_both_ends(angle):
    vectors = angle * uniform(20)
    found = angle_of(Rotation.from_rotvec(vectors).as_matrix())
    np.testing.assert_allclose(found, angle, atol=1e-12)


def test_uniform_rotations_are_even_in_the_picture():
    r = Rotation.random(20_000, random_state=0).as_matrix()
    assert kstest(tilt_of(r), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
    assert kstest(angle_of(r), lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3


def test_rotations_are_drawn_where_they_take_the_axis():
    data = Rotation.random(300, random_state=0).as_matrix()
    samples = torch.tensor(Rotation.random(100, random_state=1).as_matrix(), dtype=torch.float32)
    figure = close(rotation_maps(samples, data))
    marks = figure.axes[0].collections[-1]
    np.testing.assert_allclose(
        marks.get_offsets(), np.stack(Globe(Mollweide()).place(data[:, :, 2]), 1), atol=1e-12
    )
    np.testing.assert_allclose(marks.get_array(), np.degrees(tilt_of(data)), atol=1e-9)
    assert len(figure.axes[1].collections[-1].get_offsets()) == 100
    haar = figure.axes[3].lines[0].get_ydata()
    assert haar.sum() - haar[-1] / 2 == pytest.approx(1.0, abs=1e-4)  # trapezoids of one degree
