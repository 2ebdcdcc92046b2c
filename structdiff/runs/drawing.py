"""Drawing at the command line: in one go, or into a folder of shards that can be gone on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from structdiff.artifacts import Job, Made, Part, partition, piecewise
from structdiff.runs.progress import Progress, stoppable

__all__ = ["Draw", "collect", "drawn_of", "fill"]

T = TypeVar("T")

Draw = Callable[[Part, Callable[[float], None]], T]
"""What a part of a request becomes; it is handed what to call with the share that is done."""


def collect(draw: Draw[T], samples: int, batch_size: int, *, unit: str) -> list[T]:
    """Draw all parts in one go.

    Arguments:
        draw: Draws a part.
        samples: How many in all.
        batch_size: Samples of a part.
        unit: What is drawn, in the singular.

    Raises:
        ValueError: If memory runs out for one sample alone.
        Stopped: If a signal asked to stop.
    """
    found = list[T]()
    with Progress(samples, unit=unit) as bar:

        def word() -> str:
            done = f"stopped after {bar.settled:,} {unit}s"
            return f"{done}, nothing is written; only a folder can go on"

        def make(part: Part) -> T:
            return draw(part, bar.walk(part))

        with stoppable(word):
            for part, made in piecewise(partition(samples, batch_size), make):
                found.append(made)
                bar.settle(part.high - part.low)
    return found


def fill(
    draw: Draw[bytes],
    samples: int,
    batch_size: int,
    path: Path,
    *,
    asked: Mapping[str, Any],
    about: Mapping[str, str],
    suffix: str,
    unit: str,
    overwrite: bool,
) -> Job:
    """Draw into a folder, a file per part.

    A folder in which the same was begun is gone on with; it ends as it would have without a stop.

    Arguments:
        draw: Draws a part, as the content of its file.
        samples: How many in all.
        batch_size: Samples of a part.
        path: The folder.
        asked: All that the samples follow from, for JSON.
        about: What else is worth knowing, see `circumstances`.
        suffix: Of the files.
        unit: What is drawn, in the singular.
        overwrite: Whether a job that was asked otherwise is replaced.

    Raises:
        ValueError: If the folder holds something else, or memory runs out for one sample alone.
        Stopped: If a signal asked to stop.
        OSError: If a file cannot be written.
    """
    job = Job(path, asked, stem=f"{unit}s", about=about, overwrite=overwrite)
    if job.lost:
        print(f"missing or changed, drawn again: {', '.join(job.lost)}")
    if job.done:
        print(f"{path} goes on after {drawn_of(job):,} {unit}s drawn")

    def word() -> str:
        done = f"stopped after {drawn_of(job):,} {unit}s"
        return f"{done}; run the same command to go on in {path}"

    with stoppable(word), Progress(samples, unit=unit, settled=drawn_of(job)) as bar:

        def make(part: Part) -> Made:
            content, count = draw(part, bar.walk(part)), part.high - part.low
            bar.settle(count)
            return Made({suffix: content}, {"drawn": count})

        job.run(partition(samples, batch_size), make)
    return job


def drawn_of(job: Job) -> int:
    """How many samples a job has drawn."""
    return sum(record.counts["drawn"] for record in job.records())
