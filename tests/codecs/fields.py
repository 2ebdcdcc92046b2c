"""Small fields, the codecs that are trained on them, and one of two processes that do so:
`fields.py FOLDER`."""

import math
import sys
from pathlib import Path

import torch

from structdiff.artifacts import save_tensors
from structdiff.batch import Batch
from structdiff.codecs.autoencoder import Autoencoder
from structdiff.codecs.quantiser import VectorQuantiser
from structdiff.codecs.reconstruction import Reconstruction
from structdiff.codecs.residual_quantiser import ResidualQuantiser
from structdiff.training import Source, Trainer, TrainingConfig
from structdiff.training.distributed import shard, start

EVENT = (1, 8, 8)
TOWERS = {"widths": (8,), "factors": (2,), "blocks": 1}
BOOK = {**TOWERS, "classes": 8, "width": 3, "decay": 0.8}
CODECS = {
    "normal": lambda: Autoencoder(EVENT, channels=2, **TOWERS),
    "opposed": lambda: Autoencoder(EVENT, channels=2, **TOWERS, adversarial=0.1),
    "averages": lambda: VectorQuantiser(EVENT, **BOOK, restart=0.5),
    "gradients": lambda: VectorQuantiser(EVENT, **BOOK, restart=0.5, follow="gradient"),
    "residual": lambda: ResidualQuantiser(EVENT, **BOOK, restart=0.5, levels=2),
    "averages without restarts": lambda: VectorQuantiser(EVENT, **BOOK, restart=0.0),
}


def waves(count):
    """Waves over a plane: a phase and a direction each."""
    draw = torch.Generator().manual_seed(0)
    phase, angle = 2 * math.pi * torch.rand(2, count, 1, 1, 1, generator=draw)
    place = torch.arange(8.0)
    along = angle.cos() * place.reshape(8, 1) + angle.sin() * place.reshape(1, 8)
    return torch.sin(0.8 * along + phase)


def make(name, folder=None, *, seed=0, steps=12, part=(0, 1), **settings):
    """A trainer of a codec, in float64."""
    torch.manual_seed(seed)
    x = waves(60).double()
    chosen = {"steps": steps, "batch_size": 6, "warm_up": 3, "bf16": False, "device": "cpu"}
    chosen |= {"log_every": 5, "learning_rate": 0.01, "ema": 0.9}
    config = TrainingConfig(**(chosen | settings))
    source = Source(
        len(x),
        lambda i: Batch.of(x[torch.from_numpy(i)]),
        batch_size=config.batch_size,
        shard=part,
    )
    return Trainer(CODECS[name]().double(), Reconstruction(), source, config, folder=folder)


def main(folder):
    """Train every codec, as one of the processes."""
    start(torch.device("cpu"))
    rank, _ = shard()
    for name in CODECS:
        trainer = make(name, seed=rank, part=shard())
        trainer.run()
        save_tensors(folder / f"{name}-{rank}.safetensors", trainer.state())
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
