"""What all pictures share: sheets of paper, colours, points, how a file is written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdiff.artifacts import write_atomic
from structdiff.reports.charts import COLOURS, DATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DATA_DOT",
    "EDGE",
    "GRID",
    "INK",
    "MOST",
    "SAMPLE",
    "TEST",
    "Floats",
    "counted",
    "dots",
    "plain",
    "points_of",
    "save",
    "sheet",
    "shown",
    "tidy",
]

Floats = NDArray[np.float64]

INK, EDGE, GRID = "#2b2f36", "#9aa1ac", "#e3e6eb"
SAMPLE = COLOURS[0]
"""Of what a model makes."""
DATA_DOT = "#4a515c"
"""Of single points of data, darker than their areas (`structdiff.reports.charts.DATA`)."""
TEST = "#d9541e"
"""Of points that no model has seen; told from the blue by all kinds of colour vision."""
MOST = 20_000
"""Points that are drawn at most."""


def points_of(x: ArrayLike | Any, event: tuple[int | None, ...], name: str) -> Floats:
    """The points as float64, from an array or a tensor on any device.

    Arguments:
        x: The points, `(rows, *event)`.
        event: What one point must be; None stands for any length.
        name: What to call them in a message.

    Raises:
        ValueError: If there is no point, its shape is another, or a number is not finite.
    """
    array = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
    fits = array.ndim == len(event) + 1 and all(
        want in (None, have) for want, have in zip(event, array.shape[1:], strict=True)
    )
    if not fits or not len(array):
        want = ", ".join(["rows", *("any" if one is None else str(one) for one in event)])
        raise ValueError(
            f"{name} has shape {array.shape}, must be ({want}) with at least one row; "
            "give one row per point"
        )
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} is not finite in {len(bad)} of {len(array)} rows, the first is row {bad[0]}; "
            "leave those rows out"
        )
    return array


def sheet(width: float, height: float) -> Figure:
    """An empty figure of a size in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        msg = "pictures need the library matplotlib: pip install 'structdiff[plot]'"
        raise ImportError(msg) from None
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path | str) -> Path:
    """Writes a figure as PNG, whole or not at all.

    Raises:
        OSError: If the file cannot be written.
    """
    path, buffer = Path(path), io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
    return path


def tidy(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Axes of a chart: light grid, no box, small dark words."""
    ax.grid(color=GRID, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    plain(ax, title, x, y)


def plain(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """The words of a panel, all of one size and ink."""
    ax.tick_params(which="both", colors=INK, labelsize=8)
    ax.set_title(title, fontsize=9.5, color=INK)
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)


def shown(x: Floats) -> Floats:
    """At most `MOST` of the points, evenly spread over the rows."""
    if len(x) <= MOST:
        return x
    return x[np.linspace(0, len(x) - 1, MOST).round().astype(np.int64)]


def counted(name: str, x: Floats) -> str:
    """A title that says how many points there are and how many are drawn.

    Example:
        >>> counted("samples", np.zeros((1200, 3)))
        'samples (n = 1,200)'
    """
    part = f", {MOST:,} drawn" if len(x) > MOST else ""
    return f"{name} (n = {len(x):,}{part})"


def dots(ax: Axes, x: Floats, y: Floats, colour: str | Floats, **more: Any) -> None:
    """Points whose size and transparency follow from how many there are."""
    size = float(np.clip(4200.0 / len(x), 1.2, 13.0))
    alpha = float(np.clip(16.0 / np.sqrt(len(x)), 0.3, 0.85))
    look = {"s": size, "alpha": alpha, "lw": 0.0, "color" if isinstance(colour, str) else "c": colour}
    ax.scatter(x, y, **{**look, **more})
