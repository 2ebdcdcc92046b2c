"""Judging models and data at the command line."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from structdiff.artifacts import write_json
from structdiff.artifacts.table import Cell, check_table, facts_of, write_csv
from structdiff.domains.molecules.data import Loaded, read
from structdiff.domains.molecules.reports.card import write_card
from structdiff.domains.molecules.reports.doctor import examine
from structdiff.domains.molecules.reports.evaluation import evaluate_run
from structdiff.domains.molecules.reports.scoring import Scores
from structdiff.domains.molecules.reports.scoring import score as score_molecules
from structdiff.domains.molecules.run import Run

__all__ = ["doctor", "evaluate", "score"]


def evaluate(
    run: Path,
    molecules: int,
    *,
    settings: Mapping[str, Any],
    seed: int,
    condition: Mapping[str, str] | None = None,
    guidance: float | Mapping[str, float] | None = None,
    data: Path | None = None,
    chemistry: bool = False,
) -> None:
    """Measure a run, write its page, and refresh its card."""
    loaded = Run.load(run)
    result = evaluate_run(
        loaded.drawing(**settings),
        molecules,
        condition=loaded.parse(condition or {}),
        guidance=guidance,
        seed=seed,
        source=data,
        chemistry=chemistry,
    )
    print(result.table())
    if result.chemistry is not None:
        print(f"\n{result.chemistry.table()}")
    write_card(loaded, result.measures())
    print("written: " + ", ".join(str(path) for path in result.files))


def score(
    run: Path,
    data: Path,
    out: Path | None,
    *,
    draws: int = 4,
    steps: int = 500,
    seed: int,
    overwrite: bool,
) -> None:
    """Score the molecules of a file: a summary, and a table with a row for each.

    Beside `out.csv`, `out.json` says what the numbers are.

    Raises:
        FileNotFoundError: If the run, the data or the folder of `out` is missing.
        ValueError: If nothing can be scored, or `out` cannot be written.
    """
    if out is not None:
        check_table(out, facts_of(out), overwrite=overwrite)
    model = Run.load(run)
    settings = model.config.data
    loaded = read(data, max_atoms=settings.max_atoms, bonded=settings.bonds != "none")
    scores = score_molecules(
        model.denoiser, model.codec, model.config, loaded.structures,
        draws=draws, steps=steps, seed=seed,
    )  # fmt: skip
    print(scores.summary())
    if loaded.skipped or loaded.notes:
        print(loaded.report())
    if out is None:
        return
    write_csv(out, _rows(loaded, scores))
    write_json(facts_of(out), _facts(run, data, loaded, scores))
    print(f"written: {out}, and what its numbers are: {facts_of(out)}")


def _rows(loaded: Loaded, scores: Scores) -> dict[str, list[Cell]]:
    """The molecules and the records that could not be read, in the file's order."""
    molecules, skipped = loaded.structures, loaded.skipped
    rows: dict[str, list[Cell]] = {
        "name": [*(molecules.name or loaded.where), *("" for _ in skipped)],
        "where": [*loaded.where, *(s.where for s in skipped)],
    }
    for column, cells in scores.columns().items():
        blank: Cell = "" if column in ("atoms", "conditions") else float("nan")
        rows[column] = [*cells, *(blank for _ in skipped)]
    rows["reason"] = [*scores.reasons, *(f"not read: {s.reason}" for s in skipped)]
    order = _order(loaded.where, [s.where for s in skipped])
    return {column: [cells[i] for i in order] for column, cells in rows.items()}


def _order(read: Sequence[str], skipped: Sequence[str]) -> list[int]:
    """Where the skipped stand among those read, which keep their order."""
    keys = [_key(where) for where in (*read, *skipped)]
    ranks = [(i, 1) for i in range(len(read))]
    ranks += [(bisect_left(keys, key, hi=len(read)), 0) for key in keys[len(read) :]]
    return sorted(range(len(ranks)), key=lambda i: (ranks[i], keys[i]))


def _key(where: str) -> list[str | int]:
    """So that record 10 comes after record 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", where)]


def _facts(run: Path, data: Path, loaded: Loaded, scores: Scores) -> dict[str, Any]:
    """What the numbers of a table are, and their means."""
    means = {
        name: {**value._asdict(), "Monte-Carlo error": error}
        for name, (value, error) in scores.means().items()
    }
    return {
        "run": str(run),
        "data": str(data),
        **scores.facts(),
        "not read": len(loaded.skipped),
        "columns": {
            "nats": "the bound: position + element, each prior + steps + last",
            "*_error": "Monte-Carlo standard error",
            "size": "-log p(number of atoms) under the law of sizes; not part of nats",
            "reason": "why a molecule has no score",
        },
        "mean [95 % bootstrap interval over molecules]": means,
    }


def doctor(path: Path) -> None:
    """Look at data before training."""
    print(examine(path).text())
