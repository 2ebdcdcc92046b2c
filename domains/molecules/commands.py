"""The molecules' part of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import tyro

from structdiff.domains.molecules.generation import sample
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.regressor import RegressorConfig, train_regressor
from structdiff.domains.molecules.reports.card import write_card
from structdiff.domains.molecules.reports.evaluation import evaluate_run
from structdiff.domains.molecules.reports.reporting import doctor, evaluate, score
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.run import train as train_run

__all__ = ["demo", "doctor", "evaluate", "regressor", "sample", "score", "train"]


def train(
    config: Annotated[MoleculesConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/molecules"),
) -> None:
    """Train on molecules, or go on with a run that was stopped.

    --data PATH is short for --data.path PATH, --condition NAME for --data.conditions NAME.

    Args:
        config: Settings of the run.
        out: Folder of the run.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    finished = (out / "ema.safetensors").exists() and (out / "README.md").exists()
    run = train_run(config, out)
    if not first:
        return
    if not finished:
        write_card(run)
    print(f"the run is in {out}; draw from it with: structdiff sample {out} -n 10 -o out.sdf")


def regressor(
    config: Annotated[RegressorConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/regressor"),
) -> None:
    """Train a regressor of noisy molecules, or go on with a run that was stopped.

    --data PATH is short for --data.path PATH, --condition NAME for --data.conditions NAME.

    Args:
        config: Settings of the run; at least one --condition.
        out: Folder of the run.
    """
    train_regressor(config, out)
    if int(os.environ.get("RANK", "0")) == 0:
        asked = " ".join(f"{name}=VALUE" for name in config.data.conditions)
        draw = f"structdiff sample RUN --regressor {out} --condition {asked} --guidance 2"
        print(f"the regressor is in {out}; draw by it with: {draw}")


def demo(out: Path = Path("runs/demo"), steps: int = 10_000) -> None:
    """Train a small model on 2,000 molecules of QM9, with bonds, and show what it makes.

    Then draw from the weights of a longer run that come with structdiff.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    processes = min(2, os.cpu_count() or 1)
    print(f"1. training on 2,000 molecules of QM9 with {processes} processes: {steps} updates")
    settings = ["--out", str(out), "--data.bonds", "kekulized", "--training.steps", str(steps)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", str(processes), "-m", "structdiff"]
    code = subprocess.call([*launch, "train", "molecules", *settings], env=_quiet())
    if code:
        msg = f"the training ended with status {code}; what it said stands above"
        raise ValueError(msg)
    print("\n2. what it makes")
    evaluate(out, 200, settings={}, seed=0)
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
