"""Judging models and sounds at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdiff.domains.audio.generation import scale_of
from structdiff.domains.audio.reports.card import write_card
from structdiff.domains.audio.reports.doctor import examine
from structdiff.domains.audio.reports.evaluation import evaluate_run
from structdiff.domains.audio.run import Run

__all__ = ["doctor", "evaluate"]


def evaluate(
    run: Path,
    clips: int,
    *,
    settings: Mapping[str, Any],
    seed: int,
    condition: Mapping[str, str] | None = None,
    guidance: float | Mapping[str, float] | None = None,
    data: Path | None = None,
) -> None:
    """Measure a run, write its page, and refresh its card."""
    loaded = Run.load(run)
    drawing = loaded.drawing(**settings, guidance=scale_of(guidance))
    result = evaluate_run(drawing, clips, condition=condition, seed=seed, source=data)
    print(result.table())
    write_card(loaded, result.table())
    print("written: " + ", ".join(str(path) for path in result.files))


def doctor(path: Path) -> None:
    """Look at sounds before training."""
    print(examine(str(path)))
