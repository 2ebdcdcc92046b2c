"""A ragged record of positions and classes, with everything that training draws by chance."""

import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.layout import Layout
from structdiff.objectives import Denoising
from structdiff.processes import Categorical, Gaussian, Product, absorbing
from structdiff.schedules import Flow, Linear
from structdiff.training import Source, Trainer, TrainingConfig

COUNTS = [1 + k * k % 5 for k in range(13)]
COSTS = {"costs": [1.0 + 9 * (k % 4 == 0) for k in range(13)], "budget": 4.0}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.alone, self.joined = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h, layout):
        mean = layout.spread(layout.mean(h))
        return h + torch.tanh(self.alone(h) + self.joined(mean))


class Network(nn.Module):
    """Sizes that two does not divide, a scalar weight, blocks that are called."""

    def __init__(self, width=7):
        super().__init__()
        self.enter = nn.Linear(2 + 4 + 2 + 2 + 3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.leave = nn.Linear(width, 2 + 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch, clock, previous):
        x, layout = batch["x"], batch.layouts["x"]
        seen = [x, nn.functional.one_hot(batch["kind"], 4).to(x)]
        seen += [clock[name].clamp(-9, 9).unsqueeze(1).to(x) for name in ("x", "kind")]
        first = {"x": torch.zeros_like(x), "kind": x.new_zeros(len(x), 3)}
        seen += [value.clamp(-9, 9).to(x) for value in (previous or first).values()]
        h = self.enter(torch.cat(seen, 1))
        for block in self.blocks:
            h = block(h, layout)
        out = self.leave(h) * self.scale
        return {"x": out[:, :2], "kind": out[:, 2:]}


def records(dtype):
    draw = torch.Generator().manual_seed(0)
    layout = Layout.ragged(COUNTS)
    x = torch.randn(layout.rows, 2, generator=draw, dtype=torch.float64).to(dtype)
    kind = torch.randint(3, (layout.rows,), generator=draw)
    return Batch({"x": x, "kind": kind}, {"x": layout, "kind": layout})


def make(
    folder=None, *, seed=0, dtype=torch.float64, shard=(0, 1), source=None, broken=None, **settings
):
    """A trainer; what it does depends on the settings alone, with noise by sample."""
    torch.manual_seed(seed)
    chosen = {"steps": 20, "batch_size": 5, "warm_up": 4, "bf16": False, "device": "cpu"}
    chosen |= {"randomness": "sample", "log_every": 7, "validate_every": 10} | settings
    config = TrainingConfig(**chosen)
    data = records(dtype)
    if broken is not None:
        data["x"][data.layouts["x"].rows_of(torch.tensor([broken]))] = torch.nan
    batches = {"batch_size": config.batch_size, "shard": shard} | (source or {})
    whole = Source(len(COUNTS), lambda i: data.select(torch.from_numpy(i)), **batches)
    leaves = {"x": Gaussian(Linear(), event=(2,)), "kind": Categorical(Flow(), absorbing(3))}
    process = Product(leaves)
    denoiser = NetworkDenoiser(Network(), process, self_conditioning=True).to(dtype)
    objective = Denoising(independent=True, self_conditioning=0.5)
    trainer = Trainer(denoiser, objective, whole, config, folder=folder)

    def validate(denoiser):
        from structdiff.random import Generator

        terms = objective(denoiser, data, Generator(3))
        return {"held_out": float(terms.total.detach())}

    trainer.validate = validate
    return trainer


def stop_at(trainer, step):
    """Let a trainer stop after an update, as a signal would."""
    update = trainer.update

    def watched():
        means = update()
        trainer._stop = trainer.step == step
        return means

    trainer.update = watched
    return trainer
