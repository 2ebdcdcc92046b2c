"""Pictures of angles: Ramachandran plots of two, all pairs of more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.manifolds.pictures.canvas import (
    DATA_DOT,
    EDGE,
    INK,
    SAMPLE,
    Floats,
    LogDensity,
    colour_bar,
    counted,
    density_of,
    headed,
    plain,
    points_of,
    sheet,
)
from structdiff.domains.manifolds.pictures.histograms import shares
from structdiff.reports.charts import DATA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["MOST_ANGLES", "angle_pairs", "pair_counts", "ramachandran"]

MOST_ANGLES = 8
"""Angles of a picture of all pairs."""
_FULL = (-180.0, 180.0)
_TICKS = (-180, -90, 0, 90, 180)


def ramachandran(
    samples: Floats,
    data: Floats,
    *,
    log_density: LogDensity | None = None,
    names: Sequence[str] = (),
    cell: float = 4.0,
    title: str = "",
) -> Figure:
    """The density of two angles, data beside samples, and the model's own density.

    All panels have one scale of colours: the density in nats against the area in radians, so the
    uniform one is -2 log(2 pi) = -3.68; what is empty is white.

    Arguments:
        samples: Drawn angles in radians, `(rows, 2)`.
        data: Real ones.
        log_density: Log density of angles `(rows, 2)` in nats; it is asked once on the grid.
        names: What the two angles are called.
        cell: Width of a cell of the histogram in degrees.
        title: What the angles are.

    Raises:
        ValueError: If there are not two angles, or the cells do not fill the circle.
    """
    names = _named(names, 2)
    both = [points_of(x, (2,), name) for x, name in ((data, "data"), (samples, "samples"))]
    words = [counted(name, x) for name, x in zip(("data", "samples"), both, strict=True)]
    fields = [_log_of(pair_counts(x[:, 0], x[:, 1], cell), cell) for x in both]
    if log_density is not None:
        fields.append(_on_grid(log_density, cell))
        words.append("log density of the model")
    uniform = -2 * np.log(2 * np.pi)
    top = max(uniform + 1, *(float(np.nanquantile(f, 0.999)) for f in fields))
    figure = sheet(3.1 * len(fields) + 0.9, 3.35 + (0.3 if title else 0.0))
    axes = figure.subplots(1, len(fields), sharey=True)
    for ax, field, line in zip(axes, fields, words, strict=True):
        image = ax.imshow(
            field, extent=_FULL * 2, origin="lower", cmap="viridis",
            vmin=uniform - 5, vmax=top, interpolation="nearest",
        )  # fmt: skip
        _degrees(ax, line, f"{names[0]}, degrees", "")
    axes[0].set_ylabel(f"{names[1]}, degrees", fontsize=9, color=INK)
    colour_bar(figure, image, list(axes), "log density, nats (angles in radians)", uniform)
    return headed(figure, title)


def angle_pairs(
    samples: Floats,
    data: Floats,
    *,
    names: Sequence[str] = (),
    cell: float = 6.0,
    title: str = "",
) -> Figure:
    """All pairs of angles: data below the diagonal, samples above it, both on it.

    A panel above the diagonal is what its mirror image below it should look like. Colours are log
    densities, one scale for a pair.

    Arguments:
        samples: Drawn angles in radians, `(rows, angles)`.
        data: Real ones.
        names: What the angles are called.
        cell: Width of a cell in degrees.
        title: What the angles are.

    Raises:
        ValueError: If there are more than `MOST_ANGLES` angles or the names are not as many.
    """
    data = points_of(data, (None,), "data")
    size = data.shape[1]
    samples = points_of(samples, (size,), "samples")
    if not 2 <= size <= MOST_ANGLES:
        raise ValueError(
            f"data has {size} angles, must have 2 to {MOST_ANGLES}: draw their histograms instead"
        )
    names = _named(names, size)
    figure = sheet(1.35 * size + 0.7, 1.35 * size + (1.0 if title else 0.75))
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    axes = figure.subplots(size, size, squeeze=False)
    for row in range(size):
        _marginal(axes[row, row], samples[:, row], data[:, row], cell)
        for column in range(row):
            fields = [
                _log_of(pair_counts(x[:, column], x[:, row], cell), cell) for x in (data, samples)
            ]
            top = float(np.nanmax(fields[0]))
            _field(axes[row, column], fields[0], _map(DATA_DOT), top)
            _field(axes[column, row], fields[1].T, _map(SAMPLE), top)
    _label(axes, names)
    lines = [
        *([title] if title else []),
        f"{counted('data', data)} below the diagonal, {counted('samples', samples)} above",
    ]
    figure.suptitle((": " if size > 4 else "\n").join(lines), fontsize=8 + size / 4, color=INK)
    figure.supxlabel("degrees", fontsize=8, color=INK)
    return figure


def pair_counts(across: Floats, up: Floats, cell: float) -> Floats:
    """Counts of two angles (radians) in cells of some degrees, rows going up.

    Raises:
        ValueError: If the cells do not fill the circle.
    """
    cells = round(360 / cell) if cell > 0 else 0
    if cells < 2 or abs(cells * cell - 360) > 1e-9:
        raise ValueError(f"cell is {cell} degrees, must divide 360: give for example 4 or 5")
    edges = np.linspace(*_FULL, cells + 1)
    counts = np.histogram2d(_wrapped(up), _wrapped(across), bins=(edges, edges))[0]
    return np.asarray(counts, dtype=np.float64)


def _log_of(counts: Floats, cell: float) -> Floats:
    """Log density of counts in nats against radians, NaN where there is none."""
    area = np.radians(cell) ** 2
    with np.errstate(divide="ignore"):
        value = np.log(counts) - np.log(counts.sum() * area)
    return np.where(counts > 0, value, np.nan)


def _on_grid(log_density: LogDensity, cell: float) -> Floats:
    """The log density at the middles of the cells."""
    middle = np.radians(np.arange(-180 + cell / 2, 180, cell))
    across, up = np.meshgrid(middle, middle)
    points = np.stack([across.ravel(), up.ravel()], axis=1)
    value = density_of(log_density, points).reshape(across.shape)
    return np.where(value > -np.inf, value, np.nan)


def _wrapped(angle: Floats) -> Floats:
    """Degrees in [-180, 180)."""
    return np.asarray((np.degrees(angle) + 180) % 360 - 180)


def _degrees(ax: Axes, title: str, x: str, y: str) -> None:
    plain(ax, title, x, y)
    ax.set(xlim=_FULL, ylim=_FULL, xticks=_TICKS, yticks=_TICKS, aspect="equal")
    ax.axhline(0, color=EDGE, lw=0.5)
    ax.axvline(0, color=EDGE, lw=0.5)


def _field(ax: Axes, field: Floats, colours: Colormap, top: float) -> None:
    ax.imshow(
        field, extent=_FULL * 2, origin="lower", cmap=colours, vmin=top - 8, vmax=top,
        interpolation="nearest", aspect="equal",
    )  # fmt: skip


def _marginal(ax: Axes, samples: Floats, data: Floats, cell: float) -> None:
    edges = np.linspace(*_FULL, round(360 / cell) + 1)
    ax.stairs(shares(_wrapped(data), edges), edges, fill=True, color=DATA)
    ax.stairs(shares(_wrapped(samples), edges), edges, color=SAMPLE, lw=1.2)
    ax.set(xlim=_FULL, yticks=[], box_aspect=1)
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _label(axes: NDArray[np.object_], names: Sequence[str]) -> None:
    """Names on the left and below, ticks there alone."""
    last = len(names) - 1
    for row, line in enumerate(axes):
        for column, ax in enumerate(line):
            ticks = (-90, 0, 90)
            ax.set_xticks(ticks if row == last else [])
            if row != column:
                ax.set_yticks(ticks if column == 0 else [])
            plain(ax)
            if row == last:
                ax.set_xlabel(names[column], fontsize=9, color=INK)
            if column == 0:
                ax.set_ylabel(names[row], fontsize=9, color=INK)


def _map(colour: str) -> Colormap:
    """From nearly white to a colour and on to dark; perceived lightness falls throughout."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ink", ["#eef0f4", colour, "#10131a"])


_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ",
          "chi": "χ", "phi": "φ", "psi": "ψ", "omega": "ω"}  # fmt: skip


def _named(names: Sequence[str], size: int) -> list[str]:
    """Names of angles, in Greek letters where they are such."""
    names = list(names) or [f"angle {i + 1}" for i in range(size)]
    if len(names) != size:
        raise ValueError(f"names has {len(names)} entries, must have {size}: one per angle")
    return [_GREEK.get(name, name) for name in names]
