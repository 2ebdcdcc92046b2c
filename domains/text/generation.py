"""Drawing texts at the command line: into a file, a folder of shards, or a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from structdiff import runs
from structdiff.artifacts import Job, Part
from structdiff.domains.text.output import check_free, encode, escape, write
from structdiff.domains.text.request import Request
from structdiff.domains.text.run import Run
from structdiff.runs import circumstances, drawn_of, model_checksum

__all__ = ["collect", "fill", "sample"]


def sample(
    run: Path,
    texts: int,
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
    """Draw texts and write or list them; a path without a suffix is a folder of shards."""
    refuse(condition, guidance, only_valid)
    shards = out is not None and (folder or out.is_dir() or not out.suffix)
    if out is not None and not shards:
        check_free(out, overwrite=overwrite)
    loaded = Run.load(run).drawing(**settings)
    asked = {"sizes": list(sizes) or None, "given": given, "seed": seed}
    known = loaded.request(texts, sizes=list(sizes) or None, given=given, seed=seed)
    if out is None:
        print("\n".join(escape(text) for text in collect(loaded, known)))
    elif shards:
        fill(loaded, known, asked, out, overwrite=overwrite)
    else:
        print(write(out, collect(loaded, known), overwrite=overwrite))


def refuse(
    condition: Mapping[str, str],
    guidance: float | Mapping[str, float] | None,
    only_valid: int | None = None,
) -> None:
    """Refuse what the domain has no meaning for.

    Raises:
        ValueError: If there is such a thing.
    """
    if condition or guidance is not None:
        msg = "a model of text has no conditions: leave out --condition and --guidance"
        raise ValueError(msg)
    if only_valid is not None:
        msg = "every text is valid: leave out --only-valid, and say how many with -n"
        raise ValueError(msg)


def collect(run: Run, asked: Request) -> list[str]:
    """Draw in one go.

    Raises:
        ValueError: If memory runs out for one text alone.
        Stopped: If a signal asked to stop.
    """

    def make(part: Part, done: Callable[[float], None]) -> list[str]:
        return run.draw(asked, part, done=done)

    size = run.config.sampler.batch_size
    drawn = runs.collect(make, len(asked.counts), size, unit="text")
    return [text for part in drawn for text in part]


def fill(
    run: Run, known: Request, asked: Mapping[str, Any], path: Path, *, overwrite: bool
) -> Job:
    """Draw into a folder, a .txt file per batch; see `structdiff.runs.fill`.

    Arguments:
        run: The model.
        known: What to draw.
        asked: The same in the words of who asked, for the record.
        path: The folder.
        overwrite: Whether a job that was asked otherwise is replaced.
    """
    texts = len(known.counts)

    def make(part: Part, done: Callable[[float], None]) -> bytes:
        return encode(".txt", run.draw(known, part, done=done))

    job = runs.fill(
        make,
        texts,
        run.config.sampler.batch_size,
        path,
        asked=_describe(run, texts, asked),
        about=circumstances(run.folder, run.device),
        suffix=".txt",
        unit="text",
        overwrite=overwrite,
    )
    shards = f"{len(job.records()):,} shards, one text a line"
    print(f"{drawn_of(job):,} texts written to {path}, {shards}")
    return job


def _describe(run: Run, texts: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """All that the texts follow from, for JSON; the model as a checksum."""
    model = run.config.model_dump(mode="json", exclude={"sampler", "training"})
    return {
        "domain": "text",
        "model": model_checksum(run.folder, model, run.codec.state()),
        "texts": texts,
        **asked,
        "sampler": run.config.sampler.model_dump(mode="json"),
    }
