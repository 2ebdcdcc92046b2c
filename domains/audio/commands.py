"""The audio domain's part of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tyro

from structdiff.domains.audio.generation import sample
from structdiff.domains.audio.output import write
from structdiff.domains.audio.recipe import AudioConfig
from structdiff.domains.audio.reports.card import write_card
from structdiff.domains.audio.reports.reporting import doctor, evaluate
from structdiff.domains.audio.request import Known
from structdiff.domains.audio.run import train as train_run

__all__ = ["demo", "doctor", "evaluate", "sample", "train"]


def train(
    config: Annotated[AudioConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/audio"),
) -> None:
    """Train on sounds, or go on with a run that was stopped.

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
    options = "-n 1 -o out.wav --given own.wav" if config.shown else "-n 8 -o out.wav"
    print(f"the run is in {out}; draw from it with: structdiff sample {out} {options}")


def demo(out: Path = Path("runs/audio-demo"), steps: int = 1500) -> None:
    """Train a small model on synthesised tones in minutes and show what it makes.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    print(f"1. training on synthesised tones of four timbres: {steps} updates")
    settings = {"training": {**AudioConfig().training.model_dump(), "steps": steps}}
    run = train_run(AudioConfig.model_validate(settings), out)
    write_card(run)
    folder = run.folder.samples
    folder.mkdir(exist_ok=True)
    print("\n2. what it makes: every timbre in turn")
    drawn = run.sample(16, seed=0)
    print(write(folder / "tones.wav", drawn, overwrite=True))
    print(write(folder / "tones.png", drawn, overwrite=True))
    print("\n3. a gap of a tenth of a second in the first of them, filled")
    filled = run.sample(4, known=Known(drawn[0], gap=(0.08, 0.18)), label=drawn[0].label, seed=1)
    print(write(folder / "filled.wav", [drawn[0], *filled], overwrite=True))
    print(f"\nthe run is in {out}; structdiff evaluate {out} writes a page about it")
