"""Molecules as files (.sdf, .xyz, .smi, .npz) and as pictures.

A file is written whole or not at all: to a temporary file in the same folder, flushed to the
disk, then moved into place. What a format cannot hold is left out and counted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from rdkit import Chem, rdBase

from structdiff.domains.molecules.chemistry import Verdict, plain_bonds, to_mol
from structdiff.domains.molecules.drawing import ASPECT, frame, render
from structdiff.domains.molecules.structures import SYMBOLS, Booleans, Structures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from structdiff.domains.molecules.drawing import Image

_INK, _PANEL = "#2b2f36", "#f3f5f8"
_GOOD, _FAIR, _BAD = "#2e7d4f", "#9a6412", "#b23a34"
SUFFIXES = (".sdf", ".xyz", ".smi", ".npz", ".png")
_LINE = 38  # characters of a caption


@dataclass(frozen=True)
class Written:
    """What a file holds, and which molecules were left out of it."""

    path: Path
    molecules: int
    left_out: tuple[int, ...]

    def report(self) -> str:
        """Says in one line what was written."""
        text = f"{self.molecules:,} molecules written to {self.path}"
        if not self.left_out:
            return text
        why = "no SMILES" if self.path.suffix.lower() == ".smi" else "coordinates not finite"
        return f"{text}, {len(self.left_out):,} left out ({why})"


def write(
    path: Path | str,
    structures: Structures,
    verdicts: Sequence[Verdict],
    *,
    overwrite: bool = False,
) -> Written:
    """Writes molecules in the format of the suffix.

    Arguments:
        path: An .sdf (inferred bonds, fields VALID, STABLE, SMILES and REASONS), .xyz, .smi
            (valid molecules) or .npz (as `data.read` takes it).
        structures: The molecules.
        verdicts: One per molecule, see `chemistry.judge`.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, the file exists, or it cannot be written.
    """
    path = Path(path)
    formats = {".sdf": _sdf, ".xyz": _xyz, ".smi": _smi, ".npz": _npz}
    if len(verdicts) != len(structures):
        raise ValueError(
            f"verdicts has {len(verdicts)} entries for {len(structures)} molecules; "
            "pass judge(structures)"
        )
    check_free(path, overwrite=overwrite)
    smiles = path.suffix.lower() == ".smi"
    usable = np.array([v.smiles is not None for v in verdicts]) if smiles else structures.finite
    kept = np.flatnonzero(usable)
    content = formats[path.suffix.lower()](
        structures.select(kept), [verdicts[i] for i in kept.tolist()], _names(structures, usable)
    )
    write_atomically(path, content)
    return Written(path, len(kept), tuple(np.flatnonzero(~usable).tolist()))


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuses, before any work is done, a path that cannot or must not be written.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the suffix is not known, the file exists and may not be replaced, or is a
            folder.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"cannot write {path}: the suffix {path.suffix!r} is not known; allowed are "
            f"{', '.join(SUFFIXES[:-1])}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {path.parent}; create it first")
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; give the name of a file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists; choose another name, or allow --overwrite")


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        ValueError: If the disk is full or the folder may not be written.
    """
    temporary = path.with_name(f".{path.name[:100]}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose a "
            "folder that may be written"
        ) from error


def _names(structures: Structures, usable: Booleans) -> list[str]:
    return [
        " ".join(structures.name[i].split()) if structures.name else f"molecule {i + 1}"
        for i in np.flatnonzero(usable)
    ]


def _sdf(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    text = io.StringIO()
    local = plain_bonds(structures).split(structures)
    with rdBase.BlockLogs():
        for (number, position), bond, verdict, name in zip(
            structures, local, verdicts, names, strict=True
        ):
            mol = to_mol(number, position, bond)
            mol.SetProp("_Name", name)
            mol.UpdatePropertyCache(strict=False)
            text.write(Chem.MolToMolBlock(mol, includeStereo=False, kekulize=False))
            for field, value in _fields(verdict).items():
                text.write(f">  <{field}>\n{value}\n\n")
            text.write("$$$$\n")
    return text.getvalue().encode()


def _fields(verdict: Verdict) -> dict[str, str]:
    fields = {
        "VALID": str(verdict.valid),
        "STABLE": "undefined" if verdict.stable is None else str(verdict.stable),
        "SMILES": verdict.smiles or "",
        "REASONS": " ".join("; ".join(verdict.reasons).split()),
    }
    return {field: value for field, value in fields.items() if value}


def _xyz(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    blocks = []
    for (number, position), name in zip(structures, names, strict=True):
        rows = [
            f"{SYMBOLS[z]} {x:.6f} {y:.6f} {w:.6f}"
            for z, (x, y, w) in zip(number.tolist(), position.tolist(), strict=True)
        ]
        blocks.append("\n".join([str(len(number)), name, *rows]))
    return "".join(f"{block}\n" for block in blocks).encode()


def _smi(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    rows = [f"{v.smiles}\t{name}\n" for v, name in zip(verdicts, names, strict=True)]
    return "".join(rows).encode()


def _npz(structures: Structures, verdicts: list[Verdict], names: list[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pos_1e4A=np.rint(structures.position.astype(np.float64) * 1e4).astype(np.int32),
        z=structures.number,
        n_atoms=structures.count,
        valid=np.array([verdict.valid for verdict in verdicts], dtype=np.bool_),
        name=np.array(names, dtype=np.str_),
    )
    return buffer.getvalue()


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
    figure, axes = _figure(-(-len(structures) // columns), columns, width=2.7, words=0.42)
    local = list(plain_bonds(structures).split(structures))
    reach = _common_reach(structures)
    for index, ax in enumerate(axes[: len(structures)]):
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
    figure, axes = _figure(len(frames[-1]), len(frames), width=1.9, top=0.25)
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
    rows: int, columns: int, *, width: float, words: float = 0.0, top: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Panels of a width in inches, with room for words below each and above all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    height = width * ASPECT + words
    gap = 0.07
    total = np.array([columns * (width + gap) + gap, rows * (height + gap) + gap + top])
    figure = Figure(figsize=tuple(total), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = []
    for index in range(rows * columns):
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
