"""Drawing points at the command line: into a file, a folder of shards, or a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from structdiff import runs
from structdiff.artifacts import Part
from structdiff.artifacts.table import csv_text
from structdiff.batch import Batch
from structdiff.domains.manifolds.output import check_free, encode, write
from structdiff.domains.manifolds.run import Run
from structdiff.domains.manifolds.sampling import joined
from structdiff.runs import circumstances, drawn_of, model_checksum

__all__ = ["refuse", "sample"]


def sample(
    run: Path,
    points: int,
    out: Path | None,
    *,
    folder: bool,
    condition: Mapping[str, str],
    guidance: float | Mapping[str, float] | None,
    sizes: tuple[int, ...],
    given: str | None,
    only_valid: int | None,
    settings: Mapping[str, Any],
    seed: int,
    overwrite: bool,
) -> None:
    """Draw points and write or list them; a path without a suffix is a folder of shards."""
    refuse(condition, guidance, sizes, only_valid)
    shards = out is not None and (folder or out.is_dir() or not out.suffix)
    if out is not None and not shards:
        check_free(out, overwrite=overwrite)
    loaded = Run.load(run).drawing(**settings)
    asked, size = loaded.request(points, given=given, seed=seed), loaded.config.sampler.batch_size

    def draw(part: Part, done: Callable[[float], None]) -> Batch:
        return loaded.draw(asked, part, done=done)

    if out is None or not shards:
        drawn = runs.collect(draw, points, size, unit="point")
        table = loaded.codec.decode(joined(drawn))
        text = (
            csv_text(table.flat()).rstrip()
            if out is None
            else write(out, table, overwrite=overwrite)
        )
        print(text)
        return
    job = runs.fill(
        lambda part, done: encode(".csv", loaded.codec.decode(draw(part, done))),
        points,
        size,
        out,
        asked=_describe(loaded, {"points": points, "given": given, "seed": seed}),
        about=circumstances(loaded.folder, loaded.device),
        suffix=".csv",
        unit="point",
        overwrite=overwrite,
    )
    print(f"{drawn_of(job):,} points written to {out}, {len(job.records()):,} shards")


def refuse(
    condition: Mapping[str, str],
    guidance: float | Mapping[str, float] | None,
    sizes: tuple[int, ...] = (),
    only_valid: int | None = None,
) -> None:
    """Refuse what the domain has no meaning for.

    Raises:
        ValueError: If there is such a thing.
    """
    if condition or guidance is not None:
        msg = "a model of points has no conditions: leave out --condition and --guidance"
        raise ValueError(msg)
    if sizes:
        msg = "a sample is one point of each leaf: leave out --sizes"
        raise ValueError(msg)
    if only_valid is not None:
        msg = "every point is on its space: leave out --only-valid, and say how many with -n"
        raise ValueError(msg)


def _describe(run: Run, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that the points follow from, for JSON; the model as a checksum."""
    model = run.config.model_dump(mode="json", exclude={"sampler", "training"})
    return {
        "domain": "manifolds",
        "model": model_checksum(run.folder, model, run.codec.state()),
        **asked,
        "noise": run.noise,
        "sampler": run.config.sampler.model_dump(mode="json"),
    }
