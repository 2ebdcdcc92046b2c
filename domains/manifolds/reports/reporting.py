"""Judging models and points at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdiff.artifacts import write_csv, write_json
from structdiff.artifacts.table import check_table, facts_of
from structdiff.domains.manifolds.data import read_points
from structdiff.domains.manifolds.doctor import examine
from structdiff.domains.manifolds.generation import refuse
from structdiff.domains.manifolds.reports.card import write_card
from structdiff.domains.manifolds.reports.evaluation import evaluate_run
from structdiff.domains.manifolds.run import Run

__all__ = ["doctor", "evaluate", "score"]


def evaluate(
    run: Path,
    points: int,
    *,
    settings: Mapping[str, Any],
    seed: int,
    condition: Mapping[str, str] | None = None,
    guidance: float | Mapping[str, float] | None = None,
    data: Path | None = None,
) -> None:
    """Measure a run, write its page, and refresh its card."""
    refuse(condition or {}, guidance)
    loaded = Run.load(run)
    result = evaluate_run(loaded.drawing(**settings), points, seed=seed, source=data)
    print(result.table())
    write_card(loaded, result.table())
    print("written: " + ", ".join(str(path) for path in result.files))


def score(
    run: Path,
    data: Path,
    out: Path | None,
    *,
    columns: str | None = None,
    draws: int | None = None,
    steps: int | None = None,
    seed: int,
    overwrite: bool,
) -> None:
    """Score the points of a file: a summary, and a table with a row for each.

    The log density is exact, but with `draws`, which is then the number of random probes of the
    divergence. Beside `out.csv`, `out.json` says what the numbers are.

    Raises:
        FileNotFoundError: If the run, the data or the folder of `out` is missing.
        ValueError: If nothing can be scored, or `out` cannot be written.
    """
    if steps is not None:
        msg = "densities of points are solved to a tolerance, not in steps: leave out --steps"
        raise ValueError(msg)
    if draws is not None and draws < 1:
        msg = f"draws must be at least 1, got {draws}: leave it out for the exact divergence"
        raise ValueError(msg)
    if out is not None:
        check_table(out, facts_of(out), overwrite=overwrite)
    model = Run.load(run)
    points = read_points(data, model.codec, columns=columns, skip_bad=model.config.data.skip_bad)
    for note in points.notes:
        print(f"{data}: {note}")
    scores = model.score(points, probes=draws, seed=seed)
    print(scores.summary())
    if out is None:
        return
    write_csv(out, scores.columns())
    write_json(facts_of(out), {"run": str(run), "data": str(data), **scores.facts()})
    print(f"written: {out}, and what its numbers are: {facts_of(out)}")


def doctor(path: Path, columns: str | None = None) -> None:
    """Look at points before training."""
    print(examine(str(path), columns=columns))
