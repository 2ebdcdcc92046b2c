"""The images domain's part of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from structdiff.domains.images.generation import sample
from structdiff.domains.images.output import write
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.domains.images.reports.card import write_card
from structdiff.domains.images.reports.evaluation import evaluate_run
from structdiff.domains.images.reports.reporting import doctor, evaluate, score
from structdiff.domains.images.run import train as train_run

__all__ = ["demo", "doctor", "evaluate", "sample", "score", "train"]


def train(
    config: Annotated[ImagesConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/images"),
) -> None:
    """Train on images, or go on with a run that was stopped.

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
    print(f"the run is in {out}; draw from it with: structdiff sample {out} -n 16 -o out.png")


def demo(out: Path = Path("runs/images-demo"), steps: int = 600) -> None:
    """Train a small model of handwritten digits in minutes and show what it makes.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    print(f"1. training on scikit-learn's handwritten digits: {steps} updates")
    settings = {
        "network": {"width": 32, "multipliers": (1, 2), "attention": (1,), "blocks": 1},
        "training": {**ImagesConfig().training.model_dump(), "steps": steps, "ema": 0.99},
    }
    run = train_run(ImagesConfig.model_validate(settings), out)
    print("\n2. what it makes, guided by the class, beside images that it has not seen")
    result = evaluate_run(run.drawing(guidance=2.0), 200)
    print(result.table())
    write_card(run, result.table())
    print("\n3. and where the upper half is given: what may lie below")
    given = run.sample(10, label=list(range(10)), guidance=2.0)
    known = np.zeros(given.shape[1:], bool)
    known[: given.shape[1] // 2] = True
    filled = run.sample(10, given=given, known=known, kind="ancestral", repaint=5)
    print(write(out / "samples" / "halves.png", filled, overwrite=True, columns=10))
    print(f"\nthe run is in {out}, a page about it in {out / 'samples' / 'evaluation.html'}")
