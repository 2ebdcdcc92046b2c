"""Plots that every evaluation has: their frame, and how training went."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structdiff.artifacts import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "DATA", "curves", "framed", "keep"]

COLOURS = ("#3a63d8", "#dd3a34", "#2e7d4f", "#9a6412")
"""Of what a model makes."""
DATA = "#b4bac4"
"""Of data."""
_INK, _GRID = "#2b2f36", "#e3e6eb"


def curves(
    lines: Sequence[Mapping[str, Any]], path: Path, *, unit: str = "nats a molecule"
) -> bool:
    """Draws loss and validation bound against updates; whether there was anything to draw.

    Arguments:
        lines: What training logged, a mapping a line.
        path: The PNG to write.
        unit: What the bound counts.
    """
    plain = ("step", "steps_per_second", "seconds")
    losses = [line for line in lines if "bound" not in line and len(line) > 1]
    bounds = [line for line in lines if "bound" in line]
    if not losses:
        return False
    figure, axes = framed(2 if bounds else 1)
    names = [name for name in losses[-1] if name not in plain]
    _lines(axes[0], losses, {name: name for name in names})
    axes[0].set(title="training loss", xlabel="updates")
    axes[0].set_ylim(bottom=min(0, axes[0].get_ylim()[0]))
    if bounds:
        _lines(
            axes[1],
            bounds,
            {name: name.removeprefix("bound_") for name in bounds[-1] if name.startswith("bound")}
            | {"bound": "total"},
            marker="o",
        )
        axes[1].set(title="validation bound on -log p", xlabel="updates", ylabel=unit)
    keep(figure, path)
    return True


def _lines(
    ax: Axes, lines: Sequence[Mapping[str, Any]], names: Mapping[str, str], marker: str = ""
) -> None:
    for colour, (name, label) in zip(COLOURS, names.items(), strict=False):
        there = [line for line in lines if name in line]
        x, y = [line["step"] for line in there], [line[name] for line in there]
        dot = marker or ("o" if len(x) == 1 else "")  # a line of one point is not seen
        ax.plot(x, y, color=colour, label=label, lw=1.4, marker=dot, ms=3.5)


def framed(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure of some panels in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * panels, 3.0), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for ax in axes:
        ax.grid(color=_GRID, lw=0.7)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(which="both", colors=_INK, labelsize=8)
    return figure, axes


def keep(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    for ax in figure.axes:
        ax.legend(frameon=False, fontsize=8, labelcolor=_INK)
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            text.set(fontsize=9, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
