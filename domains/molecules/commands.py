"""The molecules' part of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from structdiff.domains.molecules.card import write_card
from structdiff.domains.molecules.data import read
from structdiff.domains.molecules.evaluation import evaluate_run
from structdiff.domains.molecules.output import check_free, write
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.run import train as train_run
from structdiff.domains.molecules.sampling import Samples

__all__ = ["demo", "evaluate", "sample", "train"]


def train(
    config: Annotated[MoleculesConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/molecules"),
) -> None:
    """Train on molecules, or go on with a run that was stopped.

    --data PATH is short for --data.path PATH.

    Args:
        config: Settings of the run.
        out: Folder of the run.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    run = train_run(config, out)
    if not first:
        return
    write_card(run)
    print(f"the run is in {out}; draw from it with: structdiff sample {out} -n 10 -o out.sdf")


def sample(
    run: Path,
    molecules: int,
    out: Path | None,
    *,
    sizes: tuple[int, ...],
    steps: int | None,
    eta: float | None,
    seed: int,
    given: Path | None,
    only_valid: bool,
    overwrite: bool,
) -> None:
    """Draw molecules and write or list them."""
    if out is not None:
        check_free(out, overwrite=overwrite)
    core = None if given is None else read(given).structures
    drawn = Run.load(run).sample(
        molecules, sizes=sizes or None, steps=steps, eta=eta, seed=seed, given=core
    )
    report(drawn)
    kept = np.flatnonzero(
        [v.valid and v.connected for v in drawn.verdicts] if only_valid else [True] * len(drawn)
    )
    chosen, verdicts = drawn.structures.select(kept), [drawn.verdicts[i] for i in kept.tolist()]
    if out is not None:
        print(write(out, chosen, verdicts, overwrite=overwrite).report())
        return
    for verdict in verdicts:
        print(
            verdict.smiles
            if verdict.smiles and verdict.connected
            else f"invalid: {verdict.reasons[0]}"
        )


def report(drawn: Samples) -> None:
    """Rates of all drawn, and why the others are not valid."""
    total = len(drawn)
    valid = sum(v.valid for v in drawn.verdicts)
    whole = sum(v.valid and v.connected for v in drawn.verdicts)
    print(
        f"{total} drawn: {valid} valid ({valid / total:.0%}), "
        f"{whole} valid and in one piece ({whole / total:.0%})"
    )
    kinds = Counter(_kind(v.reasons[0]) for v in drawn.verdicts if v.reasons)
    for reason, count in kinds.most_common(3):
        print(f"  {count} x {reason}")


def _kind(reason: str) -> str:
    """A reason without the atom's number and element: "atom 3 (C) has valence 5, allowed 4"."""
    words = reason.split()
    return "an atom " + " ".join(words[3:]) if words[0] == "atom" else reason


def evaluate(run: Path, molecules: int, *, steps: int | None, seed: int) -> None:
    """Measure a run and refresh its card."""
    loaded = Run.load(run)
    result = evaluate_run(loaded, molecules, steps=steps, seed=seed)
    print(result.table())
    write_card(loaded, result.table())
    print("written: " + ", ".join(str(path) for path in result.files))


def demo(out: Path = Path("runs/demo"), steps: int = 10_000) -> None:
    """Train a small model on 2,000 molecules of QM9 in minutes and show what it makes.

    Then draw from the weights of a longer run that come with structdiff.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    processes = min(2, os.cpu_count() or 1)
    print(f"1. training on 2,000 molecules of QM9 with {processes} processes: {steps} updates")
    settings = ["--out", str(out), "--training.steps", str(steps)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(processes), "-m", "structdiff.cli.main"]
    code = subprocess.call([*launch, "train", "molecules", *settings], env=_quiet())
    if code:
        msg = f"the training ended with status {code}; what it said stands above"
        raise ValueError(msg)
    print("\n2. what it makes")
    evaluate(out, 200, steps=None, seed=0)
    print("\n3. what a longer run makes, whose weights come with structdiff")
    longer = Run.pretrained()
    folder = out / "longer"
    result = evaluate_run(longer, 200, out=folder)
    print(result.table())
    print("written: " + ", ".join(str(path) for path in result.files))
    print(f"\nlook at {out / 'samples' / 'molecules.png'} and {folder / 'molecules.png'}")


def _quiet() -> dict[str, str]:
    """The environment, with one thread for each process."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
