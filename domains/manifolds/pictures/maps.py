"""Maps of the sphere S^2: points, and log densities on an equal-area grid.

The Earth is drawn with its land on the Equal Earth projection, other spheres as an ellipse
(Mollweide) with their axes named. Densities are against the area of the unit sphere, so the
uniform one is -log(4 pi) = -2.53 nats everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.manifolds.pictures.canvas import (
    DATA_DOT,
    EDGE,
    GRID,
    MOST,
    SAMPLE,
    TEST,
    Floats,
    LogDensity,
    colour_bar,
    counted,
    density_of,
    dots,
    headed,
    plain,
    points_of,
    sheet,
    shown,
    word,
)
from structdiff.domains.manifolds.pictures.coastlines import rings
from structdiff.domains.manifolds.pictures.projections import (
    EqualEarth,
    Mollweide,
    Projection,
    angles,
    directions,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.patches import Polygon

__all__ = ["Density", "Globe", "density_on_map", "sphere_maps"]

_LAND, _SEA = "#dfe2e7", "#f8f9fb"
_AXES = {"+x": (1.0, 0.0, 0.0), "+y": (0.0, 1.0, 0.0), "−y": (0.0, -1.0, 0.0),
         "+z": (0.0, 0.0, 1.0), "−z": (0.0, 0.0, -1.0)}  # fmt: skip


def sphere_maps(
    samples: Floats,
    data: Floats,
    *,
    log_density: LogDensity | None = None,
    test: Floats | None = None,
    earth: bool = True,
    centre: float = 0.0,
    pixels: int = 300,
    title: str = "",
) -> Figure:
    """Maps of data and of samples side by side, and below them the log density with test points.

    Arguments:
        samples: Drawn points, unit vectors `(rows, 3)`.
        data: Real ones.
        log_density: Log density of points, in nats against the area of the unit sphere; it is
            asked once, with all points of the grid.
        test: Held-out points that are drawn on the log density.
        earth: Whether the sphere is the Earth, with longitude 0 at x and the north pole at z.
        centre: The longitude in the middle of the map, in degrees.
        pixels: Columns of the grid of the log density; about 0.39 pixels^2 points are asked.
        title: What the points are.

    Raises:
        ValueError: If points are not vectors of length 1, or the density has another shape.
    """
    globe = Globe(EqualEarth() if earth else Mollweide(), centre=centre, land=earth)
    names, colours = ("data", "samples"), (DATA_DOT, SAMPLE)
    both = [_unit(x, name) for x, name in zip((data, samples), names, strict=True)]
    head = 0.3 if title else 0.0
    figure = sheet(9.6, head + (7.1 if log_density else 2.7))
    upper, *lower = figure.subfigures(
        2 if log_density else 1, 1, height_ratios=[1, 1.75] if log_density else [1], squeeze=False
    )[:, 0]
    axes = upper.subplots(1, 2)
    for ax, name, colour, points in zip(axes, names, colours, both, strict=True):
        globe.base(ax)
        globe.scatter(ax, points, colour)
        plain(ax, counted(name, points, MOST))
    if log_density is not None:
        held_out = None if test is None else _unit(test, "test")
        _density_panel(lower[0], globe, density_on_map(log_density, globe, pixels), held_out)
    return headed(figure, title)


def _density_panel(figure: SubFigure, globe: Globe, density: Density, test: Floats | None) -> None:
    ax = figure.subplots()
    globe.base(ax, filled=False)
    _paint(figure, ax, globe, density)
    words = "log density of the model"
    if test is not None:
        globe.scatter(ax, test, TEST, edgecolor="white", lw=0.35, alpha=0.9)
        words = f"{words} and {counted('held-out points', test, MOST)}"
    plain(ax, words)


@dataclass(frozen=True)
class Density:
    """A log density on a grid of the map, all cells of one area.

    Arguments:
        value: Nats, `(rows, columns)`, from south to north; outside the map the nearest inside.
        inside: Which cells have their centre on the map.
        extent: Left, right, bottom and top of the grid.
    """

    value: Floats
    inside: NDArray[np.bool_]
    extent: tuple[float, float, float, float]

    @property
    def mass(self) -> float:
        """The integral of the density, 1 where the grid resolves it."""
        return float(4 * np.pi * np.exp(self.value[self.inside]).mean())


class Globe:
    """Draws on a map of the unit sphere.

    Arguments:
        projection: How the sphere is laid flat.
        centre: The longitude in the middle, in degrees.
        land: Whether to draw the land of the Earth; otherwise the axes are named.
    """

    def __init__(self, projection: Projection, *, centre: float = 0.0, land: bool = True) -> None:
        self.projection, self.centre, self.land = projection, math.radians(centre), land

    def place(self, points: Floats) -> tuple[Floats, Floats]:
        """Where vectors `(rows, 3)` lie on the map."""
        longitude, latitude = angles(points)
        return self.projection.forward(self.turned(longitude), latitude)

    def turned(self, longitude: Floats) -> Floats:
        """Longitudes from the middle of the map, in [-pi, pi)."""
        return np.asarray((longitude - self.centre + np.pi) % (2 * np.pi) - np.pi)

    def base(self, ax: Axes, *, filled: bool = True) -> None:
        """The empty map: its edge, lines of 30 degrees, land or names of the axes."""
        from matplotlib.patches import Polygon

        x, y = self.projection.outline()
        edge = Polygon(np.stack([x, y], 1), fc=_SEA if filled else "none", ec=EDGE, lw=0.8)
        ax.add_patch(edge)
        self._lines(ax)
        if self.land:
            self._land(ax, edge, filled=filled)
        else:
            self._axes(ax)
        ax.set(xlim=(1.01 * x.min(), 1.01 * x.max()), ylim=(1.02 * y.min(), 1.02 * y.max()))
        ax.set_aspect("equal")
        ax.set_axis_off()

    def scatter(self, ax: Axes, points: Floats, colour: str | Floats, **more: Any) -> None:
        """Points `(rows, 3)` on the map."""
        dots(ax, np.stack(self.place(shown(points)), 1), colour, zorder=5, **more)

    def _lines(self, ax: Axes) -> None:
        along, across = np.radians(np.linspace(-90, 90, 91)), np.radians([-180.0, 180.0])
        for degree in range(-150, 180, 30):
            x, y = self.projection.forward(self.turned(np.radians(degree + 0.0 * along)), along)
            ax.plot(x, y, color=GRID, lw=0.5, zorder=1)
        for degree in range(-60, 90, 30):
            x, y = self.projection.forward(across, np.radians([degree + 0.0] * 2))
            ax.plot(x, y, color=GRID, lw=0.5, zorder=1)

    def _land(self, ax: Axes, edge: Polygon, *, filled: bool) -> None:
        """The land three times, a turn apart, clipped by the edge: so it may cross the edge."""
        from matplotlib.collections import LineCollection
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        for turn in (-2 * np.pi, 0.0, 2 * np.pi):
            shores = [self._ring(ring, turn) for ring in rings()]
            if filled:
                codes = [_closed(len(ring)) for ring in shores]
                path = Path(
                    np.concatenate([np.concatenate([ring, ring[:1]]) for ring in shores]),
                    np.concatenate(codes),
                )
                patch = PathPatch(path, fc=_LAND, ec="none", zorder=2)
                ax.add_patch(patch).set_clip_path(edge)
            coasts = [part for ring, shore in zip(rings(), shores, strict=True)
                      for part in _coasts(ring, shore)]  # fmt: skip
            lines = LineCollection(
                coasts, colors=EDGE if filled else "#ffffff", lw=0.4 if filled else 0.6, zorder=4
            )
            ax.add_collection(lines).set_clip_path(edge)

    def _ring(self, ring: Floats, turn: float) -> Floats:
        longitude, latitude = np.radians(ring).T
        return np.stack(self.projection.forward(longitude - self.centre + turn, latitude), 1)

    def _axes(self, ax: Axes) -> None:
        for name, point in _AXES.items():
            x, y = self.place(np.array([point]))
            word(ax, x[0], 0.9 * y[0], name)


def density_on_map(log_density: LogDensity, globe: Globe, pixels: int) -> Density:
    """Asks for the log density at the middles of the cells that lie on the map.

    Arguments:
        log_density: See `sphere_maps`.
        globe: The map.
        pixels: Columns of the grid, at least 2.

    Raises:
        ValueError: If there are too few columns, or the answer is not one number per point.
    """
    if pixels < 2:
        raise ValueError(f"pixels is {pixels}, must be at least 2: give the columns of the grid")
    x, y = globe.projection.outline()
    wide, high = float(x.max()), float(y.max())
    rows = max(2, round(pixels * high / wide))
    across = wide * ((np.arange(pixels) + 0.5) / pixels * 2 - 1)
    up = high * ((np.arange(rows) + 0.5) / rows * 2 - 1)
    longitude, latitude = globe.projection.inverse(*np.meshgrid(across, up))
    inside = np.abs(longitude) <= np.pi
    points = directions((longitude + globe.centre)[inside], latitude[inside])
    value = np.full(inside.shape, np.nan)
    value[inside] = density_of(log_density, points)
    first, last = inside.argmax(1), pixels - 1 - inside[:, ::-1].argmax(1)
    nearest = np.clip(np.arange(pixels), first[:, None], last[:, None])
    value = np.take_along_axis(value, nearest, axis=1)
    return Density(value, inside, (-wide, wide, -high, high))


def _paint(figure: SubFigure, ax: Axes, globe: Globe, density: Density) -> None:
    """The density in colours from the uniform one less 6 nats to its highest values."""
    from matplotlib.patches import Polygon

    uniform = -math.log(4 * np.pi)
    value = np.maximum(density.value, uniform - 50)  # a density of 0 has a colour, too
    known = value[density.inside]
    top = max(uniform + 1.0, float(np.quantile(known, 0.9995)))
    low = min(max(float(known.min()), uniform - 6.0), uniform - 1.0)
    image = ax.imshow(
        value, extent=density.extent, origin="lower", cmap="viridis", vmin=low, vmax=top,
        interpolation="bilinear", zorder=3,
    )  # fmt: skip
    image.set_clip_path(Polygon(np.stack(globe.projection.outline(), 1), transform=ax.transData))
    colour_bar(figure, image, [ax], "log density, nats (area of the unit sphere)", uniform)


def _closed(points: int) -> NDArray[np.uint8]:
    """Path codes of a ring whose first point is repeated: move, lines, close."""
    return np.array([1] + [2] * (points - 1) + [79], dtype=np.uint8)


def _coasts(ring: Floats, shore: Floats) -> list[Floats]:
    """The ring's lines without those along the antimeridian and the south pole."""
    after = np.roll(ring, -1, axis=0)
    cut = (np.abs(ring[:, 0]) == 180) & (np.abs(after[:, 0]) == 180)
    cut |= (ring[:, 1] == -90) | (after[:, 1] == -90)
    line = np.concatenate([shore, shore[:1]])
    where = np.flatnonzero(cut)
    if not len(where):
        return [line]
    parts = np.split(np.arange(len(line)), where + 1)
    return [line[part] for part in parts if len(part) > 1]


def _unit(points: Floats, name: str) -> Floats:
    array = points_of(points, (3,), name)
    length = np.linalg.norm(array, axis=1)
    worst = int(np.abs(length - 1).argmax())
    if abs(length[worst] - 1) > 1e-3:
        raise ValueError(
            f"{name} has length {length[worst]:.4g} in row {worst}, must be 1: give unit vectors"
        )
    return array
