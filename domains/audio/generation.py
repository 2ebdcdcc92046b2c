"""Drawing sounds at the command line: into a file, a folder of shards, or a list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from structdiff.domains.audio.data import load_sounds
from structdiff.domains.audio.output import check_free, encode, write
from structdiff.domains.audio.request import Known
from structdiff.domains.audio.run import Run
from structdiff.domains.audio.sounds import Sound
from structdiff.runs.fields import Request
from structdiff.runs.fields.generation import collect, fill

__all__ = ["asked_of", "refuse", "sample", "scale_of"]


def sample(
    run: Path,
    clips: int,
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
    """Draw sounds and write or list them; a path without a suffix is a folder of shards."""
    refuse(sizes, only_valid)
    shards = out is not None and (folder or out.is_dir() or not out.suffix)
    if out is not None and not shards:
        check_free(out, overwrite=overwrite)
    loaded = Run.load(run).drawing(**settings, guidance=scale_of(guidance))
    asked = asked_of(loaded, clips, condition, given, seed)
    if out is not None and shards:
        words = {"condition": dict(condition), "given": given}

        def content(fields: Tensor, low: int) -> bytes:
            return encode(".zip", loaded.sounds(fields, asked, low))

        fill(loaded, asked, words, out, encode=content, suffix=".zip", overwrite=overwrite)
        return
    drawn = loaded.sounds(collect(loaded, asked), asked)
    print(listed(drawn) if out is None else write(out, drawn, overwrite=overwrite))


def refuse(sizes: tuple[int, ...] = (), only_valid: int | None = None) -> None:
    """Refuse what the domain has no meaning for.

    Raises:
        ValueError: If there is such a thing.
    """
    if sizes:
        msg = "leave out --sizes: how long sounds are is asked for by --condition seconds=0.5"
        raise ValueError(msg)
    if only_valid is not None:
        msg = "every sound is valid: leave out --only-valid, and say how many with -n"
        raise ValueError(msg)


def scale_of(guidance: float | Mapping[str, float] | None) -> float | None:
    """The scale of guidance, or None for that of the run.

    Raises:
        ValueError: If there are several.
    """
    if not isinstance(guidance, Mapping):
        return guidance
    if guidance.keys() != {"label"}:
        msg = f"a model of sounds has one scale of guidance: --guidance 2, got {dict(guidance)}"
        raise ValueError(msg)
    return guidance["label"]


def asked_of(
    run: Run, clips: int, condition: Mapping[str, str], given: str | None, seed: int
) -> Request:
    """A request in the words of the command line.

    Arguments:
        run: The model.
        clips: How many.
        condition: `label`: classes with commas between them, taken in turn; `gap=START:END`,
            `noise=DEVIATION`, `seconds=LENGTH`, see `Known`.
        given: A recording.
        seed: Start of the random numbers.

    Raises:
        FileNotFoundError: If there is no such recording.
        ValueError: If something does not fit the model.
    """
    words = dict(condition)
    names = words.pop("label", "").split(",")
    label = [names[i % len(names)] for i in range(clips)] if condition.get("label") else None
    known = Known.of(None if given is None else _recording(given), words)
    return run.asked(clips, label=label, known=known, seed=seed)


def _recording(path: str) -> Sound:
    """The one sound of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none, or has several.
    """
    sounds = load_sounds(path, "none").sounds
    if len(sounds) > 1:
        msg = f"{path} has {len(sounds)} recordings: give one"
        raise ValueError(msg)
    return sounds[0]


def listed(sounds: list[Sound]) -> str:
    """A line for each sound."""
    return "\n".join(
        f"{sound.name}: {sound.seconds:.3g} s, loudness {_loudness(sound):.3f}"
        f"{f', asked to be {sound.label}' if sound.label else ''}"
        for sound in sounds
    )


def _loudness(sound: Sound) -> float:
    """Root of the mean square."""
    return float((sound.wave.astype("f8") ** 2).mean() ** 0.5)
