"""Images a second and memory of training, against batch and resolution, beside diffusers.

    OMP_NUM_THREADS=1 python tests/benchmarks/training_throughput.py --peers peers/bin/python

Each number is of a process of its own: one untimed update, then updates for at least four CPU
seconds; images over CPU seconds, and the highest resident memory beyond what was there before the
first update. Both sides train a class-conditional U-Net of three levels (0.45 million parameters)
on grey images in bfloat16, ours by `Trainer`, that of diffusers by the loop of its example.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

WAYS = ("structdiff", "structdiff, checkpointing", "diffusers")
BATCHES = (16, 64)
SIDES = (28, 56)
SECONDS = 4.0


def ours(batch: int, side: int, *, checkpointing: bool) -> Callable[[], object]:
    """One update of ours."""
    from structdiff.batch import Batch
    from structdiff.denoiser import NetworkDenoiser
    from structdiff.nn.field import FieldNetwork
    from structdiff.nn.unet import UNet
    from structdiff.objectives import ConditionDropout, Denoising
    from structdiff.parameterisations import Velocity
    from structdiff.processes import Gaussian, Product
    from structdiff.schedules import Cosine
    from structdiff.training import Source, Trainer, TrainingConfig

    def make(inputs: int, outputs: int, *, condition: int = 0, context: int = 0) -> UNet:
        return UNet(
            inputs,
            outputs,
            condition=condition,
            context=context,
            width=16,
            multipliers=(1, 2, 3),
            blocks=1,
            checkpointing=checkpointing,
        )

    event = (1, side, side)
    process = Product({"x": Gaussian(Cosine(), event=event, parameterisation=Velocity())})
    network = FieldNetwork(make, 1, kinds={"label": 10}, features=80)
    x, labels = torch.rand(batch, *event) * 2 - 1, torch.arange(batch) % 10
    source = Source(
        batch,
        lambda _: Batch.of(x).with_condition({"label": labels}),
        batch_size=batch,
        seed=0,
    )
    config = TrainingConfig(steps=1_000_000, batch_size=batch, device="cpu")
    objective = ConditionDropout(Denoising(), 0.1)
    return Trainer(NetworkDenoiser(network, process), objective, source, config).update


def theirs(batch: int, side: int) -> Callable[[], object]:
    """One update of diffusers'."""
    from diffusers_mnist import Training

    chosen = argparse.Namespace(
        seed=0,
        widths=[16, 32, 48],
        learning_rate=1e-3,
        warm_up=500,
        steps=1_000_000,
        out=Path("/nowhere"),
        bf16=True,
    )
    training = Training(chosen)
    x, labels = torch.rand(batch, 1, side, side) * 2 - 1, torch.arange(batch) % 10
    return lambda: training.update(x, labels)


def one(way: str, batch: int, side: int) -> dict[str, Any]:
    """A setting, in this process."""
    torch.set_num_threads(1)
    update = (
        theirs(batch, side)
        if way == "diffusers"
        else ours(batch, side, checkpointing="checkpointing" in way)
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    update()
    began, count = time.process_time(), 0
    while time.process_time() - began < SECONDS:
        update()
        count += 1
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"images_per_second": count * batch / spent, "megabytes": (peak - before) / 1024}


def measured(peers: Path | None) -> dict[str, Any]:
    """All settings, one after the other, each in a process of its own."""
    found: dict[str, Any] = {}
    ways = [way for way in WAYS if peers is not None or way != "diffusers"]
    for side in SIDES:
        for batch in BATCHES:
            for way in ways:
                python = str(peers) if way == "diffusers" else sys.executable
                asked = json.dumps({"way": way, "batch": batch, "side": side})
                command = [python, __file__, "--one", asked]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[f"{side} x {side}, batch {batch}, {way}"] = json.loads(said.splitlines()[-1])
    return found


def report(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table."""
    lines = ["| images | batch | way | images/s | MB |", "|---|---|---|---|---|"]
    for name, line in found.items():
        side, batch, way = name.split(", ", 2)
        rate, memory = f"{line['images_per_second']:.0f}", f"{line['megabytes']:.0f}"
        lines.append(f"| {side} | {batch.removeprefix('batch ')} | {way} | {rate} | {memory} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """All settings, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="a Python that has diffusers")
    parser.add_argument("--one", type=json.loads)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(one(**chosen.one)))
        return
    print(report(measured(chosen.peers)))


if __name__ == "__main__":
    main()
