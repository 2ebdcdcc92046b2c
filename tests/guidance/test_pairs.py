"""Restoration learned from pairs, and repair of what a model does not expect."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Linear,
    NetworkDenoiser,
    Product,
    UniformTime,
    fit,
)
from structdiff.guidance import RePaint
from structdiff.objectives import EDM, Denoising
from structdiff.operators import Downsample, Matrix
from structdiff.parameterisations import Preconditioned
from structdiff.samplers import Carry
from structdiff.testing import NormalDenoiser
from tests.guidance.inverse_worlds import Field, smooth

SIZE = 16


class Restorer(nn.Module):
    """A residual network of the noisy row, its clock and the condition `low`, enlarged."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(2 * SIZE + 1, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(96, SIZE))

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: object
    ) -> dict[str, Tensor]:
        noise = torch.sigmoid(-2 * clock["x"]).float().expand(batch.samples)
        low = batch.condition["low"].repeat_interleave(4, 1)
        return {"x": self.layers(torch.cat([batch["x"], low, noise[:, None]], 1))}


def test_super_resolution_from_pairs_under_schedules_unseen_in_training():
    """A network told the noise level and the small row: the mean of its draws beats interpolation.

    Trained with one schedule from (corrupt, clean) pairs, run with two others at the same clocks.
    """
    torch.manual_seed(0)
    prior, small = Field(Gaussian(Cosine(), event=(SIZE,)), smooth(SIZE)), Downsample((SIZE,), 4)
    clean = prior.draw(4000, seed=0).float()
    process = Product({"x": Gaussian(Cosine(), Preconditioned(), event=(SIZE,))})
    pairs = {"condition": {"low": small(clean)}, "condition_dropout": 0.0}
    objective = Denoising({"x": EDM()})
    denoiser = fit({"x": clean}, process, Restorer(), steps=500, objective=objective, **pairs)
    low = small(prior.draw(60, seed=1).float())
    wide = nn.functional.pad(low[:, None], (1, 1), mode="circular")
    line = nn.functional.interpolate(wide, scale_factor=4, mode="linear")[:, 0, 4:-4]
    h, c = Matrix.of(small).matrix, prior.covariance
    best = low.double() @ torch.linalg.solve(h @ c @ h.mT, h @ c)
    asked = Batch.of(torch.zeros(60 * 16, SIZE))
    asked = asked.with_condition({"low": low.repeat_interleave(16, 0)})
    gaps = {"interpolation": (line - best).square().mean()}
    for schedule in (Linear(), Flow()):
        other = Product({"x": Gaussian(schedule, Preconditioned(), event=(SIZE,))})
        walk = DDIM(NetworkDenoiser(denoiser.backbone, other), UniformTime(20))
        drawn = walk.sample(asked, Generator(2))["x"].reshape(60, 16, SIZE)
        gaps[type(schedule).__name__] = (drawn.mean(1) - best).square().mean()
    assert gaps["Linear"] < 0.3 * gaps["interpolation"], gaps
    assert gaps["Flow"] < 0.3 * gaps["interpolation"], gaps


def partial(denoiser: NormalDenoiser, x: Tensor, first: float, steps: int) -> Tensor:
    """Noise to a time and back again."""
    grid = UniformTime(steps)
    sampler = DDPM(denoiser, grid).bind(Batch.of(x), Generator(0))
    begin = int((sampler.times <= first).nonzero()[0])
    noisy = sampler.process.diffuse({"x": x}, sampler.leaf_times[begin], Generator(1))
    carry = Carry(noisy)
    for i in range(begin, sampler.steps):
        carry = sampler.step(carry, i)
    return carry.x["x"]


def test_what_a_partial_chain_does_not_return_is_masked_and_drawn_anew():
    """The mask is that of the residual; outside of it the output is the input, bit for bit."""
    torch.set_default_dtype(torch.float32)
    prior = NormalDenoiser(
        Gaussian(Cosine(), event=(SIZE,)), torch.zeros(1, SIZE), torch.tensor([0.1])
    )
    x = 0.1 * Generator(5).normal((8, SIZE), torch.float32, "cpu")
    wrong = torch.zeros(8, SIZE, dtype=torch.bool)
    wrong[torch.arange(8), torch.arange(8)] = True
    ill = torch.where(wrong, 3.0, x)
    residual = (partial(prior, ill, 0.5, 20) - ill).abs()
    mask = residual > 1.0
    assert torch.equal(mask, wrong)
    known = Batch.of(ill).with_given({"x": ~mask})
    repair = RePaint(DDPM(prior, UniformTime(10)), known, jump=2, repeats=2)
    healed = repair.sample(Batch.of(torch.zeros(8, SIZE)), Generator(2))["x"]
    assert torch.equal(healed[~mask], ill[~mask])
    assert healed[mask].abs().max() < 0.5
