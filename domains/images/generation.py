"""Drawing images at the command line: into a file, a folder of shards, or a list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from structdiff.domains.images.images import Images
from structdiff.domains.images.output import check_free, encode, write
from structdiff.domains.images.run import Run
from structdiff.domains.images.tasks import Task
from structdiff.runs.fields.generation import collect, fill
from structdiff.runs.fields.request import Request

__all__ = ["asked_of", "refuse", "sample"]

_MANY = 8  # images that are listed
_TASKS = ("super-resolution", "colourisation")


def sample(
    run: Path,
    images: int,
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
    """Draw images and write or list them; a path without a suffix is a folder of shards."""
    refuse(sizes, only_valid)
    shards = out is not None and (folder or out.is_dir() or not out.suffix)
    if out is not None and not shards:
        check_free(out, overwrite=overwrite)
    loaded = Run.load(run).drawing(**settings, guidance=scale_of(guidance))
    asked = asked_of(loaded, images, condition, given, seed)
    names = loaded.codec.classes
    if out is not None and shards:
        words = {"condition": dict(condition), "given": given}

        def content(x: Tensor, low: int) -> bytes:
            return encode(".npz", part_of(loaded, asked, x, low), classes=names)

        fill(loaded, asked, words, out, encode=content, suffix=".npz", overwrite=overwrite)
        return
    drawn = part_of(loaded, asked, collect(loaded, asked), 0)
    if out is None:
        print(_listed(loaded, drawn))
    else:
        print(write(out, drawn, overwrite=overwrite, classes=names))


def part_of(run: Run, asked: Request, x: Tensor, low: int) -> Images:
    """Fields from some sample on as images, with the classes that were asked for."""
    labels = asked.condition.get("label")
    return Images.of_fields(x, None if labels is None else labels[low : low + len(x)])


def refuse(sizes: tuple[int, ...] = (), only_valid: int | None = None) -> None:
    """Refuse what the domain has no meaning for.

    Raises:
        ValueError: If there is such a thing.
    """
    if sizes:
        msg = "a model of images draws them in one size: leave out --sizes"
        raise ValueError(msg)
    if only_valid is not None:
        msg = "every image is valid: leave out --only-valid, and say how many with -n"
        raise ValueError(msg)


def scale_of(guidance: float | Mapping[str, float] | None) -> float | None:
    """The scale of guidance, or None for that of the run.

    Raises:
        ValueError: If there are several.
    """
    if not isinstance(guidance, Mapping):
        return guidance
    if guidance.keys() != {"label"}:
        msg = f"a model of images has one scale of guidance: --guidance 2, got {dict(guidance)}"
        raise ValueError(msg)
    return guidance["label"]


def asked_of(
    run: Run, images: int, condition: Mapping[str, str], given: str | None, seed: int
) -> Request:
    """A request in the words of the command line.

    Arguments:
        run: The model.
        images: How many.
        condition: `label`: classes by name, with commas between them, taken in turn.
        given: A file: with transparent pixels, which are to be drawn; or, for a model of a task,
            what is to be enlarged or coloured; `super-resolution=FILE` and `colourisation=FILE`
            for a model that was not trained for it.
        seed: Start of the random numbers.

    Raises:
        ValueError: If something does not fit the model.
    """
    others = sorted(condition.keys() - {"label"})
    if others:
        msg = f"a model of images knows the condition label, not {others}"
        raise ValueError(msg)
    label = condition["label"].split(",") if "label" in condition else None
    if given is None:
        return run.asked(images, label=label, seed=seed)
    first, equals, path = given.partition("=")
    if equals and first not in _TASKS and not Path(given).exists():
        msg = (
            f"--given TASK=FILE knows the tasks {' and '.join(_TASKS)}, got {first!r}: where the "
            f"transparent part of a file is to be drawn, --given {path}"
        )
        raise ValueError(msg)
    if equals and first in _TASKS:
        task = cast("Task", first)
        return run.asked(images, label=label, measured=path, task=task, seed=seed)
    if run.config.task.kind in _TASKS:
        return run.asked(images, label=label, measured=given, seed=seed)
    return run.asked(images, label=label, given=given, seed=seed)


def _listed(run: Run, images: Images) -> str:
    """What was drawn, in words."""
    channels, height, width = images.shape
    lines = [f"{len(images):,} images of {height} x {width}, {channels} channel(s)"]
    known = images.labels
    for number in range(min(len(images), _MANY)):
        name = "" if known is None else f", {run.codec.classes[int(known[number])]}"
        mean = float(images.pixels[number].mean())
        lines.append(f"  image {number}{name}: mean brightness {mean:.0f} of 255")
    return "\n".join([*lines, "give a file with -o, as in -o images.png"])
