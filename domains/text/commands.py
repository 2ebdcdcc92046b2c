"""The text domain's part of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tyro

from structdiff.domains.text.generation import sample
from structdiff.domains.text.output import escape
from structdiff.domains.text.recipe import TextConfig
from structdiff.domains.text.reports.card import write_card
from structdiff.domains.text.reports.measuring import held_out, reference_bits
from structdiff.domains.text.reports.reporting import doctor, evaluate, score
from structdiff.domains.text.run import load_data
from structdiff.domains.text.run import train as train_run

__all__ = ["demo", "doctor", "evaluate", "sample", "score", "train"]


def train(
    config: Annotated[TextConfig, tyro.conf.arg(name="")],
    out: Path = Path("runs/text"),
) -> None:
    """Train on text, or go on with a run that was stopped.

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


def demo(out: Path = Path("runs/text-demo"), steps: int = 800) -> None:
    """Train a small model on the topics of Python's help in minutes and show what it makes.

    Args:
        out: Folder of the run.
        steps: Updates of the training.
    """
    print(f"1. training on the topics of Python's help(): {steps} updates")
    settings = {"training": {**TextConfig().training.model_dump(), "steps": steps}}
    run = train_run(TextConfig.model_validate(settings), out)
    write_card(run)
    print("\n2. how likely held-out text is")
    data = load_data(run.config, None, run.codec.vocabulary)
    scores = held_out(run, data.test, 0, progress=True)
    print(scores.summary())
    for name, bits in reference_bits(data, data.test).items():
        print(f"  {name}s: {bits:.4f} bits per character")
    print("\n3. what it makes (\\n is a line end)")
    for text in run.sample(4, seed=0):
        print(f"  {escape(text)}")
    print('\n4. and where something is given: "The {12} statement {40}"')
    for text in run.sample(2, given="The {12} statement {40}", seed=0):
        print(f"  {escape(text)}")
    print(f"\nthe run is in {out}; structdiff evaluate {out} writes a page about it")
