"""Histograms of single numbers, data against samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import (
    INK,
    SAMPLE,
    Floats,
    points_of,
    sheet,
    tidy,
)
from structdiff.reports.charts import DATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_PANELS", "both", "edges_of", "marginals", "shares"]

MOST_PANELS = 16
"""Coordinates that are drawn at most, the first ones."""


def marginals(
    samples: Floats,
    data: Floats,
    *,
    names: Sequence[str] = (),
    unit: str = "",
    title: str = "",
) -> Figure:
    """Histograms of each coordinate, data filled, samples as a line.

    Arguments:
        samples: Drawn points, `(rows, *event)`, in the units of the data.
        data: Real ones, with the same event.
        names: What the coordinates are called.
        unit: Of the coordinates, for the axes.
        title: What the points are.

    Raises:
        ValueError: If samples and data have other shapes, or the names are not as many.
    """
    real = np.asarray(data.detach().cpu() if hasattr(data, "detach") else data)
    real = points_of(real, (None,) * (real.ndim - 1), "data")
    drawn = points_of(samples, real.shape[1:], "samples")
    real, drawn = real.reshape(len(real), -1), drawn.reshape(len(drawn), -1)
    size = real.shape[1]
    names = list(names) or [f"coordinate {i + 1}" for i in range(size)]
    if len(names) != size:
        raise ValueError(f"names has {len(names)} entries, must have {size}: one per coordinate")
    panels = min(size, MOST_PANELS)
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure = sheet(2.5 * columns, 2.0 * rows + 0.55)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for index, ax in enumerate(axes):
        if index < panels:
            both(ax, drawn[:, index], real[:, index])
            tidy(ax, names[index], unit, "density" if index % columns == 0 else "")
        else:
            ax.set_axis_off()
    part = f", the first {panels} of {size} coordinates" if size > panels else ""
    words = f"data (n = {len(real):,}) filled, samples (n = {len(drawn):,}) as a line{part}"
    figure.suptitle(f"{title}: {words}" if title else words, fontsize=9.5, color=INK)
    return figure


def both(ax: Axes, samples: Floats, data: Floats, edges: Floats | None = None) -> None:
    """Densities of data and of samples in common bins; says which share of samples is outside."""
    edges = edges_of(data) if edges is None else edges
    width = np.diff(edges)
    ax.stairs(shares(data, edges) / width, edges, fill=True, color=DATA)
    ax.stairs(shares(samples, edges) / width, edges, color=SAMPLE, lw=1.4)
    ax.set(xlim=(edges[0], edges[-1]))
    ax.set_ylim(bottom=0)
    outside = float(((samples < edges[0]) | (samples > edges[-1])).mean())
    if outside >= 0.0005:
        ax.text(
            0.98, 0.97, f"{outside:.1%} of samples outside", transform=ax.transAxes, ha="right",
            va="top", fontsize=7, color=SAMPLE,
        )  # fmt: skip


def shares(x: Floats, edges: Floats) -> Floats:
    """Share of all numbers in each bin; those outside count in the whole.

    Example:
        >>> shares(np.array([0.5, 1.5, 1.6, 9.0]), np.array([0.0, 1.0, 2.0]))
        array([0.25, 0.5 ])
    """
    return np.asarray(np.histogram(x, edges)[0] / len(x), dtype=np.float64)


def edges_of(data: Floats, bins: int = 40) -> Floats:
    """Bins over the data less its thinnest tails, and a tenth more at both ends."""
    low, high = np.quantile(data, [0.002, 0.998])
    room = 0.1 * (high - low) or 0.5 * max(abs(float(low)), 1.0)
    return np.linspace(low - room, high + room, bins + 1)
