"""How good a model of images is: a page with pictures, beside real images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from structdiff.artifacts import write_atomic
from structdiff.domains.images.data import Data
from structdiff.domains.images.generation import asked_of
from structdiff.domains.images.images import Images
from structdiff.domains.images.metrics import judge_images, judge_of
from structdiff.domains.images.output import encode
from structdiff.domains.images.reports.pictures import Film, by_class, pairs
from structdiff.domains.images.reports.restoring import gains, to_restore
from structdiff.domains.images.run import Run, load_data
from structdiff.domains.images.scoring import likely, score
from structdiff.likelihood.dequantised import IntegerBound
from structdiff.metrics.comparison import Extractor
from structdiff.metrics.judge import JUDGING
from structdiff.metrics.judgement import Judgement
from structdiff.reports.page import Picture
from structdiff.runs.fields import Request
from structdiff.runs.fields.evaluation import settings_of, table, write_evaluation
from structdiff.training import TrainingConfig

__all__ = ["Evaluation", "evaluate_run"]

_SCORED = 32  # images whose bits are counted
_LARGEST = 3_072  # numbers of an image, above which they are not: it would take hours


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Arguments:
        drawn: The images.
        judgement: Distances, accuracy, neighbours.
        bits: Bits of held-out images; None where there is no density, or not in the time.
        why: Why there are no bits.
        gains: How near held-out images are that were restored: name to mean; empty where the
            model has no task.
        files: What was written.
    """

    drawn: Images
    judgement: Judgement
    bits: IntegerBound | None
    why: str
    gains: dict[str, float] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """The table, the head first."""
        rows = self.judgement.rows()
        if self.bits is not None:
            value, error = _mean(self.bits)
            name = f"bits per dimension of {len(self.bits.entries)} held-out images, at most"
            rows.append([name, f"{value:.3f} +- {error:.2g}", ""])
        return [*rows, *([name, f"{value:.2f}", ""] for name, value in self.gains.items())]

    def table(self) -> str:
        """All of it with the protocol, Markdown."""
        return table(self)

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        bits: dict[str, Any] = {"why not": self.why}
        if self.bits is not None:
            value, error = _mean(self.bits)
            bits = {"value": value, "error": error, "images": len(self.bits.entries)}
        told = {"bits per dimension": bits, "restored": self.gains}
        return {**self.judgement.numbers(), **told}


def _mean(bits: IntegerBound) -> tuple[float, float]:
    found = bits.bits_per_dimension.double()
    spread = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else math.nan
    return float(found.mean()), spread


def evaluate_run(
    run: Run,
    images: int = 200,
    *,
    condition: Mapping[str, str] | None = None,
    seed: int = 0,
    out: Path | None = None,
    source: Path | None = None,
    extractor: Extractor | None = None,
    judging: TrainingConfig = JUDGING,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Evaluation:
    """Draw images, measure them beside real ones, and write a page, pictures and numbers.

    A model of classes draws as many of each, unless the condition says which. A model of a task
    restores held-out images, which it is shown as in training, with their classes.

    Arguments:
        run: The model.
        images: How many to draw.
        condition: `label`: classes by name, with commas between them.
        seed: Start of the random numbers.
        out: Folder for what is written, `samples/` of the run by default.
        source: Where the run's images lie, if not where its config says.
        extractor: What distances are measured in; by default the features of a judge.
        judging: Settings of the judge's training.
        say: Where to report.
        progress: Whether to show bars.

    Raises:
        ValueError: If there are fewer than three images of either kind.
    """
    if images < 3:
        msg = f"at least 3 images are needed to measure anything, got {images}"
        raise ValueError(msg)
    folder, film = out or run.folder.samples, Film()
    data = load_data(run.config, source)
    if len(data.test) + len(data.validation) < 3:
        msg = f"{data.name} has no images that are not trained on: give more images"
        raise ValueError(msg)
    say(f"drawing {images} images, {run.config.sampler.kind}")
    some = _some(data, images)
    shown = run.config.task.kind != "none"
    asked = to_restore(run, some, seed) if shown else _asked(run, images, condition or {}, seed)
    drawn = run.images(run.fields(asked, progress=progress, watch=film.watch), asked)
    if data.classes:
        say("the judge: a classifier of the real images, trained once for each data set")
    judge = judge_of(data, config=judging) if data.classes else None
    say("measuring what was drawn beside real images")
    judgement = judge_images(drawn, data, judge, extractor=extractor, seed=seed)
    bits, why = _bits(run, data, seed, say)
    told = gains(run, asked, drawn, some) if shown else {}
    evaluation = Evaluation(drawn, judgement, bits, why, told)
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, run, data, evaluation, film, seed)
    return evaluation


def _asked(run: Run, images: int, condition: Mapping[str, str], seed: int) -> Request:
    """Every class in turn, or those of the condition."""
    words = dict(condition)
    if run.model.fields.classes:
        names = words.get("label", ",".join(run.codec.classes)).split(",")
        words["label"] = ",".join(names[i % len(names)] for i in range(images))
    return asked_of(run, images, words, None, seed)


def _some(data: Data, count: int) -> Images:
    """So many held-out images, spread evenly."""
    held = data.test if len(data.test) else data.validation
    return held.select(np.linspace(0, len(held) - 1, count).astype(np.int64))


def _bits(
    run: Run, data: Data, seed: int, say: Callable[[str], None]
) -> tuple[IntegerBound | None, str]:
    """Bits of some held-out images, or why not."""
    why = likely(run)
    if not why and int(np.prod(run.codec.event)) > _LARGEST:
        why = "the images are large: structdiff score counts their bits"
    if why:
        return None, why
    say("how likely held-out images are")
    held = data.test if len(data.test) else data.validation
    return score(run, held.select(slice(0, _SCORED)), seed=seed), ""


def _keep(
    folder: Path, run: Run, data: Data, evaluation: Evaluation, film: Film, seed: int
) -> None:
    """Write images, pictures, page and numbers."""
    files, drawn = evaluation.files, evaluation.drawn
    write_atomic(folder / "images.npz", encode(".npz", drawn))
    by_class(drawn, folder / "images.png")
    pairs(drawn, evaluation.judgement.copying.drawn, data.train, folder / "nearest.png")
    order = (
        ", ".join(run.codec.classes[int(k)] for k in np.unique(drawn.labels)[:10])
        if (drawn.labels is not None)
        else ""
    )
    rows = f" A row for each class: {order}." if order else ""
    shown = [
        Picture(folder / "images.png", f"Drawn images, the first ones, none rejected.{rows}"),
        Picture(
            folder / "nearest.png",
            "The drawn images that are nearest to training images, each above the one that it is "
            "nearest to.",
        ),
    ]
    files += [folder / name for name in ("images.npz", "images.png", "nearest.png")]
    if film.write(folder / "walk.png"):
        shown.append(
            Picture(folder / "walk.png", "What the model holds images to be, on the way.")
        )
        files.append(folder / "walk.png")
    settings = settings_of(run, len(evaluation.drawn), data.report, seed)
    notes = [f"No bits per dimension: {evaluation.why}."] if evaluation.why else []
    files += write_evaluation(
        run, folder, evaluation, shown, settings, unit="an image", entries="numbers", notes=notes
    )
