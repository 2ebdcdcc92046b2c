"""Judging models and images at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from structdiff.artifacts import write_csv, write_json
from structdiff.artifacts.table import check_table, facts_of
from structdiff.domains.images.data import read
from structdiff.domains.images.generation import scale_of
from structdiff.domains.images.images import Images
from structdiff.domains.images.reports.card import write_card
from structdiff.domains.images.reports.doctor import examine
from structdiff.domains.images.reports.evaluation import evaluate_run
from structdiff.domains.images.run import Run
from structdiff.domains.images.scoring import score as score_images
from structdiff.metrics.inception import InceptionFeatures

__all__ = ["doctor", "evaluate", "score"]


def evaluate(
    run: Path,
    images: int,
    *,
    settings: Mapping[str, Any],
    seed: int,
    condition: Mapping[str, str] | None = None,
    guidance: float | Mapping[str, float] | None = None,
    data: Path | None = None,
    features: Path | None = None,
) -> None:
    """Measure a run, write its page, and refresh its card.

    Distances are of the judge's features, or, with a safetensors file of its weights as
    `features`, of Inception-v3's, see `InceptionFeatures.load`.
    """
    loaded = Run.load(run)
    drawing = loaded.drawing(**settings, guidance=scale_of(guidance))
    extractor = None if features is None else InceptionFeatures.load(features)
    result = evaluate_run(
        drawing, images, condition=condition, seed=seed, source=data, extractor=extractor
    )
    print(result.table())
    write_card(loaded, result.table())
    print("written: " + ", ".join(str(path) for path in result.files))


def score(
    run: Path,
    data: Path,
    out: Path | None,
    *,
    draws: int = 1,
    seed: int,
    overwrite: bool,
) -> None:
    """Bits of the images of a file or folder: a summary, and a table with a row for each.

    Images are brought to the size of the model's. All parts of the data are scored, in the order
    train, validation, test.

    Raises:
        FileNotFoundError: If the run, the data or the folder of `out` is missing.
        ValueError: If nothing can be scored, or `out` cannot be written.
    """
    if out is not None:
        check_table(out, facts_of(out), overwrite=overwrite)
    model = Run.load(run)
    bound = score_images(model, _images(model, data), draws=draws, seed=seed)
    print(bound)
    if out is None:
        return
    bits = bound.bits_per_dimension
    columns = {
        "image": list(range(len(bits))),
        "nats": bound.total.tolist(),
        "bits_per_dimension": bits.tolist(),
    }
    write_csv(out, columns)
    facts = {"run": str(run), "data": str(data), "kind": bound.kind, "measure": bound.measure}
    write_json(facts_of(out), {**facts, "draws": draws, "seed": seed})
    print(f"written: {out}, and what its numbers are: {facts_of(out)}")


def _images(model: Run, path: Path) -> Images:
    """All images of a path, as the model knows them."""
    import numpy as np

    channels, height, width = model.codec.event
    size = height if height == width else None
    found = read(path, size=size, channels=channels, labelled=bool(model.codec.classes))
    parts = [part for part in (found.train, found.validation, found.test) if len(part)]
    labels = None
    if model.model.fields.classes:
        if found.classes != model.codec.classes:
            has = f"the images have the classes {found.classes}, the model {model.codec.classes}"
            msg = (
                f"{has}: give an .npz an array `classes` of the model's names, in their order; in "
                "a folder, name the sub-folders so"
            )
            raise ValueError(msg)
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    return Images(np.concatenate([part.pixels for part in parts]), labels)


def doctor(path: Path) -> None:
    """Look at images before training."""
    print(examine(str(path)))
