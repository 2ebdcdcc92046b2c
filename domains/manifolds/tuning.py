"""Samplers of few calls, tuned to a run and kept in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from structdiff.acceleration import Tuned, tune_sampler
from structdiff.artifacts import RunFolder, read_json, write_json
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser

__all__ = ["stored", "tune"]


def _path(folder: RunFolder, calls: int) -> Path:
    return folder.path / "tuned" / f"{calls}.json"


def tune(
    folder: RunFolder,
    denoiser: Denoiser,
    calls: int,
    *,
    end: float,
    pilots: int = 256,
    seed: int = 0,
    say: Callable[[str], object] = print,
) -> Tuned:
    """Choose times and weights of a walk of so many calls, and keep them with the run.

    Arguments:
        folder: The run.
        denoiser: Its model.
        calls: Network calls of the walk.
        end: The earliest time at which the network is asked.
        pilots: Points that are solved finely to choose by.
        seed: Start of their noise.
        say: What the table of errors is given to.

    Raises:
        ValueError: If a number is out of range.
    """
    batch = Batch.of(denoiser.process.empty(pilots, next(denoiser.parameters()).device))
    nodes = max(240, 4 * calls)
    found = tune_sampler(
        denoiser, nfe=calls, batch=batch, nodes=nodes, seed=seed, end=end, show=say
    )
    path = _path(folder, calls)
    path.parent.mkdir(exist_ok=True)
    write_json(path, asdict(found))
    say(f"kept in {path}: sample with --sampler.kind tuned --sampler.steps {calls}")
    return found


def stored(folder: RunFolder, calls: int) -> Tuned:
    """What was found for so many calls.

    Raises:
        ValueError: If that was not tuned, or the file is damaged.
    """
    path = _path(folder, calls)
    if not path.exists():
        known = sorted(int(file.stem) for file in path.parent.glob("*.json"))
        has = f"it is for {known} calls" if known else "nor for any other number"
        msg = f"{folder.path} is not tuned for {calls} calls, {has}"
        raise ValueError(f"{msg}: structdiff tune {folder.path} --calls {calls}")
    try:
        return Tuned(**read_json(path))
    except TypeError:
        msg = f"{path} is damaged: remove it and tune again"
        raise ValueError(msg) from None
