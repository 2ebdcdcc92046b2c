"""A generator against an opponent: a sampler of four steps that keeps every mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.denoiser import LIMIT, Denoiser, NetworkDenoiser
from structdiff.objectives.adversarial import AdversarialSteps, ConditionalGenerator, Duel
from structdiff.parameterisations import Preconditioned
from structdiff.processes import Gaussian, Product
from structdiff.random import Generator
from structdiff.samplers import DDPM
from structdiff.schedules import Cosine, PowerTime
from structdiff.testing import NormalDenoiser
from structdiff.training import Source, Trainer, TrainingConfig

SIDE = torch.arange(-2.0, 3.0)
MODES = torch.cartesian_prod(SIDE, SIDE)
SPREAD = 0.05
WHOLE = math.sqrt(2.0 + SPREAD**2)  # deviation of the data
GAUSSIAN = Gaussian(Cosine(), Preconditioned(WHOLE), event=(2,))
PROCESS = Product({"x": GAUSSIAN})
GRID = PowerTime(4, 1.5)
CLOCKS = PROCESS.clock({"x": GRID.times()[:-1]})["x"].clamp(-LIMIT, LIMIT).float()
COUNT = 4000


def layers(outputs: int, noise: int = 0, width: int = 96) -> nn.Sequential:
    """A network of two points in the plane at most, waves of the first, and the step."""
    inputs = 2 + 16 + noise + 4
    steps: list[nn.Module] = []
    for before in (inputs, width, width):
        steps += [nn.Linear(before, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*steps, nn.Linear(width, outputs))


def seen(x: Tensor, beside: Tensor, clock: Tensor) -> Tensor:
    """A point with its waves of length 4 to 1/2, something beside it, and the step."""
    angles = x.unsqueeze(1) * (math.pi / 2 * 2.0 ** torch.arange(4)).unsqueeze(1)
    waves = torch.cat([angles.sin(), angles.cos()], 1).flatten(1)
    step = (clock.float().expand(len(x)).unsqueeze(1) - CLOCKS).abs() < 1e-3
    return torch.cat([x, waves, beside, step.to(x)], 1)


class Maker(nn.Module):
    """x_0 from x_t and the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(2, noise=2)

    def forward(self, batch: Batch, clock: Mapping[str, Tensor], previous: Any) -> Any:
        del previous
        x = seen(WHOLE * batch["x"], batch.condition["latent"], clock["x"])
        return {"x": self.layers(x)}


class Judge(nn.Module):
    """How real a pair is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = layers(1, noise=2)

    def forward(self, earlier: Batch, later: Batch, clock: Mapping[str, Tensor]) -> Tensor:
        judged: Tensor = self.layers(seen(earlier["x"], later["x"], clock["x"]))
        return judged[:, 0]


def near(denoiser: Denoiser) -> tuple[float, Tensor]:
    """Share of samples within three deviations of a mode, and the number at each."""
    torch.manual_seed(0)
    walk = DDPM(denoiser, GRID)
    assert walk.steps == 4
    x = walk.sample(Batch.of(torch.zeros(COUNT, 2)), Generator(1))["x"]
    distance, mode = torch.cdist(x, MODES).min(1)
    close = distance < 3 * SPREAD
    return float(close.double().mean()), torch.bincount(mode[close], minlength=len(MODES))


def test_four_steps_against_an_opponent_cover_twenty_five_modes() -> None:
    """The trainer of the library, the ancestral sampler and no other part."""
    torch.manual_seed(0)
    denoiser = ConditionalGenerator(NetworkDenoiser(Maker(), PROCESS), 2)
    before, _ = near(denoiser)
    assert before < 0.2
    data = MODES.repeat(400, 1) + SPREAD * torch.randn(10_000, 2)
    source = Source(len(data), lambda index: Batch.of(data[index]), batch_size=256)
    config = TrainingConfig(
        steps=1200,
        learning_rate=1e-3,
        warm_up=100,
        weight_decay=0.0,
        beta2=0.9,
        ema=0.995,
        bf16=False,
        device="cpu",
    )
    trainer = Trainer(
        Duel(denoiser, Judge()), AdversarialSteps(GRID, penalty=0.002, every=4), source, config
    )
    trainer.run()
    trainer.average.swap()
    share, counts = near(denoiser)
    assert (counts >= COUNT / 100).sum() >= 24  # each of 25 modes has 4 in a hundred
    assert share > 0.8
    mean = NormalDenoiser(GAUSSIAN, MODES, torch.full((25,), SPREAD))
    assert share > near(mean)[0] + 0.05  # the exact posterior mean falls between the modes
