"""What all pictures share: sheets of paper, colours, points, how a file is written."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from structdiff.artifacts import write_atomic
from structdiff.reports.charts import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "DATA_DOT",
    "EDGE",
    "GRID",
    "INK",
    "MOST",
    "SAMPLE",
    "TEST",
    "Floats",
    "LogDensity",
    "colour_bar",
    "counted",
    "density_of",
    "dots",
    "headed",
    "logarithmic",
    "plain",
    "points_of",
    "save",
    "sheet",
    "shown",
    "tidy",
    "word",
]

Floats = NDArray[np.float64]
LogDensity = Callable[[Floats], Any]
"""Points `(rows, *event)` to log densities `(rows,)` in nats, an array or a tensor."""

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


def density_of(log_density: LogDensity, points: Floats) -> Floats:
    """The log densities of points.

    Raises:
        ValueError: If the answer is not one number per point, below infinity.
    """
    answer = log_density(points)
    answer = answer.detach().cpu() if hasattr(answer, "detach") else answer
    value = np.asarray(answer, dtype=np.float64)
    if value.shape != (len(points),):
        raise ValueError(
            f"log_density gave shape {value.shape} for {len(points)} points, must be "
            f"({len(points)},): return one number of nats per point"
        )
    bad = ~(value < np.inf)
    if bad.any():
        raise ValueError(
            f"log_density is not a number or infinite at {bad.sum()} of {len(points)} points, the "
            f"first is {points[bad][0]}; only minus infinity, a density of 0, can be drawn"
        )
    return value


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


def headed(figure: Figure, title: str) -> Figure:
    """The figure with a title over all panels, if there is one."""
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure


def colour_bar(
    figure: Figure | SubFigure, image: Any, axes: Sequence[Axes], words: str, uniform: float
) -> None:
    """A bar of the log densities in some panels, with a mark at the uniform one."""
    images: list[Any] = [one for ax in axes for one in ax.images]
    known = np.concatenate([one.get_array().compressed() for one in images])
    below, above = known.min() < image.norm.vmin, known.max() > image.norm.vmax
    extend = ["neither", "min", "max", "both"][int(below) + 2 * int(above)]
    bar = figure.colorbar(image, ax=axes, shrink=0.78, pad=0.015, aspect=28, extend=extend)
    bar.set_label(words, fontsize=8.5, color=INK)
    bar.ax.tick_params(color=EDGE, labelcolor=INK, labelsize=8)
    bar.ax.axhline(uniform, color="white", lw=1.4)
    bar.ax.annotate(
        "uniform", (0, uniform), xytext=(-3, 0), textcoords="offset points", ha="right",
        va="center", fontsize=7.5, color=INK,
    )  # fmt: skip
    bar.outline.set_visible(False)


def word(ax: Axes, x: float, y: float, text: str, **more: Any) -> None:
    """A word inside a panel, with a light rim so that it is read over points and dark colours."""
    from matplotlib.patheffects import withStroke

    look = {"fontsize": 8, "color": INK, "ha": "center", "va": "center", "zorder": 6, **more}
    ax.text(x, y, text, path_effects=[withStroke(linewidth=2, foreground="#ffffffcc")], **look)


def logarithmic(ax: Axes, name: str) -> None:
    """A log scale of the axis x or y whose ticks 1, 2, 5 are written as plain numbers."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    ax.set(**{f"{name}scale": "log"})
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())


def tidy(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Axes of a chart: light grid, no box, small dark words."""
    ax.grid(color=GRID, lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    plain(ax, title, x, y)


def plain(ax: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """The words of a panel, all of one size and ink."""
    ax.tick_params(which="both", color=EDGE, labelcolor=INK, labelsize=8)
    for spine in ax.spines.values():
        spine.set(color=EDGE, lw=0.8)
    ax.set_title(title, fontsize=9.5, color=INK)
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)


def shown(x: Floats, most: int = MOST) -> Floats:
    """At most so many of the points, evenly spread over the rows."""
    if len(x) <= most:
        return x
    return x[np.linspace(0, len(x) - 1, most).round().astype(np.int64)]


def counted(name: str, x: Floats, most: int = 0) -> str:
    """A title that says how many points there are, and how many are drawn if fewer.

    Example:
        >>> counted("samples", np.zeros((1200, 3)))
        'samples (n = 1,200)'
        >>> counted("samples", np.zeros((1200, 3)), most=500)
        'samples (n = 1,200, 500 drawn)'
    """
    part = f", {most:,} drawn" if 0 < most < len(x) else ""
    return f"{name} (n = {len(x):,}{part})"


def dots(ax: Axes, places: Floats, colour: str | Floats, **more: Any) -> None:
    """Points at places `(rows, 2)`; size and transparency follow from how many there are."""
    size = float(np.clip(6000.0 / len(places), 1.8, 9.0))
    alpha = float(np.clip(32.0 / np.sqrt(len(places)), 0.35, 0.85))
    kind = "color" if isinstance(colour, str) else "c"
    ax.scatter(*places.T, **{"s": size, "alpha": alpha, "lw": 0.0, kind: colour, **more})
