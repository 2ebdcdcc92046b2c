"""Drawing fields at the command line: in one go, or into a folder of shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from structdiff import runs
from structdiff.artifacts import Job, Part
from structdiff.runs import checksum, circumstances, drawn_of, model_checksum
from structdiff.runs.fields.request import Request
from structdiff.runs.fields.run import FieldRun

__all__ = ["collect", "fill"]


def collect(run: FieldRun[Any, Any], asked: Request) -> Tensor:
    """Draw in one go, `(samples, *event)`.

    Raises:
        ValueError: If memory runs out for one sample alone.
        Stopped: If a signal asked to stop.
    """

    def make(part: Part, done: Callable[[float], None]) -> Tensor:
        return run.draw(asked, part, done=done)

    size = run.config.sampler.batch_size
    return torch.cat(runs.collect(make, asked.samples, size, unit=run.unit))


def fill(
    run: FieldRun[Any, Any],
    asked: Request,
    words: Mapping[str, Any],
    path: Path,
    *,
    encode: Callable[[Tensor, int], bytes],
    suffix: str,
    overwrite: bool,
) -> Job:
    """Draw into a folder, a file per batch; see `structdiff.runs.fill`.

    Arguments:
        run: The model.
        asked: What to draw.
        words: The same in the words of who asked, for the record.
        path: The folder.
        encode: Fields and the number of the first of them as the content of a file.
        suffix: Of the files.
        overwrite: Whether a job that was asked otherwise is replaced.
    """

    def make(part: Part, done: Callable[[float], None]) -> bytes:
        return encode(run.draw(asked, part, done=done), part.low)

    job = runs.fill(
        make,
        asked.samples,
        run.config.sampler.batch_size,
        path,
        asked=_described(run, asked, words),
        about=circumstances(run.folder, run.device),
        suffix=suffix,
        unit=run.unit,
        overwrite=overwrite,
    )
    print(f"{drawn_of(job):,} {run.unit}s written to {path}, {len(job.records()):,} shards")
    return job


def _described(
    run: FieldRun[Any, Any], asked: Request, words: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the samples follow from, for JSON; model and tensors as checksums."""
    settings = run.config.model_dump(mode="json", exclude={"sampler", "training"})
    codec = run.folder.path / "codec.safetensors"
    weights = checksum(codec.read_bytes()) if codec.exists() else ""
    known: dict[str, Tensor] = dict(asked.condition)
    if asked.given is not None:
        known |= {"given": asked.given.source, "mask": asked.given.known}
    if asked.seen is not None:
        known |= {"measured": asked.seen.y}
    return {
        "domain": run.domain,
        "model": model_checksum(run.folder, [settings, weights], run.codec.state()),
        f"{run.unit}s": asked.samples,
        **words,
        "seed": asked.seed,
        "known": {name: _digest(x) for name, x in known.items()},
        "sampler": run.config.sampler.model_dump(mode="json"),
    }


def _digest(x: Tensor) -> str:
    """What tells a tensor from others."""
    whole = x.detach().cpu().contiguous()
    content = whole.reshape(-1).view(torch.uint8).numpy().tobytes()
    return checksum(f"{tuple(x.shape)}{x.dtype}".encode(), content)
