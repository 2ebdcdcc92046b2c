"""Commands that take a run, whatever its domain."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.cli.registry import DOMAINS, load

__all__ = ["COMMANDS"]

Words = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
Sizes = Annotated[tuple[tuple[int, ...], ...], tyro.conf.UseAppendAction]
Asked = Annotated[Words, tyro.conf.arg(metavar="NAME=VALUE ...")]
Scales = Annotated[Words, tyro.conf.arg(metavar="[NAME=]NUMBER ...")]


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn; the run's own settings by default."""

    steps: int | None = None
    """Calls of the network; of text, for each block of a walk in blocks, and one for each token of
    first-hitting."""
    eta: float | None = None
    """Fresh noise of each step: 0 none, 1 that of the Bayes kernel."""
    start: float | None = None
    """Time at which the walk begins: below 1, at what the model is shown, noised to it; of images
    and audio."""
    temperature: float | None = None
    """1 draws from the model, below samples are surer and less diverse: of positions a factor on
    the fresh noise, of tokens the temperature of the law of each."""
    class_temperature: float | None = None
    """Of molecules the temperature of the law of each element and bond."""
    remask_share: float | None = None
    """Of molecules the probability that an element or bond is noised anew in a step."""
    repaint: int | None = None
    """How often stretches of steps are repeated for a given part that was not trained."""
    kind: str | None = None
    """The walk, where the domain has several; train DOMAIN --help lists them."""
    nucleus: float | None = None
    """Share of the law of each class that is kept, the likeliest first."""
    block: int | None = None
    """Rows of a block, of a walk in blocks."""
    remask: float | None = None
    """How often each row is noised anew on its way, on average, of a walk that does."""
    grid: str | None = None
    """How the steps lie in time, of images and audio."""
    guide_from: float | None = None
    """First time, towards the data, at which --guidance holds, of images and audio."""
    guide_to: float | None = None
    """Last such time, towards noise."""
    threshold: str | None = None
    """How estimates are kept within the range of the data, of images and audio."""
    inverse: str | None = None
    """How a measurement is followed by a model that was not trained for it, of images and
    audio."""
    zeta: float | None = None
    """Length of the steps of dps."""
    jump: int | None = None
    """Steps of a stretch that --sampler.repaint repeats, of images and audio."""
    batch_size: int | None = None
    """Samples drawn together."""
    randomness: Literal["batch", "sample"] | None = None
    """Noise from one stream per batch, or keyed by sample: then the same in every batch."""


