"""Judging models and text at the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from structdiff.artifacts import write_csv, write_json
from structdiff.artifacts.table import check_table, facts_of
from structdiff.domains.text.files import joined, numbered, text_files
from structdiff.domains.text.generation import refuse
from structdiff.domains.text.output import objects
from structdiff.domains.text.reports.card import write_card
from structdiff.domains.text.reports.doctor import examine
from structdiff.domains.text.reports.evaluation import evaluate_run
from structdiff.domains.text.run import Run
from structdiff.domains.text.scoring import DRAWS, Encoded, encoded, windows
from structdiff.domains.text.scoring import score as score_texts
from structdiff.domains.text.tokens import Bytes

__all__ = ["doctor", "evaluate", "score"]

T = TypeVar("T")


def evaluate(
    run: Path,
    texts: int,
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
    result = evaluate_run(loaded.drawing(**settings), texts, seed=seed, source=data)
    print(result.table())
    write_card(loaded, result.table())
    print("written: " + ", ".join(str(path) for path in result.files))


def score(
    run: Path,
    data: Path,
    out: Path | None,
    *,
    draws: int = DRAWS,
    steps: int | None = None,
    seed: int,
    overwrite: bool,
) -> None:
    """Score the texts of a file: a summary, and a table with a row for each.

    Of a .jsonl file, each object's `text` is one. Of plain text, as it is, documents are the lines
    and running text is cut into windows of the model's length.
    Beside `out.csv`, `out.json` says what the numbers are.

    Raises:
        FileNotFoundError: If the run, the data or the folder of `out` is missing.
        ValueError: If nothing can be scored, or `out` cannot be written.
    """
    if out is not None:
        check_table(out, facts_of(out), overwrite=overwrite)
    model = Run.load(run)
    texts = _texts(model, data)
    if not texts.reasons:
        msg = f"{data} has no text that could be scored, only empty lines: give one with text"
        raise ValueError(msg)
    scores = score_texts(model.denoiser, texts, draws=draws, steps=steps, seed=seed)
    print(scores.summary())
    if out is None:
        return
    write_csv(out, scores.columns())
    write_json(facts_of(out), {"run": str(run), "data": str(data), **scores.facts()})
    print(f"written: {out}, and what its numbers are: {facts_of(out)}")


def _texts(model: Run, path: Path) -> Encoded:
    """The texts of a file, as the model was trained on such."""
    codec, files = model.codec, text_files(path)
    errors = "surrogateescape" if isinstance(codec.vocabulary, Bytes) else "strict"
    name = path.stem if path.suffix in (".gz", ".xz") else path.name
    listed = name.endswith(".jsonl")
    if listed or model.config.data.documents == "lines":
        found = [*numbered(files, errors)]
        numbers, texts = _named(path, lambda: objects(found)) if listed else _both(found)
        return encoded(codec, texts, numbers)
    text = "".join(joined(files, errors))
    tokens = _named(path, lambda: codec.vocabulary.encode(text))
    cuts = range(codec.length, len(tokens), codec.length)
    return windows(codec, np.split(tokens, list(cuts)))


def _both(found: Sequence[tuple[int, str]]) -> tuple[list[int], list[str]]:
    return [number for number, _ in found], [text for _, text in found]


def _named(path: Path, make: Callable[[], T]) -> T:
    """What is made of a file; what is wrong with it is said with its name."""
    try:
        return make()
    except ValueError as error:
        msg = f"{path}: {error}"
        raise ValueError(msg) from None


def doctor(path: Path) -> None:
    """Look at text before training."""
    print(examine(str(path)))
