"""What pictures of manifolds show: counts, densities, matrices, means; and what they refuse."""

import sys

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from structdiff.domains.manifolds import pictures
from structdiff.domains.manifolds.pictures import (
    Quality,
    angle_pairs,
    discs,
    marginals,
    matrix_charts,
    picture,
    quality_chart,
    ramachandran,
    rotation_maps,
    sphere_maps,
    triangles,
)
from structdiff.domains.manifolds.pictures import quality as quality_module
from structdiff.domains.manifolds.pictures.ball import in_ball, radius_of
from structdiff.domains.manifolds.pictures.histograms import edges_of, shares
from structdiff.domains.manifolds.pictures.maps import Globe, density_on_map
from structdiff.domains.manifolds.pictures.matrices import ellipse
from structdiff.domains.manifolds.pictures.projections import (
    Mollweide,
)
from structdiff.domains.manifolds.pictures.quality import spread
from structdiff.domains.manifolds.pictures.rotations import angle_of, tilt_of
from structdiff.domains.manifolds.pictures.torus import pair_counts


def uniform(rows, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def close(figure):
    """Lays the figure out: what cannot be drawn fails here."""
    figure.canvas.draw()
    return figure


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


# Matrices


def covariances(rows, size, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, size, 2 * size))
    return x @ x.transpose(0, 2, 1) / (2 * size)


def test_an_ellipse_is_the_level_one_of_the_inverse():
    matrix = np.array([[4.0, 1.5], [1.5, 1.0]])
    v = ellipse(matrix)
    np.testing.assert_allclose(np.einsum("ki,ij,kj->k", v, np.linalg.inv(matrix), v), 1.0)


def test_the_shadow_of_an_ellipsoid_is_the_ellipse_of_the_block():
    matrix = covariances(1, 3)[0]
    shadow = (np.linalg.cholesky(matrix) @ uniform(200_000).T)[:2]
    turn = np.linspace(0, 2 * np.pi, 12)
    way = np.stack([np.cos(turn), np.sin(turn)])
    reach = (way.T @ ellipse(matrix[:2, :2], 2001).T).max(1)
    np.testing.assert_allclose((way.T @ shadow).max(1), reach, rtol=1e-3)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_matrix_charts_show_data_below_and_samples_above(size):
    data, samples = covariances(80, size), covariances(70, size, 1)
    figure = close(matrix_charts(samples, data))
    left, middle, right = figure.axes[-4:-1]
    means = [
        np.mean([np.diag(np.diag(x) ** -0.5) @ x @ np.diag(np.diag(x) ** -0.5) for x in y], axis=0)
        for y in (data, samples)
    ]
    image = right.images[0].get_array()
    lower = np.tril_indices(size, -1)
    np.testing.assert_allclose(image[lower], means[0][lower], atol=1e-12)
    np.testing.assert_allclose(image.T[lower], means[1].T[lower], atol=1e-12)
    medians = np.median(np.linalg.eigvalsh(data)[:, ::-1], axis=0)
    np.testing.assert_allclose(left.lines[0].get_ydata(), medians)
    np.testing.assert_allclose(
        middle.lines[1].get_ydata(), np.median([np.sqrt(np.diag(x)) for x in samples], axis=0)
    )
    if size <= 3:
        assert [len(ax.collections[0].get_paths()) for ax in figure.axes[:2]] == [60, 60]
        assert figure.axes[0].get_title() == "data (n = 80, 60 drawn)"
    else:
        assert len(figure.axes) == 4


# Simplex, ball, histograms


def test_a_point_of_the_triangle_has_its_distances_from_the_sides():
    p = np.random.default_rng(0).dirichlet([1, 2, 3], 50)
    figure = close(triangles(p[:20], p, names=["a", "b", "c"]))
    x, y = figure.axes[0].collections[-1].get_offsets().T
    height = np.sqrt(0.75)
    np.testing.assert_allclose(y / height, p[:, 2])  # from the side opposite of c, and so on
    np.testing.assert_allclose((height * x - 0.5 * y) / height, p[:, 1])
    np.testing.assert_allclose((height * (1 - x) - 0.5 * y) / height, p[:, 0])
    assert len(figure.axes[1].collections[-1].get_offsets()) == 20
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "c"]


def test_the_disc_keeps_distances_from_the_middle():
    v = np.random.default_rng(0).standard_normal((40, 2))
    points = np.concatenate([np.sqrt(1 + (v**2).sum(1, keepdims=True)), v], 1)
    ball = in_ball(points)
    np.testing.assert_allclose(radius_of(ball), np.arccosh(points[:, 0]))
    np.testing.assert_allclose(ball[:, 0] * v[:, 1], ball[:, 1] * v[:, 0], atol=1e-12)
    figure = close(discs(ball[:10], ball))
    np.testing.assert_allclose(figure.axes[0].collections[-1].get_offsets(), ball)
    rims = sorted(p.radius for p in figure.axes[0].patches)
    np.testing.assert_allclose(rims, [*np.tanh(np.arange(1, 6) / 2), 1.0])


