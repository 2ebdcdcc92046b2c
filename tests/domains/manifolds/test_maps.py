"""Maps keep areas, know land from sea, and show points and densities where they are."""

import numpy as np
import pytest
import torch
from matplotlib.projections.geo import MollweideAxes

from structdiff.domains.manifolds.pictures import (
    sphere_maps,
)
from structdiff.domains.manifolds.pictures.canvas import MOST, shown
from structdiff.domains.manifolds.pictures.coastlines import is_land, rings
from structdiff.domains.manifolds.pictures.maps import Globe, density_on_map
from structdiff.domains.manifolds.pictures.projections import (
    EqualEarth,
    Mollweide,
    angles,
    directions,
)

PROJECTIONS = [EqualEarth(), Mollweide()]
EARTH = 6371.0088**2  # square kilometres of a unit of area


def uniform(rows, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def shoelace(x, y):
    return 0.5 * np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)


def concentrated(mean, kappa):
    """The log density of von Mises and Fisher."""
    constant = np.log(kappa / (2 * np.pi * -np.expm1(-2 * kappa)))
    return lambda points: kappa * (points @ mean - 1) + constant


def close(figure):
    """Lays the figure out: what cannot be drawn fails here."""
    figure.canvas.draw()
    return figure


# Projections


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: type(p).__name__)
def test_a_projection_keeps_areas(projection):
    longitude, latitude = angles(uniform(500))
    latitude = np.clip(latitude, -1.5, 1.5)
    step = 1e-5
    wide = [projection.forward(longitude + d, latitude) for d in (step, -step)]
    high = [projection.forward(longitude, latitude + d) for d in (step, -step)]
    (a, b), (c, d) = ((np.array(p) - q) / (2 * step) for p, q in (wide, high))
    np.testing.assert_allclose(a * d - b * c, np.cos(latitude), atol=1e-7)


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: type(p).__name__)
def test_a_projection_is_undone(projection):
    longitude, latitude = angles(uniform(2000))
    back = projection.inverse(*projection.forward(longitude, latitude))
    np.testing.assert_allclose(back, [longitude, latitude], atol=1e-9)


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: type(p).__name__)
def test_the_outline_has_the_area_of_the_sphere(projection):
    assert shoelace(*projection.outline(2001)) == pytest.approx(4 * np.pi, rel=1e-5)


def test_mollweide_agrees_with_that_of_matplotlib():
    longitude, latitude = angles(uniform(500))
    theirs = MollweideAxes.MollweideTransform(60).transform(np.stack([longitude, latitude], 1))
    np.testing.assert_allclose(
        np.stack(Mollweide().forward(longitude, latitude), 1), theirs, atol=3e-3
    )


def test_mollweide_reaches_the_poles():
    x, y = Mollweide().forward(np.full(3, 1.0), np.pi / 2 - np.array([0.0, 1e-9, 1e-4]))
    # From 2 e - sin 2 e = pi (1 - cos d): e = (3 pi d^2 / 8)^(1/3) to first order.
    first = np.cbrt(3 * np.pi / 8 * np.array([0.0, 1e-9, 1e-4]) ** 2)
    np.testing.assert_allclose(x, 2 * np.sqrt(2) / np.pi * np.sin(first), rtol=1e-4)
    np.testing.assert_allclose(y, np.sqrt(2) * np.cos(first), rtol=1e-8)


def test_equal_earth_has_its_published_proportions():
    wide = EqualEarth().forward(np.array([np.pi] * 2), np.array([0.0, np.pi / 2]))
    assert wide[0][1] / wide[0][0] == pytest.approx(0.5924, abs=2e-4)  # pole line and equator
    assert wide[1][1] / wide[0][0] == pytest.approx(0.4867, abs=2e-4)  # height and width


# Coasts


@pytest.mark.parametrize(
    ("name", "longitude", "latitude", "land"),
    [
        ("Sahara", 15.0, 23.0, True),
        ("Siberia", 100.0, 62.0, True),
        ("Amazon", -60.0, -5.0, True),
        ("Chukotka, beyond the antimeridian", -175.0, 66.5, True),
        ("the south pole", 0.0, -89.5, True),
        ("Tasmania", 146.5, -42.2, True),
        ("mid Atlantic", -35.0, 30.0, False),
        ("mid Pacific", -140.0, 0.0, False),
        ("the Mediterranean", 18.0, 35.0, False),
        ("Hudson Bay", -85.0, 60.0, False),
        ("the Caspian Sea", 51.0, 42.0, False),
        ("the north pole", 0.0, 89.5, False),
    ],
)
def test_known_places_are_land_or_sea(name, longitude, latitude, land):
    assert bool(is_land(np.array([longitude]), np.array([latitude]))[0]) is land


def test_land_has_its_share_of_the_earth():
    areas = [shoelace(*EqualEarth().forward(*np.radians(ring).T)) for ring in rings()]
    assert sum(areas) / (4 * np.pi) == pytest.approx(0.292, abs=0.005)  # coarse coasts lose 0.003


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    ("inside", "area"),
    [((134.0, -25.0), 7.63e6), ((-42.0, 72.0), 2.13e6)],
    ids=["Australia", "Greenland"],
)
def test_islands_have_their_areas_on_the_map(projection, inside, area):
    def holds(ring):
        return (
            ring.min(0)[0] < inside[0] < ring.max(0)[0]
            and ring.min(0)[1] < inside[1] < (ring.max(0)[1])
        )

    island = min((ring for ring in rings() if holds(ring)), key=len)
    x, y = projection.forward(*np.radians(island).T)
    assert shoelace(x, y) * EARTH == pytest.approx(area, rel=0.03)


