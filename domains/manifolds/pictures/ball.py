"""Pictures of the hyperbolic plane in Poincare's disc.

A point of the hyperboloid (x_0, x), x_0^2 = 1 + |x|^2, is y = x / (1 + x_0) of the disc; circles
about the middle with radius tanh(r / 2) are at distance r.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import (
    DATA_DOT,
    EDGE,
    GRID,
    MOST,
    SAMPLE,
    Floats,
    counted,
    dots,
    headed,
    plain,
    points_of,
    sheet,
    shown,
    tidy,
    word,
)
from structdiff.domains.manifolds.pictures.histograms import both, edges_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["discs", "in_ball", "radius_of"]


def discs(samples: Floats, data: Floats, *, title: str = "") -> Figure:
    """Data and samples in the disc, and their distances from its middle.

    Arguments:
        samples: Drawn points of the Poincare ball, `(rows, n)`; the first two coordinates are
            drawn.
        data: Real ones.
        title: What the points are.

    Raises:
        ValueError: If points have fewer than two coordinates or are not inside the ball.
    """
    data = _inside(points_of(data, (None,), "data"), "data")
    samples = _inside(points_of(samples, (data.shape[1],), "samples"), "samples")
    figure = sheet(10.4, 3.6 + (0.3 if title else 0.0))
    *axes, last = figure.subplots(1, 3)
    pairs = ((data, "data", DATA_DOT), (samples, "samples", SAMPLE))
    shadow = ", coordinates 1 and 2" if data.shape[1] > 2 else ""
    for ax, (x, name, colour) in zip(axes, pairs, strict=True):
        _base(ax)
        dots(ax, shown(x)[:, :2], colour, zorder=4)
        plain(ax, counted(name, x, MOST) + shadow)
    near, far = radius_of(samples), radius_of(data)
    edges = edges_of(far)
    both(last, near, far, np.linspace(0, edges[-1], len(edges)))
    tidy(last, "distance from the middle", "hyperbolic distance", "density")
    last.set_box_aspect(0.8)
    return headed(figure, title)


def in_ball(points: Floats) -> Floats:
    """Points of the hyperboloid, `(rows, n + 1)` with x_0 first, in the ball, `(rows, n)`."""
    return np.asarray(points[:, 1:] / (1 + points[:, :1]))


def radius_of(points: Floats) -> Floats:
    """Distance from the middle of the ball."""
    return np.asarray(2 * np.arctanh(np.linalg.norm(points, axis=1)))


def _base(ax: Axes) -> None:
    from matplotlib.patches import Circle

    ax.add_patch(Circle((0, 0), 1, fc="#f8f9fb", ec=EDGE, lw=0.9))
    for r in range(1, 6):
        reach = np.tanh(r / 2)
        ax.add_patch(Circle((0, 0), reach, fc="none", ec=GRID, lw=0.7, zorder=1))
        if r < 4:
            word(ax, -reach, 0.0, str(r), fontsize=7)
    ax.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), aspect="equal")
    ax.set_axis_off()


def _inside(points: Floats, name: str) -> Floats:
    length = np.linalg.norm(points, axis=1)
    worst = int(length.argmax())
    if points.shape[1] < 2 or length[worst] >= 1:
        raise ValueError(
            f"{name} has {points.shape[1]} coordinates and length {length[worst]:.6g} in row "
            f"{worst}, must have at least 2 and length below 1: give points of the open ball"
        )
    return points
