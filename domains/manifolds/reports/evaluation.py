"""How good a model of points is: a page beside held-out points and density estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import structdiff
from structdiff.artifacts import write_atomic, write_json
from structdiff.batch import Batch
from structdiff.domains.manifolds.codec import Table
from structdiff.domains.manifolds.output import encode
from structdiff.domains.manifolds.pictures import picture
from structdiff.domains.manifolds.points import Data, Points
from structdiff.domains.manifolds.reports.measuring import likelihoods, marginals, measures, some
from structdiff.domains.manifolds.run import Run, load_data
from structdiff.domains.manifolds.scoring import measure_of, score
from structdiff.reports import page as pages
from structdiff.reports.charts import curves
from structdiff.reports.tables import markdown_table

__all__ = ["Evaluation", "evaluate_run"]

_GRID = 3000  # points at which a density is drawn
_SHOWN = 2000  # real points in pictures


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Arguments:
        likelihood: Name and -log density of held-out points; empty where there are none.
        rows: Name, value of drawn points, value of as many training points.
        columns: The same of each column.
        measure: What densities are against.
        files: What was written.
    """

    likelihood: list[tuple[str, str]]
    rows: list[tuple[str, str, str]]
    columns: list[tuple[str, str, str]]
    measure: str
    files: list[Path] = field(default_factory=list)

    def tables(self) -> list[tuple[str, list[Sequence[str]]]]:
        """Title, and the table with its head first."""
        held = [("model", "mean of -log density, nats"), *self.likelihood]
        head = ("measure", "drawn", "training points")
        return [
            (f"Held-out points; densities are against {self.measure}", list(held)),
            ("Drawn points beside held-out ones", [head, *self.rows]),
            ("Columns, distance of their distributions", [head, *self.columns]),
        ]

    def table(self) -> str:
        """All of it, Markdown."""
        return "\n\n".join(markdown_table(rows) for _, rows in self.tables())


def evaluate_run(
    run: Run,
    points: int = 500,
    *,
    seed: int = 0,
    out: Path | None = None,
    source: Path | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Draw points, measure them beside real ones, and write a page, a table and pictures.

    Arguments:
        run: The model.
        points: How many to draw.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        source: Where the run's data lie, if not where its config says.
        say: Where to report.
        progress: Whether to show bars.

    Raises:
        ValueError: If no point was held out.
    """
    folder = out or run.folder.samples
    data = load_data(run.config, source, run.codec)
    held = data.test if len(data.test) else data.validation
    if len(held) < 2:
        msg = "no points were held out: train with data.test or data.validation above 0"
        raise ValueError(msg)
    say(f"drawing {points:,} points")
    drawn = run.points(points, seed=seed, progress=progress)
    table = run.codec.decode(drawn)
    say(f"how likely {len(held):,} held-out points are")
    likelihood = likelihoods(run, data, held, progress=progress)
    say("measuring what was drawn beside held-out points")
    found = Evaluation(
        likelihood,
        measures(run, data, held, drawn),
        marginals(run, data, held, table),
        measure_of(run.codec),
    )
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, run, data, held, drawn, table, found, seed)
    return found


def _keep(
    folder: Path,
    run: Run,
    data: Data,
    held: Points,
    drawn: Batch,
    table: Table,
    found: Evaluation,
    seed: int,
) -> None:
    """Write points, pictures, page and numbers."""
    files = found.files
    write_atomic(folder / "points.csv", encode(".csv", table))
    files.append(folder / "points.csv")
    shown = _pictures(folder, run, data, held, drawn)
    training = folder / "training.png"
    if curves(run.folder.read_metrics(), training, unit="nats"):
        words = "How training went: the loss, and -log density of validation points."
        shown.append(pages.Picture(training, words))
    files += [one.path for one in shown]
    settings = [
        ("run", str(run.folder.path)),
        ("points", f"{drawn.samples:,}, none rejected or corrected"),
        *((name, str(value)) for name, value in run.facts().items()),
        *((n.replace("_", " "), str(v)) for n, v in run.config.sampler.model_dump().items()),
        ("seed", str(seed)),
        ("structdiff", structdiff.__version__),
    ]
    blocks: list[pages.Block] = [pages.Table(("setting", "value"), settings)]
    for title, rows in found.tables():
        blocks += [pages.Heading(title), pages.Table(rows[0], rows[1:])]
    blocks += [pages.Heading("Pictures"), *shown]
    title = f"Evaluation of {run.folder.path.resolve().name}"
    files += pages.write_page(folder, title, blocks)
    numbers = {
        title: dict((row[0], list(row[1:])) for row in rows[1:]) for title, rows in found.tables()
    }
    write_json(folder / "evaluation.json", {**numbers, "settings": dict(settings)})
    files.append(folder / "evaluation.json")


def _pictures(
    folder: Path, run: Run, data: Data, held: Points, drawn: Batch
) -> list[pages.Picture]:
    """A picture of each leaf."""
    shown = list[pages.Picture]()
    alone = len(run.codec.leaves) == 1
    for leaf in run.codec.leaves:
        mapped = alone and leaf.space in ("sphere:2", "torus:2")
        path = picture(
            leaf.space,
            drawn[leaf.name],
            some(data.train, _SHOWN).leaves[leaf.name],
            folder / f"{leaf.name}.png",
            log_density=_Density(run, leaf.name) if mapped else None,
            test=held.leaves[leaf.name] if leaf.space == "sphere:2" else None,
            earth=leaf.kind == "sphere",
            names=leaf.names if leaf.kind in ("torus", "simplex", "euclidean") else (),
            title=leaf.name,
        )
        words = f"{leaf.name}: drawn points and training points"
        shown.append(pages.Picture(path, f"{words}, and the model's density" if mapped else words))
    return shown


class _Density:
    """The log density on a grid: asked at some of its points, at others that of the nearest."""

    def __init__(self, run: Run, name: str) -> None:
        self.run, self.name = run, name

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.spatial import cKDTree  # loads slowly

        run, grid = self.run, torch.from_numpy(np.ascontiguousarray(points)).double()
        few = np.unique(np.linspace(0, len(grid) - 1, min(_GRID, len(grid))).astype(int))
        asked = Points({self.name: grid[torch.from_numpy(few)]}, few)
        found = score(
            run.denoiser, run.codec, run.config, asked, run.noise, tolerance=1e-2, progress=False
        )
        space = run.codec.spaces[self.name]
        places = space.features(grid).numpy()
        nearest = cKDTree(places[few]).query(places)[1]
        values: NDArray[np.float64] = found.total[nearest]
        return values
