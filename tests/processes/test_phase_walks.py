"""Phase space: samplers return the law of the data, and at their orders."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Heun,
    Linear,
    Multistep,
    Product,
    UniformLogSNR,
    absorbing,
)
from structdiff.denoiser import Denoiser
from structdiff.parameterisations import Data
from structdiff.processes import Estimate
from structdiff.processes.phase import PhaseSpace, with_velocities
from structdiff.processes.phase_matrices import cholesky
from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball
from structdiff.samplers.splitting import SymmetricSplitting
from structdiff.testing import ExactDenoiser, Impulses, sort_records, walk
from tests.processes.phase_motions import MOTIONS


class MixtureDenoiser(Denoiser):
    """The posterior mean of a mixture of normals on R^2, from what the pair says."""

    def __init__(self, process: PhaseSpace, mean: Tensor, std: float) -> None:
        super().__init__()
        self.leaf, self.process = process, Product({"x": process})
        self.centres, self.std = mean, std

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        leaf = self.leaf.bind(batch)
        y, level = leaf.summary(batch["x"], t["x"])
        variance = (level.alpha * self.std) ** 2 + level.sigma**2
        gap = y - level.alpha * self.centres[:, None]
        share = torch.softmax(-0.5 * (gap.square() / variance).sum(-1), 0)
        each = self.centres[:, None] + level.alpha * self.std**2 / variance * gap
        return {"x": Estimate(with_velocities((share[..., None] * each).sum(0)))}


FAR = Linear(0.1, 30.0)
"""At its end even (1 + rate tau) e^{-rate tau} is small."""

CENTRES = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]]).double()


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein distance along 64 directions."""
    angle = torch.arange(64, dtype=torch.float64) / 64 * math.pi
    ways = torch.stack([angle.cos(), angle.sin()])
    gap = (x @ ways).sort(0).values - (y @ ways).sort(0).values
    return float(gap.square().mean().sqrt())


def truth(count: int, seed: int) -> Tensor:
    random = Generator(seed)
    which = (random.uniform((count,), torch.float64, "cpu") * 3).long()
    return CENTRES[which] + 0.3 * random.normal((count, 2), torch.float64, "cpu")


@pytest.mark.parametrize(
    ("motion", "factory", "steps", "limit"),
    [
        (critically_damped(FAR), lambda d, g: Multistep(d, g, order=2), 50, 1.2),
        (heavy_ball(FAR, friction=1.6), lambda d, g: Multistep(d, g, order=2), 50, 1.2),
        (critically_damped(FAR), SymmetricSplitting, 100, 1.6),
    ],
    ids=["gDDIM", "underdamped", "splitting"],
)
def test_a_mixture_is_sampled(
    motion: PhaseMotion, factory: Callable, steps: int, limit: float
) -> None:
    """In 50 calls (100 with noise): sliced W2 at most `limit` times that of two true samples."""
    process = PhaseSpace(motion, Data(), event=(2,))
    denoiser = MixtureDenoiser(process, CENTRES, 0.3)
    sampler = factory(denoiser, UniformLogSNR(motion, steps, end=0.05))
    batch = Batch.of(torch.zeros(10_000, 2, 2, dtype=torch.float64))
    drawn = sampler.sample(batch, Generator(0))["x"][:, 0]
    samples = [truth(10_000, seed) for seed in range(1, 6)]
    noise = [sliced(a, b) for i, a in enumerate(samples) for b in samples[:i]]
    ours = [sliced(drawn, each) for each in samples]
    assert sum(ours) / len(ours) <= limit * sum(noise) / len(noise)


@pytest.mark.parametrize(
    ("factory", "order"),
    [(DDIM, 1), (Heun, 2), (lambda d, g: Multistep(d, g, order=2), 2), (DDPM, 1)]
    + [(SymmetricSplitting, 1)],
    ids=["gDDIM", "Heun", "Multistep2", "Bayes", "splitting"],
)
def test_orders_in_the_moments_of_normal_data(factory: Callable, order: int) -> None:
    """Exactly, by impulses: x_0 ~ N(1.5, 0.7^2), against p_s of the positions and velocities."""
    motion = critically_damped(Linear())
    process = PhaseSpace(motion, Data(), event=())
    denoiser = NormalPositions(process, 1.5, 0.7)
    errors = []
    for steps in (48, 96):
        sampler = factory(denoiser, UniformLogSNR(motion, steps + 1, end=0.05))
        ends = [motion.state(t) for t in sampler.times[[0, -2]]]
        means = [state.mean[:, 0] * 1.5 for state in ends]
        wanted = [s.covariance + 0.49 * torch.outer(s.mean[:, 0], s.mean[:, 0]) for s in ends]
        start = means[0].expand(2 * steps * 2 + 6, 2).clone()
        start[-2:] += cholesky(wanted[0]).mT
        # An impulse reaches both halves of a pair alike: so each half is drawn alone.
        y = walk(sampler, {"x": start}, Halves())["x"]
        spread = (y[1:] - y[0]).mT @ (y[1:] - y[0])
        errors.append(float((y[0] - means[1]).norm() + (spread - wanted[1]).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


class Halves(Impulses):
    """The k-th draw is 1 in the positions of one row and in the velocities of the next."""

    def normal(self, shape: tuple, dtype: torch.dtype, device: object) -> Tensor:
        self.draws += 2
        z = torch.zeros(*shape, dtype=dtype)
        z[self.draws - 1, 0], z[self.draws, 1] = 1, 1
        return z


class NormalPositions(Denoiser):
    """The posterior mean of normal positions."""

    def __init__(self, process: PhaseSpace, mean: float, std: float) -> None:
        super().__init__()
        self.leaf, self.process, self.at, self.std = process, Product({"x": process}), mean, std

    def forward(self, batch: Batch, t: dict, previous: object = None) -> dict[str, Estimate]:
        y, level = self.leaf.bind(batch).summary(batch["x"], t["x"])
        gain = level.alpha * self.std**2 / ((level.alpha * self.std) ** 2 + level.sigma**2)
        return {"x": Estimate(with_velocities(self.at + gain * (y - level.alpha * self.at)))}


@pytest.mark.parametrize("factory", [DDPM, DDIM, SymmetricSplitting])
def test_records_return_in_proportion_beside_other_leaves(factory: Callable) -> None:
    process = Product(
        {
            "place": PhaseSpace(critically_damped(Linear()), event=(2,)),
            "kind": Categorical(Flow(), absorbing(3)),
        }
    )
    place = with_velocities(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]]))
    data = Batch.of({"place": place, "kind": torch.tensor([0, 1, 2])})
    weights = torch.tensor([0.5, 0.2, 0.3])
    sampler = factory(
        ExactDenoiser(process, data, weights), UniformLogSNR(MOTIONS["critical"], 60)
    )
    drawn = sampler.sample(Batch.of(process.empty(1500)), Generator(0))
    record = sort_records(drawn, data)
    assert float((record < 0).double().mean()) < 2 / 60
    for k, weight in enumerate(weights.tolist()):
        share = float((record == k).double().mean())
        assert abs(share - weight) < 4 * math.sqrt(weight * (1 - weight) / 1500) + 2 / 60


def test_splitting_needs_a_phase_space() -> None:
    process = Product({"x": Gaussian(Linear())})
    denoiser = ExactDenoiser(process, Batch.of(torch.zeros(2)))
    with pytest.raises(ValueError, match="must be a PhaseSpace, none is: use DDPM or Leaping"):
        SymmetricSplitting(denoiser, UniformLogSNR(Linear(), 4))