def sample(
    run: tyro.conf.Positional[Path],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10,
    out: Annotated[str | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")] = None,
    condition: Asked = (),
    guidance: Scales = (),
    sizes: Annotated[Sizes, tyro.conf.arg(metavar="INT ...")] = (),
    given: str | None = None,
    only_valid: int | None = None,
    regressor: Path | None = None,
    sampler: Drawing = Drawing(),  # noqa: B008
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw from a trained model.

    Args:
        run: Folder of the run.
        n: How many to draw; not used with --only-valid.
        out: File to write, its suffix says the format; or a folder (a path without a suffix, one
            that ends in a slash, or one that exists), which is filled shard by shard and goes on
            where it was stopped. Without one, a list is printed.
        condition: What is asked of the samples: NAME=VALUE, several if need be; of molecules
            their properties, of images and audio label=CLASS and what their README lists.
        guidance: Scale of the conditions: 0 unconditional, 1 conditional, above 1 guided; one
            number, or NAME=NUMBER for each condition.
        sizes: Sizes to choose from (of molecules, numbers of atoms; of text, numbers of tokens);
            by default as in the data.
        given: A part that every sample is to contain: of molecules a file, held where it is; of
            text the text itself, with {6} for six unknown tokens ("To be {6} not to be"); what has
            no gap is the beginning of a window of running text, the rest of which is drawn; of
            manifolds whole leaves, in the units of the data (place=12.5,41.9); of images a
            picture, known where it is not transparent, or TASK=FILE of a task that the model was
            trained for or not (super-resolution=small.png); of audio a sound, of which
            --condition says gap=0.2:0.3 (seconds to fill) or noise=0.05 (to take away).
        only_valid: Draw until so many are valid, and keep those; the rate of all drawn is told. Of
            molecules alone.
        regressor: Folder of a regressor, whose gradient follows the conditions that it knows; of
            molecules alone.
        sampler: How samples are drawn.
        seed: Start of the random numbers: with the same, the same samples are drawn.
        overwrite: Whether OUT may be replaced.
    """
    domain = load(RunFolder(run).domain)
    draw = domain.commands.sample
    draw(
        run,
        n,
        None if out is None else _path("out", out),
        folder=out is not None and out.endswith(("/", os.sep)),
        condition=_pairs("condition", tuple(chain(*condition))),
        guidance=_scale(tuple(chain(*guidance))),
        sizes=tuple(chain(*sizes)),
        given=given,
        only_valid=only_valid,
        settings=asdict(sampler),
        seed=seed,
        overwrite=overwrite,
        **_own(draw, "regressor", regressor, "molecules"),
    )


def _path(name: str, word: str) -> Path:
    """A path that is not empty, which would be the current folder."""
    if not word:
        msg = f"{name} is empty: give the name of a file or a folder"
        raise ValueError(msg)
    return Path(word)


def _pairs(name: str, words: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE words as a mapping."""
    found = dict(word.split("=", 1) for word in words if "=" in word)
    if len(found) < len(words) or "" in found:
        msg = f"{name} must be NAME=VALUE, each name once, got {' '.join(words)}"
        raise ValueError(msg)
    return found


def _scale(words: tuple[str, ...]) -> float | dict[str, float] | None:
    """One guidance scale, or one for each condition; None where none is said."""
    if any("=" in word for word in words):
        pairs = _pairs("guidance", words)
        return {name: _number("guidance", word) for name, word in pairs.items()}
    if len(words) > 1:
        msg = f"guidance must be one number, or NAME=NUMBER for each condition, got {words}"
        raise ValueError(msg)
    return _number("guidance", words[0]) if words else None


def _number(name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        msg = f"{name} must be a number, got {word!r}"
        raise ValueError(msg) from None


def evaluate(
    run: tyro.conf.Positional[Path],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 200,
    data: Path | None = None,
    condition: Asked = (),
    guidance: Scales = (),
    features: Path | None = None,
    chemistry: bool = False,
    sampler: Drawing = Drawing(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Draw, measure beside real data, and write a page with tables and pictures into the run.

    Args:
        run: Folder of the run.
        n: How many to draw.
        data: The run's data, if they are no longer where they were.
        condition: What is asked of the samples: NAME=VALUE, several if need be.
        guidance: Scale of the conditions; one number, or NAME=NUMBER for each condition.
        features: Weights of Inception-v3 as safetensors, to measure distances by; of images
            alone, where a classifier that is trained on the data does it by default.
        chemistry: Whether to measure geometry, rings, properties, strain and fragments too; of
            molecules alone.
        sampler: How samples are drawn.
        seed: Start of the random numbers.
    """
    measure = load(RunFolder(run).domain).commands.evaluate
    measure(
        run,
        n,
        condition=_pairs("condition", tuple(chain(*condition))),
        guidance=_scale(tuple(chain(*guidance))),
        settings=asdict(sampler),
        seed=seed,
        data=data,
        **_own(measure, "features", features, "images"),
        **_own(measure, "chemistry", chemistry or None, "molecules"),
    )


def score(
    run: tyro.conf.Positional[Path],
    data: Annotated[str, tyro.conf.arg(metavar="PATH")],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    columns: str | None = None,
    draws: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """How likely the model holds samples to be.

    Of manifolds and images that is the log density of each, of molecules and text a bound on
    -log p of each, by leaf.

    Args:
        run: Folder of the run.
        data: File of samples, as for training; of text also the .jsonl that `sample` writes. A
            .txt of text is read as it stands; in one that `sample` wrote, a line end inside a
            text is a backslash and an n.
        out: CSV file to write, a row per sample; without one, a summary is printed.
        columns: Which columns of the file are the leaves of the model, as in training
            ("lat,lon:sphere"); of manifolds alone, by default those of the same names.
        draws: Monte-Carlo repetitions, at least 2; their spread is the error. By default 4 of
            molecules, 16 of text. Of manifolds the number of random probes of the divergence,
            which is exact by default.
        steps: Steps of the chain whose bound it is; by default 500 of molecules, infinitely many
            of text; not of manifolds.
        seed: Start of the random numbers.
        overwrite: Whether OUT may be replaced.
    """
    name = RunFolder(run).domain
    measure = getattr(load(name).commands, "score", None)
    if measure is None:
        msg = f"{run} is a run of {name}, whose models have no density of the data to score by"
        raise ValueError(f"{msg}: structdiff evaluate {run} says how near its samples are")
    asked = {"draws": draws, "steps": steps}
    known = {name: value for name, value in asked.items() if value is not None}
    taken = _own(measure, "columns", columns, "manifolds")
    measure(run, _path("data", data), out, seed=seed, overwrite=overwrite, **known, **taken)


def doctor(
    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")],
    domain: str | None = None,
    columns: str | None = None,
) -> None:
    """Look at a data file before training, and say what training would do with it.

    Args:
        path: File or folder of data.
        domain: Kind of data, molecules by default; with --columns, manifolds.
        columns: Which columns are a point of which space ("lat,lon:sphere"); of manifolds alone,
            where names and values say it by default.
    """
    name = domain or ("molecules" if columns is None else "manifolds")
    look = load(name).commands.doctor
    try:
        look(_path("path", path), **_own(look, "columns", columns, "manifolds"))
    except ValueError as error:
        if domain is not None or columns is not None:
            raise
        others = " or ".join(f"--domain {other}" for other in DOMAINS if other != name)
        msg = f"{error} (looked at as {name}; if they are no such data, say {others})"
        raise ValueError(msg) from None


def _own(function: Callable[..., None], name: str, value: Any, domain: str) -> dict[str, Any]:
    """An option that one domain has, as an argument of its function.

    Raises:
        ValueError: If it is asked for and the function has none.
    """
    if value is not None and name not in signature(function).parameters:
        msg = f"--{name} {value} is of {domain} alone: leave it out"
        raise ValueError(msg)
    return {} if value is None else {name: value}


def tune(
    run: tyro.conf.Positional[Path],
    calls: tuple[int, ...] = (10, 20),
    pilots: int = 256,
    seed: int = 0,
) -> None:
    """Choose walks of few network calls for a trained model, and keep them in its run.

    Times and weights of each walk are chosen by how near pilot samples come to a fine solve of
    the model's own probability flow. It draws by `sample --sampler.kind tuned --sampler.steps
    CALLS`.

    Args:
        run: Folder of the run; of manifolds, since chains on classes have no probability flow.
        calls: Network calls of each walk, from 2 on.
        pilots: Samples that are solved finely to choose by.
        seed: Start of their noise.
    """
    if min(calls, default=0) < 2:
        msg = f"--calls must be numbers from 2 on, got {list(calls)}: one leaves nothing to choose"
        raise ValueError(msg)
    name = RunFolder(run).domain
    commands = load(name).commands
    if not hasattr(commands, "tune"):
        msg = f"{run} is a run of {name}, whose classes have no probability flow to tune a walk by"
        raise ValueError(f"{msg}: choose --sampler.steps by what evaluate says")
    commands.tune(run, calls, pilots=pilots, seed=seed)


def inspect(run: tyro.conf.Positional[Path]) -> None:
    """What is in the folder of a run.

    Args:
        run: Folder of the run.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    print(f"{run}: a run of the domain {folder.domain!r}")
    for group, values in config.items():
        print(f"  {group}: " + ", ".join(f"{k}={v}" for k, v in values.items()))
    lines = folder.read_metrics()
    if lines:
        print(f"  last line of metrics: {lines[-1]}")
    if folder.ema.exists():
        tensors, step = _saved(folder.ema)
        total = sum(x.numel() for x in tensors.values())
        print(f"  weights: {total:,} numbers, averaged, after update {step}")
    elif folder.state.exists():
        _, step = _saved(folder.state)
        print(f"  training stopped after update {step}; run the same train command to go on")


def _saved(path: Path) -> tuple[dict[str, Tensor], str]:
    """Tensors of a training, and after which update they were saved.

    Raises:
        ValueError: If they are not of a training.
    """
    tensors, metadata = load_tensors(path)
    if "step" not in metadata:
        msg = f"{path} does not say after which update it was saved: it is not of a training"
        raise ValueError(msg)
    return tensors, metadata["step"]


def domains() -> None:
    """The kinds of data there are."""
    for name, domain in DOMAINS.items():
        print(f"{name:12} {domain.about}   (pip install 'structdiff[{domain.extra}]')")


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "score": score,
    "evaluate": evaluate,
    "doctor": doctor,
    "tune": tune,
    "inspect": inspect,
    "domains": domains,
}
