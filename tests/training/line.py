"""A linear denoiser and a least-squares objective without noise: training in closed view."""

import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives import Objective, Terms
from structdiff.processes import Estimate, Gaussian, Product
from structdiff.schedules import Linear
from structdiff.training import Source, Trainer, TrainingConfig

DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))


class Line(Denoiser):
    def __init__(self):
        super().__init__()
        self.process = Product({"x": Gaussian(Linear())})
        self.layer = nn.Linear(3, 1)

    def forward(self, batch, t, previous=None):
        del t, previous
        return {"x": Estimate(self.layer(batch["x"][:, :3]))}


class Squares(Objective):
    """(line(x_0, x_1, x_2) - x_3)^2."""

    def __call__(self, denoiser, batch, random):
        del random
        gap = denoiser(batch, None)["x"].value[:, 0] - batch["x"][:, 3]
        return Terms({"x": gap.square()}, {"x": torch.zeros(batch.samples)})


def make(folder=None, validate=None, seed=0, data=DATA, shard=(0, 1), source=None, **settings):
    """A trainer of a line; results depend on the settings alone."""
    torch.manual_seed(seed)
    chosen = {
        "steps": 20,
        "batch_size": 6,
        "warm_up": 4,
        "bf16": False,
        "device": "cpu",
    } | settings
    config = TrainingConfig(**chosen)
    batches = {"batch_size": config.batch_size, "seed": config.seed, "shard": shard} | (
        source or {}
    )
    whole = Source(len(data), lambda i: Batch.of(data[torch.from_numpy(i)]), **batches)
    return Trainer(Line(), Squares(), whole, config, folder=folder, validate=validate)
