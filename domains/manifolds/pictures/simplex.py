"""Pictures of probabilities of three outcomes: points in a triangle."""

from __future__ import annotations

from collections.abc import Sequence
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
    word,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CORNERS", "triangles"]

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
"""Where each outcome is certain."""


def triangles(
    samples: Floats, data: Floats, *, names: Sequence[str] = (), title: str = ""
) -> Figure:
    """Data beside samples; a point is the mean of the corners with its probabilities as weights.

    Arguments:
        samples: Drawn probabilities, `(rows, 3)`.
        data: Real ones.
        names: What the outcomes are called.
        title: What the probabilities are.

    Raises:
        ValueError: If rows are not three probabilities that sum to 1.
    """
    names = list(names) or ["1", "2", "3"]
    if len(names) != 3:
        raise ValueError(f"names has {len(names)} entries, must have 3: one per outcome")
    figure = sheet(8.4, 3.9 + (0.3 if title else 0.0))
    pairs = ((data, "data", DATA_DOT), (samples, "samples", SAMPLE))
    for ax, (x, name, colour) in zip(figure.subplots(1, 2), pairs, strict=True):
        points = _probabilities(x, name)
        _base(ax, names)
        dots(ax, shown(points) @ CORNERS, colour, zorder=4)
        plain(ax, counted(name, points, MOST))
    return headed(figure, title)


def _base(ax: Axes, names: Sequence[str]) -> None:
    from matplotlib.patches import Polygon

    ax.add_patch(Polygon(CORNERS, fc="#f8f9fb", ec=EDGE, lw=0.9))
    for share in (0.2, 0.4, 0.6, 0.8):
        for corner in range(3):
            ends = [np.roll([share, 1 - share, 0], corner), np.roll([share, 0, 1 - share], corner)]
            ax.plot(*(np.array(ends) @ CORNERS).T, color=GRID, lw=0.7, zorder=1)
    middle = CORNERS[:, 1].mean()
    for corner, name in zip(CORNERS, names, strict=True):
        word(ax, corner[0], corner[1] + 0.05 * np.sign(corner[1] - middle), name, fontsize=9)
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.08, 0.96), aspect="equal")
    ax.set_axis_off()


def _probabilities(x: Floats, name: str) -> Floats:
    array = points_of(x, (3,), name)
    off = np.maximum(np.abs(array.sum(axis=1) - 1), -array.min(axis=1))
    worst = int(off.argmax())
    if off[worst] > 1e-3:
        raise ValueError(
            f"{name} is {array[worst]} in row {worst}, must be probabilities that sum to 1: "
            "divide each row by its sum"
        )
    return array
