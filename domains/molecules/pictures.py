"""Pictures of molecules: a grid of them, and how they form."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from structdiff.domains.molecules.chemistry import Verdict, plain_bonds
from structdiff.domains.molecules.drawing import ASPECT, frame, render
from structdiff.domains.molecules.readers.files import check_free, write_atomically
from structdiff.domains.molecules.structures import Structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from structdiff.domains.molecules.drawing import Image

__all__ = ["grid", "trajectory"]

_INK, _PANEL = "#2b2f36", "#f3f5f8"
_GOOD, _FAIR, _BAD = "#2e7d4f", "#9a6412", "#b23a34"
_LINE = 38  # characters of a caption


def grid(
    structures: Structures,
    verdicts: Sequence[Verdict],
    path: Path | str,
    *,
    columns: int = 4,
    overwrite: bool = False,
) -> Path:
    """Draws the molecules in a grid, each with its SMILES or with what is wrong.

    Arguments:
        structures: The molecules, some tens at most.
        verdicts: One per molecule.
        path: The PNG to write.
        columns: The number of molecules in a row.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ValueError: If there is nothing to draw, or the file cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    if not len(structures) or len(verdicts) != len(structures) or columns < 1:
        raise ValueError(
            f"cannot draw {len(structures)} molecules with {len(verdicts)} verdicts in {columns} "
            "columns; give at least one molecule, one verdict for each, and one column"
        )
    columns = min(columns, len(structures))
    figure, axes = _figure(len(structures), columns, width=2.7, words=0.42)
    local = list(plain_bonds(structures).split(structures))
    reach = _common_reach(structures)
    for index, ax in enumerate(axes):
        number, position = structures.molecule(index)
        if structures.finite[index]:
            view = frame(position, reach=reach)
            _show(ax, render(number, position, local[index], view))
        text, colour = _caption(verdicts[index])
        ax.text(
            0.5, 0.0, text, transform=ax.transAxes, ha="center", va="top", fontsize=8,
            color=colour, linespacing=1.3, parse_math=False,
        )  # fmt: skip
    return _save(figure, path)


def trajectory(
    frames: Sequence[Structures],
    clock: Sequence[float],
    path: Path | str,
    *,
    overwrite: bool = False,
) -> Path:
    """Draws the same few molecules as they form: one row each, from noise to data.

    Arguments:
        frames: The molecules at each time, the last one finished; sizes are the same throughout.
        clock: The time t of each frame: 1 is noise, 0 is data.
        path: The PNG to write.
        overwrite: Whether an existing file may be replaced.

    Raises:
        ValueError: If the frames do not belong together, or the file cannot be written.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    if not frames or len(frames) != len(clock) or not len(frames[-1]):
        raise ValueError(f"frames ({len(frames)}) and clock ({len(clock)}) must match, not empty")
    if any(not np.array_equal(f.count, frames[-1].count) for f in frames):
        raise ValueError("frames must hold the same molecules: their sizes differ")
    figure, axes = _figure(len(frames[-1]) * len(frames), len(frames), width=1.9, top=0.25)
    local = [list(plain_bonds(f).split(f)) for f in frames]
    for index, ax in enumerate(axes):
        row, column = divmod(index, len(frames))
        now, last = frames[column], frames[-1]
        if row == 0:
            ax.set_title(f"t = {clock[column]:.2f}", fontsize=9, color=_INK, pad=4)
        if not (now.finite[row] and last.finite[row]):
            continue
        number, position = now.molecule(row)
        view = frame(last.molecule(row)[1], margin=1.0).around(position)
        _show(ax, render(number, position, local[column][row], view))
    return _save(figure, path)


def _common_reach(structures: Structures) -> float:
    """One scale for all: molecules much larger than the others are shrunk."""
    views = [frame(x) for (_, x), good in zip(structures, structures.finite, strict=True) if good]
    return float(np.quantile([view.reach for view in views], 0.9)) if views else 1.0


def _figure(
    panels: int, columns: int, *, width: float, words: float = 0.0, top: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Panels of a width in inches, with room for words below each and above all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    height = width * ASPECT + words
    gap, rows = 0.07, -(-panels // columns)
    total = np.array([columns * (width + gap) + gap, rows * (height + gap) + gap + top])
    figure = Figure(figsize=tuple(total), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = []
    for index in range(panels):
        row, column = divmod(index, columns)
        corner = np.array([column * (width + gap), (rows - 1 - row) * (height + gap)]) + gap
        panel = figure.add_axes((*(corner / total), width / total[0], height / total[1]))
        panel.set_axis_off()
        style = "round,pad=0,rounding_size=0.08"
        panel.add_patch(FancyBboxPatch((0, 0), width, height, style, fc=_PANEL, ec="none"))
        panel.set(xlim=(0, width), ylim=(0, height))
        corner = corner + [0, words]
        inner = (*(corner / total), width / total[0], width * ASPECT / total[1])
        axes.append(figure.add_axes(inner))
        axes[-1].set_axis_off()
    return figure, axes


def _show(ax: Axes, image: Image) -> None:
    ax.imshow(image, interpolation="lanczos", aspect="auto")


def _caption(verdict: Verdict) -> tuple[str, str]:
    """The words under a molecule and their colour."""
    if verdict.smiles is None:
        return _short(verdict.reasons[0] if verdict.reasons else "not valid"), _BAD
    if verdict.reasons:
        return f"{_short(verdict.smiles)}\n{_short(verdict.reasons[0])}", _FAIR
    return _short(verdict.smiles), _GOOD


def _short(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return path
