"""Training molecules with a clock: the validation bound by updates and by CPU time.

What is trained is what `structdiff train molecules` trains, from the same config, in the same
order. The clock counts CPU seconds of the process in updates, data and saves included, and stands
still while the model is judged. It is read when the model is judged: between two such looks the
time is the updates times the CPU time of one, as the process measured it since it last began, so
a stop costs the clock nothing and what had to be done again is not counted twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from structdiff.artifacts import RunFolder, read_json, write_json
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.loading import load_data
from structdiff.domains.molecules.recipe import MoleculesConfig, build, objective_of
from structdiff.domains.molecules.run import Run
from structdiff.training import Source, Trainer

__all__ = ["Course", "Look", "train_on_the_clock"]

Look = Callable[[Run], Mapping[str, Any]]


class Course:
    """Looks at a model in training, kept in a file.

    Arguments:
        path: The file.
        updates: Updates made so far.
    """

    def __init__(self, path: Path, updates: int) -> None:
        self.path = path
        self.looks: list[dict[str, Any]] = read_json(path) if path.exists() else []
        self.updates, self.mark = updates, time.process_time()

    def record(self, updates: int, look: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Stop the clock, look, keep what is found."""
        each = (time.process_time() - self.mark) / (updates - self.updates)
        self.looks = [one for one in self.looks if one["updates"] < updates]
        last = self.looks[-1] if self.looks else {"updates": 0, "seconds": 0.0}
        seconds = last["seconds"] + each * (updates - last["updates"])
        found = look()
        self.looks.append({"updates": updates, "seconds": round(seconds, 2), **found})
        write_json(self.path, self.looks)
        self.updates, self.mark = updates, time.process_time()
        return found


def train_on_the_clock(
    config: MoleculesConfig, out: Path, look: Look | None = None
) -> list[dict[str, Any]]:
    """Train, or go on; the looks on the way, each with its updates and CPU seconds.

    Arguments:
        config: Settings.
        out: Folder of the run.
        look: What to measure; by default the bound of the validation molecules.
    """
    folder = RunFolder(out)
    if folder.ema.exists() and (out / "course.json").exists():
        return list(read_json(out / "course.json"))
    data = load_data(config)
    bonds = config.data.bonds
    codec = MoleculeCodec.fit(data.train, config.data.conditions, data.units, bonds=bonds)
    run = Run(folder, config, codec, build(config, codec))
    check = codec.encode(data.validation)
    measure = look or (lambda run: run.nats(check))
    folder.open("molecules", config.model_dump(mode="json"))
    folder.begin(data.train.identity(), codec.state())
    print(
        data.report if data.skipped or data.notes else f"{len(data.train)} molecules", flush=True
    )
    source = Source(
        len(data.train),
        lambda index: codec.encode(data.train.select(index)),
        batch_size=config.training.batch_size,
        seed=config.training.seed,
    )

    def validate(_: torch.nn.Module) -> Mapping[str, float]:
        found = course.record(trainer.step, lambda: measure(run))
        return {name: value for name, value in found.items() if isinstance(value, float)}

    trainer = Trainer(
        run.denoiser, objective_of(config, codec), source, config.training,
        folder=folder, validate=validate,
    )  # fmt: skip
    trainer.resume()
    course = Course(out / "course.json", trainer.step)
    trainer.run()
    return course.looks
