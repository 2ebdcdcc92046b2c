"""Plots of an evaluation: how training went, and sizes and elements beside the data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from structdiff.artifacts import write_atomic
from structdiff.domains.molecules.structures import SYMBOLS, Structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "histograms"]

_INK, _GRID = "#2b2f36", "#e3e6eb"
_COLOURS = ("#3a63d8", "#dd3a34", "#2e7d4f", "#9a6412")
_DATA = "#b4bac4"


def curves(lines: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Draws loss and validation bound against updates; whether there was anything to draw.

    Arguments:
        lines: What training logged, a mapping a line.
        path: The PNG to write.
    """
    plain = ("step", "steps_per_second", "seconds")
    losses = [line for line in lines if "bound" not in line and len(line) > 1]
    bounds = [line for line in lines if "bound" in line]
    if not losses:
        return False
    figure, axes = _figure(2 if bounds else 1)
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
        axes[1].set(title="validation bound on -log p", xlabel="updates", ylabel="nats a molecule")
    _save(figure, path)
    return True


def _lines(
    ax: Axes, lines: Sequence[Mapping[str, Any]], names: Mapping[str, str], marker: str = ""
) -> None:
    for colour, (name, label) in zip(_COLOURS, names.items(), strict=False):
        there = [line for line in lines if name in line]
        x, y = [line["step"] for line in there], [line[name] for line in there]
        dot = marker or ("o" if len(x) == 1 else "")  # a line of one point is not seen
        ax.plot(x, y, color=colour, label=label, lw=1.4, marker=dot, ms=3.5)


def histograms(drawn: Structures, data: Structures, path: Path) -> None:
    """Draws shares of sizes and of elements, drawn ones beside those of the data.

    Arguments:
        drawn: Drawn molecules.
        data: Real ones.
        path: The PNG to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = _figure(2)
    both = np.concatenate([drawn.count, data.count])
    sizes = np.arange(both.min(), both.max() + 1)
    width = -(-len(sizes) // 40)
    edges = np.arange(sizes[0], sizes[-1] + width + 1, width) - 0.5
    shares = [np.histogram(s.count, edges)[0] / len(s) for s in (drawn, data)]
    middle = (edges[:-1] + edges[1:]) / 2
    left.bar(middle, shares[1], width * 0.92, color=_DATA, label=f"data ({len(data):,})")
    left.stairs(shares[0], edges, color=_COLOURS[0], lw=1.6, label=f"drawn ({len(drawn):,})")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(title="atoms per molecule", ylabel="share of molecules")
    elements = sorted({*drawn.elements, *data.elements})
    place = np.arange(len(elements))
    right.bar(place - 0.2, _elements(data, elements), 0.38, color=_DATA, label="data")
    right.bar(place + 0.2, _elements(drawn, elements), 0.38, color=_COLOURS[0], label="drawn")
    right.set_xticks(place, [SYMBOLS[z] for z in elements])
    right.set(title="elements", ylabel="share of atoms", yscale="log")
    _save(figure, path)


def _elements(structures: Structures, elements: Sequence[int]) -> NDArray[np.float64]:
    counts = np.bincount(structures.number, minlength=len(SYMBOLS))[list(elements)]
    return np.asarray(counts / len(structures.number))


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
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


def _save(figure: Figure, path: Path) -> None:
    for ax in figure.axes:
        ax.legend(frameon=False, fontsize=8, labelcolor=_INK)
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            text.set(fontsize=9, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
