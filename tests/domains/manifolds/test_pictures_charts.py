"""What charts show: ellipses and means of matrices, shares, distances, likelihoods by minutes."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from structdiff.domains.manifolds.pictures import (
    Quality,
    discs,
    marginals,
    matrix_charts,
    quality_chart,
    triangles,
)
from structdiff.domains.manifolds.pictures import quality as quality_module
from structdiff.domains.manifolds.pictures.ball import in_ball, radius_of
from structdiff.domains.manifolds.pictures.histograms import edges_of, shares
from structdiff.domains.manifolds.pictures.matrices import ellipse
from structdiff.domains.manifolds.pictures.quality import spread
from tests.domains.manifolds.pictured import close, covariances, uniform

# Matrices


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
