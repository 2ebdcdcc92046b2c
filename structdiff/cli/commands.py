"""Commands that take a run, whatever its domain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.cli.registry import DOMAINS, load

__all__ = ["COMMANDS"]


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn; the run's own settings by default."""

    steps: int | None = None
    """Calls of the network."""
    eta: float | None = None
    """Fresh noise of each step: 0 none, 1 that of the Bayes kernel."""


def sample(
    run: tyro.conf.Positional[Path],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 10,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    sizes: tuple[int, ...] = (),
    sampler: Drawing = Drawing(),  # noqa: B008
    seed: int = 0,
    given: Path | None = None,
    only_valid: bool = False,
    overwrite: bool = False,
) -> None:
    """Draw from a trained model.

    Args:
        run: Folder of the run.
        n: How many to draw.
        out: File to write; its suffix says the format. Without one, a list is printed.
        sizes: Sizes to choose from (for molecules, numbers of atoms); by default as in the data.
        sampler: How samples are drawn.
        seed: Start of the random numbers.
        given: File with a part that every sample is to contain, held where it is.
        only_valid: Write valid samples only; rates are of all drawn.
        overwrite: Whether OUT may be replaced.
    """
    domain = load(RunFolder(run).domain)
    domain.commands.sample(
        run,
        n,
        out,
        sizes=sizes,
        steps=sampler.steps,
        eta=sampler.eta,
        seed=seed,
        given=given,
        only_valid=only_valid,
        overwrite=overwrite,
    )


def evaluate(
    run: tyro.conf.Positional[Path],
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 200,
    sampler: Drawing = Drawing(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Draw, measure beside real data, and write a table, files and pictures into the run.

    Args:
        run: Folder of the run.
        n: How many to draw.
        sampler: How samples are drawn.
        seed: Start of the random numbers.
    """
    domain = load(RunFolder(run).domain)
    domain.commands.evaluate(run, n, steps=sampler.steps, seed=seed)


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
        tensors, metadata = load_tensors(folder.ema)
        total = sum(x.numel() for x in tensors.values())
        print(f"  weights: {total:,} numbers, averaged, after update {metadata['step']}")
    elif folder.state.exists():
        step = load_tensors(folder.state)[1]["step"]
        print(f"  training stopped after update {step}; run the same train command to go on")


def domains() -> None:
    """The kinds of data there are."""
    for name, domain in DOMAINS.items():
        print(f"{name:12} {domain.about}   (pip install 'structdiff[{domain.extra}]')")


COMMANDS: dict[str, Callable[..., None]] = {
    "sample": sample,
    "evaluate": evaluate,
    "inspect": inspect,
    "domains": domains,
}
