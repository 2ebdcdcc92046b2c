"""Plots of an evaluation of molecules: sizes, elements and chemistry beside the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.molecules.measures.chemistry import ChemistryReport
from structdiff.domains.molecules.measures.geometry import angle_name, bond_name
from structdiff.domains.molecules.measures.laws import Values
from structdiff.domains.molecules.structures import SYMBOLS, Structures
from structdiff.reports.charts import COLOURS, DATA, framed, keep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PICTURES", "chemistry_charts", "histograms"]

PICTURES = {
    "bonds": "Lengths of the most frequent bonds (- single, = double, # triple, : aromatic), "
    "drawn ones beside the data.",
    "angles": "Angles at the most frequent atoms, and dihedral angles about the most frequent "
    "bonds that have some.",
    "properties": "Likeness to drugs, partition coefficient, and ease of synthesis.",
    "rings": "Sizes of rings, rings per molecule, and strain.",
}
"""Names of the pictures of chemistry, and what they show."""
_BINS = 40


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


def chemistry_charts(report: ChemistryReport, folder: Path) -> list[Path]:
    """Draws lengths, angles, properties and rings, drawn ones beside the data.

    Values beyond the ends of an axis are in its outer bins.

    Arguments:
        report: What was measured.
        folder: Where the PNGs go, named as in `PICTURES`.
    """
    drawn, real = report.drawn, report.real
    lengths, angles, dihedrals = zip(drawn.geometry, real.geometry, strict=True)
    panels = {
        "bonds": _by_kind(lengths, 4, bond_name, "Angstrom"),
        "angles": [
            *_by_kind(angles, 2, angle_name, "degrees"),
            *_by_kind(dihedrals, 2, lambda kind: f"about {bond_name(kind)}", "degrees"),
        ],
        "properties": [
            (name, "", (mine, real.properties[name])) for name, mine in drawn.properties.items()
        ],
        "rings": [
            ("ring sizes", "atoms", _as_values(drawn.rings[0], real.rings[0])),
            ("rings per molecule", "", _as_values(drawn.rings[1], real.rings[1])),
            ("strain", "kcal/mol", (drawn.strain, real.strain)),
        ],
    }
    return [
        path for name, each in panels.items() if (path := _overlaid(each, folder / f"{name}.png"))
    ]


_Panel = tuple[str, str, tuple[Values, Values]]


def _by_kind(
    both: tuple[Values, Values], most: int, name: Callable[[int], str], unit: str
) -> list[_Panel]:
    """Drawn and real values of the kinds that are most frequent in the data."""
    kinds, counts = np.unique(both[1].kind, return_counts=True)
    chosen = kinds[np.argsort(-counts, kind="stable")][:most].tolist()
    return [(name(kind), unit, (both[0].only(kind), both[1].only(kind))) for kind in chosen]


def _as_values(drawn: Values, real: Values) -> tuple[Values, Values]:
    """Kinds that are numbers, as values."""
    first, second = (Values.of(each.kind, each.owner) for each in (drawn, real))
    return first, second


def _overlaid(panels: Sequence[_Panel], path: Path) -> Path | None:
    """One picture of several histograms; none is left where there is nothing to draw."""
    if not panels:
        path.unlink(missing_ok=True)
        return None
    figure, axes = framed(len(panels))
    for ax, (title, unit, both) in zip(axes, panels, strict=True):
        _overlay(ax, *(each.value[np.isfinite(each.value)] for each in both))
        ax.set(title=title, xlabel=unit, ylabel="share")
    keep(figure, path)
    return path


def _overlay(ax: Axes, drawn: NDArray[np.float64], real: NDArray[np.float64]) -> None:
    edges = _edges(drawn, real)
    shares = [
        np.histogram(np.clip(each, edges[0], edges[-1]), edges)[0] / max(1, len(each))
        for each in (drawn, real)
    ]
    ax.stairs(shares[1], edges, fill=True, color=DATA, label=f"data ({len(real):,})")
    ax.stairs(shares[0], edges, color=COLOURS[0], lw=1.6, label=f"drawn ({len(drawn):,})")


def _edges(drawn: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins for both: of whole numbers one for each, else those about most of the data."""
    both = np.concatenate([drawn, real, np.zeros(0 if len(drawn) + len(real) else 1)])
    if (both == np.rint(both)).all() and np.ptp(both) < _BINS:
        return np.asarray(np.arange(both.min(), both.max() + 2) - 0.5)
    low, high = np.quantile(real if len(real) else both, [0.005, 0.995])
    margin = 0.15 * (high - low) + 1e-3
    low, high = max(low - margin, both.min()), min(high + margin, both.max())
    return np.linspace(low, max(high, low + margin), _BINS + 1)