def test_histograms_hold_the_shares_of_the_data():
    random = np.random.default_rng(0)
    data, samples = random.normal(3.0, 2.0, (2000, 2, 1)), random.normal(3.0, 2.0, (500, 2, 1))
    samples[:50] = 1e3
    figure = close(marginals(samples, data, names=["a", "b"], unit="mm"))
    filled, line = (patch.get_data() for patch in figure.axes[1].patches)
    edges = edges_of(data[:, 1, 0])
    np.testing.assert_array_equal(filled.edges, edges)
    width = edges[1] - edges[0]
    assert (filled.values * width).sum() == pytest.approx(
        ((data[:, 1, 0] >= edges[0]) & (data[:, 1, 0] <= edges[-1])).mean()
    )
    np.testing.assert_allclose(line.values * width, shares(samples[:, 1, 0], edges))
    assert figure.axes[1].texts[0].get_text().startswith("10.")  # percent of samples outside
    assert figure.axes[0].get_title() == "a" and figure.axes[0].get_xlabel() == "mm"


def test_more_coordinates_than_panels_are_told():
    figure = marginals(np.zeros((5, 30)), np.ones((5, 30)))
    assert "the first 16 of 30 coordinates" in figure.get_suptitle()


# Quality


def test_the_chart_shows_means_and_standard_errors(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(quality_module, "save", lambda figure, path: kept.append(figure) or path)
    runs = [
        Quality("fire", "flow", nll, m) for m, nll in ((1, 3.0), (1, 4.0), (1, 5.0), (9, -1.5))
    ]
    level = [Quality("fire", "kernel", v) for v in (1.0, 2.0)]
    quality_chart([*runs, *level, Quality("fire", "theirs", -1.0, published=True)], tmp_path / "a")
    ax = close(kept[0]).axes[0]
    line, _, (bars,) = ax.containers[0]
    np.testing.assert_array_equal(line.get_xydata(), [[1, 4.0], [9, -1.5]])
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(2 / np.sqrt(3))
    levels = [other.get_ydata()[0] for other in ax.lines if len(set(other.get_ydata())) == 1]
    assert {1.5, -1.0} <= set(levels)
    names = {text.get_text() for text in ax.texts}
    assert names == {"flow −1.50", "kernel 1.50", "theirs −1.00"}
    assert ax.get_xscale() == "log"


def test_names_are_moved_apart_the_least():
    places = np.sort(np.random.default_rng(0).uniform(0, 0.6, 9))
    found = spread(places, apart=0.08)
    assert np.diff(found).min() > 0.08 - 1e-12
    steps = np.tri(9)  # the first place, then the gaps
    limits = (np.array([-np.inf] + [0.08] * 8), np.full(9, np.inf))
    best = steps @ lsq_linear(steps, places, limits, tol=1e-12).x
    np.testing.assert_allclose(found, best, atol=1e-5)


# The one call


def points_in(space, rows, seed):
    kind, _, n = space.partition(":")
    random = np.random.default_rng(seed)
    match kind:
        case "sphere":
            x = random.standard_normal((rows, int(n) + 1))
            return x / np.linalg.norm(x, axis=1, keepdims=True)
        case "so3":
            return Rotation.random(rows, random_state=seed).as_matrix()
        case "spd" | "log-euclidean":
            return covariances(rows, int(n), seed)
        case "simplex":
            return random.dirichlet(np.ones(int(n)), rows)
        case "hyperbolic":
            v = random.standard_normal((rows, int(n)))
            return np.concatenate([np.sqrt(1 + (v**2).sum(1, keepdims=True)), v], 1)
        case "ball":
            return 0.5 * np.tanh(random.standard_normal((rows, int(n))))
        case _:
            return random.uniform(-3, 3, (rows, int(n)))


SIZES = {  # inches: which picture a space gets shows in its size
    "sphere:2": (9.6, 2.7),
    "sphere:3": (10.0, 2.55),
    "torus:2": (7.1, 3.35),
    "torus:3": (4.75, 4.8),
    "torus:9": (10.0, 6.55),
    "so3": (9.6, 5.2),
    "spd:2": (10.2, 7.0),
    "log-euclidean:4": (10.2, 3.5),
    "simplex:3": (8.4, 3.9),
    "simplex:4": (10.0, 2.55),
    "hyperbolic:2": (10.4, 3.6),
    "ball:3": (10.4, 3.6),
    "ball:1": (2.5, 2.55),
    "euclidean:2": (5.0, 2.55),
}


@pytest.mark.parametrize("space", SIZES)
def test_each_space_gets_its_picture(space, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: kept.append(figure) or path)
    samples = torch.tensor(points_in(space, 30, 0), dtype=torch.float32, requires_grad=True)
    path = picture(space, samples, points_in(space, 40, 1), tmp_path / "a.png")
    assert path == tmp_path / "a.png"
    np.testing.assert_allclose(kept[0].get_size_inches(), SIZES[space])


def test_a_picture_is_written_and_replaces_the_one_before(tmp_path):
    x = points_in("simplex:3", 9, 0)
    first = picture("simplex:3", x, x, tmp_path / "a.png").read_bytes()
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    size = tuple(int.from_bytes(first[at : at + 4], "big") for at in (16, 20))
    assert size == (150 * 8.4, 150 * 3.9)
    assert picture("simplex:3", x, x[:5], tmp_path / "a.png").read_bytes() != first
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


# What is refused

SPHERE = points_in("sphere:2", 4, 0)


@pytest.mark.parametrize("space", ["sphere", "klein:2", "torus:0", "so3:3", "spd:-1", ""])
def test_an_unknown_space_is_refused(space, tmp_path):
    with pytest.raises(ValueError, match="space is .* must be so3 or one of sphere, torus"):
        picture(space, SPHERE, SPHERE, tmp_path / "a.png")


@pytest.mark.parametrize(
    ("space", "samples", "message"),
    [
        ("sphere:2", SPHERE[:, :2], r"samples has shape \(4, 2\), must be \(rows, 3\)"),
        ("sphere:2", SPHERE[:0], "with at least one row"),
        ("sphere:2", 2 * SPHERE, "samples has length 2 in row ., must be 1: give unit vectors"),
        ("sphere:2", SPHERE * [[1], [np.nan], [1], [np.inf]], "not finite in 2 of 4 rows.* row 1"),
        ("so3", -np.eye(3)[None], "samples is off by 2 from a rotation in row 0"),
        ("spd:2", -np.eye(2)[None], "samples is not symmetric and positive definite in 1 of 1"),
        ("spd:2", np.array([[[1.0, 0.2], [0.1, 1.0]]]), "samples is not symmetric"),
        ("simplex:3", np.full((2, 3), 0.5), "must be probabilities that sum to 1"),
        ("ball:2", np.array([[0.8, 0.8]]), "length 1.13137 in row 0"),
    ],
)
def test_what_is_no_point_is_refused(space, samples, message, tmp_path):
    good = points_in(space, 4, 0)
    with pytest.raises(ValueError, match=message):
        picture(space, samples, good, tmp_path / "a.png")
    with pytest.raises(ValueError, match=message.replace("samples", "data")):
        picture(space, good, samples, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_density_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"log_density gave shape \(\d+, 1\) for \d+ points"):
        sphere_maps(SPHERE, SPHERE, log_density=lambda p: p[:, :1], pixels=20)
    with pytest.raises(ValueError, match="log_density gave shape"):
        ramachandran(SPHERE[:, :2], SPHERE[:, :2], log_density=lambda p: p)


def test_a_density_of_zero_is_drawn_and_none_is_refused():
    x = SPHERE[:, :2]

    def half(points):
        return np.where(points[:, 0] > 0, np.log(2), -np.inf)

    field = close(ramachandran(x, x, log_density=half)).axes[2].images[0].get_array()
    assert field.mask[:, :45].all() and not field.mask[:, 45:].any()
    value = close(sphere_maps(SPHERE, SPHERE, log_density=half, pixels=30)).axes[2].images[0]
    assert np.isfinite(value.get_array()).all()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"infinite at 8100 of 8100 points, the first is \["):
            ramachandran(x, x, log_density=lambda p, bad=bad: np.full(len(p), bad))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: density_on_map(lambda p: p[:, 0], Globe(Mollweide()), 1), "pixels is 1"),
        (lambda: ramachandran(SPHERE[:, :2], SPHERE[:, :2], cell=7.0), "must divide 360"),
        (lambda: ramachandran(SPHERE[:, :2], SPHERE[:, :2], names=["a"]), "names has 1 entries"),
        (lambda: angle_pairs(np.zeros((2, 9)), np.zeros((2, 9))), "data has 9 angles"),
        (lambda: marginals(SPHERE, SPHERE, names=["x"]), "must have 3: one per coordinate"),
        (lambda: triangles(np.eye(3), np.eye(3), names=["x"]), "must have 3: one per outcome"),
        (lambda: discs(np.zeros((1, 1)), np.zeros((1, 1))), "must have at least 2"),
        (lambda: quality_chart([], "a.png"), "rows is empty"),
        (lambda: quality_chart([Quality("a", "b", np.nan)], "a.png"), "nll must be finite"),
        (lambda: quality_chart([Quality("a", "b", 1.0, 0.0)], "a.png"), "minutes positive"),
    ],
)
def test_wrong_arguments_are_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_missing_matplotlib_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib: pip install 'structdiff\[plot\]'"):
        picture("sphere:2", SPHERE, SPHERE, tmp_path / "a.png")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OSError, match="could not write"):
        picture("euclidean:1", np.zeros((3, 1)), np.ones((3, 1)), tmp_path / "no" / "a.png")
