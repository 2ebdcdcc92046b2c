"""The manifolds domain's part of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tyro

from structdiff.domains.manifolds.generation import sample
from structdiff.domains.manifolds.recipe import ManifoldsConfig
from structdiff.domains.manifolds.reports.card import write_card
from structdiff.domains.manifolds.reports.evaluation import evaluate_run
from structdiff.domains.manifolds.reports.reporting import doctor, evaluate, score
from structdiff.domains.manifolds.run import Run
from structdiff.domains.manifolds.run import train as train_run

__all__ = ["demo", "doctor", "evaluate", "sample", "score", "train", "tune"]


def train(
    config: Annotated[ManifoldsConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/manifolds"),
) -> None:
    """Train on points, or go on with a run that was stopped.

    --data PATH is short for --data.path PATH.

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
    print(f"the run is in {out}; draw from it with: structdiff sample {out} -n 5")


def tune(run: Path, calls: tuple[int, ...], *, pilots: int, seed: int) -> None:
    """Choose walks of few calls for a run, and keep them with it.

    Args:
        run: Folder of the run.
        calls: Network calls of each walk.
        pilots: Points that are solved finely to choose by.
        seed: Start of their noise.
    """
    model = Run.load(run)
    for number in calls:
        model.tune(number, pilots=pilots, seed=seed)


def demo(out: Path = Path("runs/manifolds-demo"), steps: int = 600) -> None:
    """Train a small model of covariances of muscle signals and show how good it is.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    print(f"1. training on 3 x 3 covariances of geomstats' EMG: {steps} updates")
    changes = {
        "steps": steps,
        "batch_size": 256,
        "validate_every": max(1, steps // 4),
        "ema": 0.99,
    }
    settings = {
        "network": {"width": 192, "waves": 128, "octaves": 5.0},
        "training": {**ManifoldsConfig().training.model_dump(), **changes},
    }
    run = train_run(ManifoldsConfig.model_validate(settings), out)
    write_card(run)
    print("\n2. what it makes, beside covariances that it has not seen")
    result = evaluate_run(run, 300)
    print(result.table())
    write_card(run, result.table())
    print(f"\nthe run is in {out}, a page about it in {out / 'samples' / 'evaluation.html'}")