def test_rings_have_land_to_their_left():
    signed = [shoelace(*ring.T) for ring in rings()]
    lake = [ring for ring, area in zip(rings(), signed, strict=True) if area < 0]
    assert len(lake) == 1 and abs(lake[0].mean(0) - [51.2, 41.9]).max() < 0.1


@pytest.mark.parametrize("centre", [0.0, 150.0, -90.0])
def test_the_filled_land_is_the_land_wherever_the_map_is_cut(centre):
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

    globe, points = Globe(EqualEarth(), centre=centre), uniform(600)
    ax = Figure().subplots()
    globe.base(ax)
    patches = [p for p in ax.patches if isinstance(p, PathPatch)]
    places = np.stack(globe.place(points), 1)
    filled = np.any([p.get_path().contains_points(places) for p in patches], axis=0)
    truth = is_land(*np.degrees(angles(points)))
    assert len(patches) == 3
    assert (filled == truth).mean() > 0.995


# Maps


def test_places_stay_on_the_map_at_the_antimeridian():
    globe = Globe(EqualEarth(), centre=150.0)
    longitude = np.radians([-29.9, -30.1, 150.0])
    x, y = globe.place(directions(longitude, np.zeros(3)))
    edge = EqualEarth().forward(np.array([np.pi]), np.zeros(1))[0][0]
    np.testing.assert_allclose(x / edge, [-179.9 / 180, 179.9 / 180, 0.0], atol=1e-9)
    np.testing.assert_allclose(y, 0.0, atol=1e-12)


@pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("centre", [0.0, 150.0])
def test_a_density_on_the_map_integrates_to_one(projection, centre):
    mean = directions(np.array([2.8]), np.array([0.4]))[0]
    globe = Globe(projection, centre=centre)
    density = density_on_map(concentrated(mean, 50.0), globe, 200)
    assert density.mass == pytest.approx(1.0, abs=1e-3)
    row, column = np.unravel_index(np.argmax(density.value), density.value.shape)
    left, right, bottom, top = density.extent
    x = left + (right - left) * (column + 0.5) / density.value.shape[1]
    y = bottom + (top - bottom) * (row + 0.5) / density.value.shape[0]
    np.testing.assert_allclose([x, y], np.ravel(globe.place(mean[None])), atol=0.03)


def test_a_density_is_asked_once_inside_the_map():
    asked = []

    def log_density(points):
        asked.append(points)
        return torch.full((len(points),), -np.log(4 * np.pi), dtype=torch.float64)

    density = density_on_map(log_density, Globe(Mollweide()), 120)
    assert len(asked) == 1 and len(asked[0]) == density.inside.sum()
    assert density.inside.mean() == pytest.approx(np.pi / 4, abs=0.01)  # ellipse in its box
    np.testing.assert_allclose(np.linalg.norm(asked[0], axis=1), 1.0, atol=1e-12)
    assert density.mass == pytest.approx(1.0) and np.isfinite(density.value).all()


@pytest.mark.parametrize("earth", [True, False])
def test_maps_show_all_points_where_they_are(earth):
    data, samples, test = uniform(300), uniform(200, 1), uniform(50, 2)
    figure = close(
        sphere_maps(
            samples,
            data,
            log_density=concentrated(data[0], 10.0),
            test=test,
            earth=earth,
            pixels=60,
        )
    )
    globe = Globe(EqualEarth() if earth else Mollweide())
    for ax, points in zip(figure.axes, (data, samples, test), strict=False):
        drawn = ax.collections[-1].get_offsets()
        np.testing.assert_allclose(drawn, np.stack(globe.place(points), 1), atol=1e-12)
    assert [ax.get_title() for ax in figure.axes[:3]] == [
        "data (n = 300)",
        "samples (n = 200)",
        "log density of the model and held-out points (n = 50)",
    ]
    names = {text.get_text() for text in figure.axes[0].texts}
    assert names == (set() if earth else {"+x", "+y", "−y", "+z", "−z"})


def test_many_points_are_thinned_and_the_title_says_so():
    many = uniform(MOST + 5000)
    figure = sphere_maps(many[:10], many)
    assert len(figure.axes[0].collections[-1].get_offsets()) == MOST
    assert figure.axes[0].get_title() == f"data (n = {len(many):,}, {MOST:,} drawn)"
    np.testing.assert_array_equal(shown(many)[[0, -1]], many[[0, -1]])


def test_colours_reach_from_six_nats_below_the_uniform_density():
    data = uniform(20)
    figure = sphere_maps(data, data, log_density=concentrated(data[0], 100.0), pixels=80)
    low, high = figure.axes[2].images[0].get_clim()
    assert low == pytest.approx(-np.log(4 * np.pi) - 6)
    assert 1.0 < high < np.log(100 / (2 * np.pi)) + 1e-9
