"""A chart of what computing time buys: held-out log likelihood against minutes of a processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.manifolds.pictures.canvas import (
    EDGE,
    Floats,
    headed,
    logarithmic,
    save,
    sheet,
    tidy,
)
from structdiff.reports.charts import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Quality", "quality_chart", "summary"]

_MARKS = "osD^v"
_APART = 0.075  # of the height of a panel, between two names


@dataclass(frozen=True)
class Quality:
    """How well one model describes held-out data.

    Arguments:
        data: Name of the data set, a panel each.
        method: Name of the model.
        nll: Mean of -log p over held-out points, in nats; less is better.
        minutes: Processor minutes of training; None draws a level line.
        published: Whether the figure is from a publication and was not measured here.
    """

    data: str
    method: str
    nll: float
    minutes: float | None = None
    published: bool = False


def quality_chart(
    rows: Iterable[Quality], path: Path | str, *, columns: int = 2, title: str = ""
) -> Path:
    """Draws a panel for each data set; rows that differ in `nll` alone are seeds of one model.

    Points are means over the seeds, bars and bands their standard errors. Models without minutes
    are level lines, dotted when measured here and dashed when published.

    Arguments:
        rows: What was measured and what is published.
        path: The PNG to write.
        columns: Panels in a row.
        title: Over all panels.

    Raises:
        ValueError: If there is no row, or a number is not finite or minutes are not positive.
    """
    rows = list(rows)
    _check(rows)
    names = list(dict.fromkeys(row.data for row in rows))
    columns = min(columns, len(names))
    lines = -(-len(names) // columns)
    figure = sheet(5.3 * columns, 3.3 * lines + (0.3 if title else 0.0))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    methods = list(dict.fromkeys(row.method for row in rows if row.minutes is not None))
    for index, ax in enumerate(axes):
        if index >= len(names):
            ax.set_axis_off()
            continue
        _panel(ax, [row for row in rows if row.data == names[index]], methods)
        tidy(
            ax, names[index], "training, CPU-minutes" if index + columns >= len(names) else "",
            "held-out −log p, nats" if index % columns == 0 else "",
        )  # fmt: skip
    return save(headed(figure, title), path)


def summary(nll: Floats) -> tuple[float, float]:
    """Mean and standard error of seeds; the error of one seed is 0.

    Example:
        >>> summary(np.array([1.0, 2.0, 3.0]))
        (2.0, 0.57735)
    """
    error = nll.std(ddof=1) / np.sqrt(len(nll)) if len(nll) > 1 else 0.0
    return float(nll.mean()), float(error)


def _check(rows: Sequence[Quality]) -> None:
    if not rows:
        raise ValueError("rows is empty, must hold at least one model: there is nothing to draw")
    for row in rows:
        if not np.isfinite(row.nll) or not (row.minutes is None or 0 < row.minutes < np.inf):
            raise ValueError(
                f"{row} cannot be drawn: nll must be finite and minutes positive; leave it out"
            )


def _panel(ax: Axes, rows: Sequence[Quality], methods: Sequence[str]) -> None:
    ends: list[tuple[float, str, str]] = []
    for index, method in enumerate(methods):
        mine = [row for row in rows if row.method == method and row.minutes is not None]
        if not mine:
            continue
        minutes = sorted({row.minutes for row in mine if row.minutes is not None})
        stats = [summary(np.array([row.nll for row in mine if row.minutes == m])) for m in minutes]
        mean, error = np.array(stats).T
        colour = COLOURS[index % len(COLOURS)]
        ax.errorbar(
            minutes, mean, error, color=colour, marker=_MARKS[index % len(_MARKS)], ms=4.5,
            lw=1.6, capsize=2.5, elinewidth=1.1, zorder=4,
        )  # fmt: skip
        ends.append((float(mean[-1]), _named(method, mean[-1]), colour))
    for level in dict.fromkeys((r.method, r.published) for r in rows if r.minutes is None):
        values = [r.nll for r in rows if r.minutes is None and (r.method, r.published) == level]
        mean_, error_ = summary(np.array(values))
        colour, dash = (EDGE, (0, (5, 3))) if level[1] else ("#5c6470", (0, (1, 1.5)))
        ax.axhline(mean_, color=colour, lw=1.2, ls=dash, zorder=2)
        if error_:
            ax.axhspan(mean_ - error_, mean_ + error_, color=colour, alpha=0.15, lw=0)
        ends.append((mean_, _named(level[0], mean_), "#5c6470"))
    logarithmic(ax, "x")
    _names(ax, ends)


def _named(method: str, nll: float) -> str:
    return f"{method} {f'{nll:.2f}'.replace('-', '−')}"


def _names(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines, moved apart where they would cover one another."""
    low, high = ax.get_ylim()
    ends = sorted(ends)
    place = spread(np.array([(y - low) / (high - low) for y, _, _ in ends]))
    for (y, name, colour), put in zip(ends, place, strict=True):
        ax.annotate(
            name, xy=(1.0, (y - low) / (high - low)), xytext=(1.04, put), xycoords="axes fraction",
            fontsize=7.5, color=colour, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
    ax.set_ylim(low, high)


def spread(places: Floats, apart: float = _APART) -> Floats:
    """Sorted places moved the least (in squares) so that neighbours are so far apart.

    The places less their due distances must not fall: the least squares answer is the mean of each
    run that would fall (pool adjacent violators).

    Example:
        >>> spread(np.array([0.5, 0.5, 0.9]), apart=0.2)
        array([0.4, 0.6, 0.9])
    """
    due = np.arange(len(places)) * apart
    runs: list[list[float]] = []
    for value in places - due:
        runs.append([float(value)])
        while len(runs) > 1 and np.mean(runs[-2]) > np.mean(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    level = np.concatenate([np.full(len(run), np.mean(run)) for run in runs])
    return np.asarray(due + level, dtype=np.float64)
