"""Plots of an evaluation of molecules: sizes and elements beside the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.molecules.structures import SYMBOLS, Structures
from structdiff.reports.charts import COLOURS, DATA, framed, keep

__all__ = ["histograms"]


def histograms(drawn: Structures, data: Structures, path: Path) -> None:
    """Draws shares of sizes and of elements, drawn ones beside those of the data.

    Arguments:
        drawn: Drawn molecules.
        data: Real ones.
        path: The PNG to write.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = framed(2)
    both = np.concatenate([drawn.count, data.count])
    sizes = np.arange(both.min(), both.max() + 1)
    width = -(-len(sizes) // 40)
    edges = np.arange(sizes[0], sizes[-1] + width + 1, width) - 0.5
    shares = [np.histogram(s.count, edges)[0] / len(s) for s in (drawn, data)]
    middle = (edges[:-1] + edges[1:]) / 2
    left.bar(middle, shares[1], width * 0.92, color=DATA, label=f"data ({len(data):,})")
    left.stairs(shares[0], edges, color=COLOURS[0], lw=1.6, label=f"drawn ({len(drawn):,})")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(title="atoms per molecule", ylabel="share of molecules")
    elements = sorted({*drawn.elements, *data.elements})
    place = np.arange(len(elements))
    right.bar(place - 0.2, _elements(data, elements), 0.38, color=DATA, label="data")
    right.bar(place + 0.2, _elements(drawn, elements), 0.38, color=COLOURS[0], label="drawn")
    right.set_xticks(place, [SYMBOLS[z] for z in elements])
    right.set(title="elements", ylabel="share of atoms", yscale="log")
    keep(figure, path)


def _elements(structures: Structures, elements: Sequence[int]) -> NDArray[np.float64]:
    counts = np.bincount(structures.number, minlength=len(SYMBOLS))[list(elements)]
    return np.asarray(counts / len(structures.number))
