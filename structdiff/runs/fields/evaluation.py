"""The page of an evaluation of fields: measures with their protocol, pictures, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import structdiff
from structdiff.artifacts import write_json
from structdiff.metrics.judgement import Judgement
from structdiff.reports.charts import curves
from structdiff.reports.page import Block, Heading, Picture, Table, Words, write_page
from structdiff.reports.tables import markdown_table
from structdiff.runs.fields.run import FieldRun

__all__ = ["Evaluated", "settings_of", "table", "write_evaluation"]


class Evaluated(Protocol):
    """What a domain measured."""

    @property
    def judgement(self) -> Judgement:
        """Distances, accuracy, neighbours."""
        ...

    def rows(self) -> list[list[str]]:
        """The table, the head first."""
        ...

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        ...


def table(found: Evaluated) -> str:
    """All of it with the protocol, Markdown."""
    protocol = found.judgement.comparison.protocol
    lines = [f"- {name}: {words}" for name, words in protocol.items()]
    return "\n".join([markdown_table(found.rows()), "", *lines])


def settings_of(
    run: FieldRun[Any, Any], drawn: int, data: str, seed: int
) -> list[tuple[str, str]]:
    """What was drawn, and how.

    Arguments:
        run: The model.
        drawn: How many samples.
        data: What real samples there are; the first line is told.
        seed: Start of the random numbers.
    """
    found = {
        "run": run.folder.path,
        "data": data.splitlines()[0],
        f"{run.unit}s": f"{drawn:,}, none rejected or corrected",
        **run.facts(),
        **{n.replace("_", " "): value for n, value in run.config.sampler.model_dump().items()},
        "seed": seed,
        "structdiff": structdiff.__version__,
    }
    return [(name, str(value)) for name, value in found.items()]


def write_evaluation(
    run: FieldRun[Any, Any],
    folder: Path,
    found: Evaluated,
    shown: Sequence[Picture],
    settings: list[tuple[str, str]],
    *,
    unit: str,
    entries: str,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write the page, its numbers, and how training went.

    Arguments:
        run: The model.
        folder: Where to.
        found: What was measured.
        shown: Pictures, the one that heads the page first.
        settings: See `settings_of`.
        unit: What the loss of training is of, as "an image".
        entries: What distances to training samples are of, as "numbers".
        notes: Paragraphs after the measures.

    Returns:
        What was written.
    """
    files, pictures = list[Path](), list(shown)
    if curves(run.folder.read_metrics(), folder / "training.png", unit=f"nats {unit}"):
        pictures.append(Picture(folder / "training.png", "How training went."))
        files.append(folder / "training.png")
    title = f"Evaluation of {run.folder.path.resolve().name}"
    files += write_page(folder, title, _blocks(found, settings, pictures, entries, notes))
    write_json(folder / "evaluation.json", {**found.numbers(), "settings": dict(settings)})
    return [*files, folder / "evaluation.json"]


def _blocks(
    found: Evaluated,
    settings: list[tuple[str, str]],
    pictures: list[Picture],
    entries: str,
    notes: Sequence[str],
) -> list[Block]:
    """The page."""
    rows, judgement = found.rows(), found.judgement
    return [
        *pictures[:1],
        Heading("Measures"),
        Words(
            "Distances of two finite samples of one law are above zero, the fewer samples the "
            f"more, so the last column says what as many real {judgement.unit}s get. Distances "
            f"to training {judgement.unit}s are roots of mean squared differences of {entries} in "
            "[-1, 1]."
        ),
        Table(rows[0], rows[1:]),
        Table(("protocol", ""), list(judgement.comparison.protocol.items())),
        *(Words(note) for note in notes),
        Heading("Pictures"),
        *pictures[1:],
        Heading("Settings"),
        Table(("setting", "value"), settings),
    ]
