"""The picture that each space gets, and what pictures of manifolds refuse."""

import sys

import numpy as np
import pytest
import torch

from structdiff.domains.manifolds import pictures
from structdiff.domains.manifolds.pictures import (
    Quality,
    angle_pairs,
    discs,
    marginals,
    picture,
    quality_chart,
    ramachandran,
    sphere_maps,
    triangles,
)
from structdiff.domains.manifolds.pictures.maps import Globe, density_on_map
from structdiff.domains.manifolds.pictures.projections import Mollweide
from tests.domains.manifolds.pictured import SPHERE, close, points_in

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
