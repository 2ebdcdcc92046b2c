"""One network that is told the noise level draws under schedules that it was not trained with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Cosine,
    Discrete,
    Gaussian,
    Generator,
    Heun,
    Linear,
    Multistep,
    NetworkDenoiser,
    Product,
    UniformLogSNR,
    UniformTime,
)
from structdiff.samplers.churn import Churn
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.samplers.coupled import Coupled
from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.picard import Picard
from structdiff.samplers.pseudo import PNDM
from structdiff.samplers.restart import Restart
from structdiff.samplers.runge_kutta import StochasticRungeKutta
from structdiff.samplers.singlestep import Singlestep
from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
from structdiff.samplers.staggered import Staggered
from structdiff.schedules import Shifted, Sigmoid
from structdiff.testing import NormalDenoiser

MEAN = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.5, -1.5]])
STD, SHARE = torch.tensor([0.3, 0.6, 0.4]), torch.tensor([0.3, 0.5, 0.2])
SAMPLES = 3000


class Trained(nn.Module):
    """What a network trained to the end knows: E[x_0 | x_t] from x_t and the clock alone."""

    def __init__(self):
        super().__init__()
        self.mean, self.std = nn.Parameter(MEAN.clone()), nn.Parameter(STD.clone())
        self.log_share = nn.Parameter(SHARE.log())

    def forward(self, batch, clock, previous):
        del previous
        x = batch["x"]
        alpha2 = torch.sigmoid(2 * clock["x"].to(x)).reshape(-1, 1)
        alpha, sigma2 = alpha2.sqrt(), 1 - alpha2
        v = alpha2 * self.std**2 + sigma2
        gap = x[:, None] - alpha[..., None] * self.mean
        share = (self.log_share - gap.square().sum(2) / (2 * v) - v.log()).softmax(1)
        each = self.mean + (alpha * self.std**2 / v)[..., None] * gap
        return {"x": (share[..., None] * each).sum(1)}


def bound_to(schedule):
    """The one checkpoint, in a process with this schedule."""
    return NetworkDenoiser(Trained(), Product({"x": Gaussian(schedule, event=(2,))}))


def truth(source):
    which = torch.multinomial(SHARE, SAMPLES, replacement=True, generator=source)
    return MEAN[which] + STD[which, None] * torch.randn(SAMPLES, 2, generator=source)


def sliced(a, b):
    """The sliced distance of Wasserstein, over 24 directions."""
    angle = torch.arange(24) * (math.pi / 24)
    way = torch.stack([angle.cos(), angle.sin()])
    gap = (a @ way).sort(0).values - (b @ way).sort(0).values
    return float(gap.square().mean().sqrt())


@pytest.fixture(scope="module")
def yardstick():
    source = torch.Generator().manual_seed(1)
    reference = truth(source)
    return reference, max(sliced(truth(source), reference) for _ in range(10))


def test_the_checkpoint_is_the_mixture_under_its_own_schedule():
    exact = NormalDenoiser(Gaussian(Linear(), event=(2,)), MEAN, STD, SHARE)
    batch, t = Batch.of(torch.randn(9, 2)), {"x": torch.tensor(0.3)}
    torch.testing.assert_close(bound_to(Linear())(batch, t)["x"].value, exact(batch, t)["x"].value)


@pytest.mark.parametrize(
    "schedule",
    [Cosine(), Sigmoid(), Shifted(Cosine(), -1.0), Discrete.ddpm()],
    ids=lambda s: type(s).__name__,
)
def test_unseen_schedules(schedule, yardstick):
    reference, chance = yardstick
    drawn = DDPM(bound_to(schedule), UniformTime(150)).sample(
        Batch.of(torch.zeros(SAMPLES, 2)), Generator(0)
    )["x"]
    assert sliced(drawn, reference) < 1.3 * chance


SAMPLERS = {
    "DDIM": DDIM,
    "DDPM": DDPM,
    "Heun": Heun,
    "Multistep": Multistep,
    "PNDM": PNDM,
    "Singlestep": lambda d, g: Singlestep(d, g, order=3),
    "Churn": lambda d, g: Churn(d, g, Linear(), churn=10.0),
    "Leaping": Leaping,
    "StochasticRungeKutta": StochasticRungeKutta,
    "AnnealedLangevin": lambda d, g: AnnealedLangevin(d, g, rounds=3, snr=0.2),
    "DPMSolver": DPMSolver,
    "UniPC": UniPC,
    "DEIS": DEIS,
    "PredictorCorrector": lambda d, g: PredictorCorrector(DDPM(d, g)),
    "LangevinCorrector": lambda d, g: LangevinCorrector(DDPM(d, g)),
    "Staggered": lambda d, g: Staggered(d, g, lag=0.3),
    "Picard": lambda d, g: Picard(DDIM(d, g)),
    "Coupled": Coupled,
    "Restart": lambda d, g: Restart(Heun, d, g, interval=(0.0, 1.0)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_from_one_checkpoint(name, yardstick):
    """What is called training-free needs no change to the network: its weights and laws stay."""
    reference, chance = yardstick
    schedule = Linear()
    checkpoint = bound_to(schedule)
    before = {key: x.clone() for key, x in checkpoint.state_dict().items()}
    sampler = SAMPLERS[name](checkpoint, UniformLogSNR(schedule, 150, end=1e-3))
    drawn = sampler.sample(Batch.of(torch.zeros(SAMPLES, 2)), Generator(0))["x"]
    assert sliced(drawn, reference) < 1.3 * chance
    few = SAMPLERS[name](checkpoint, UniformLogSNR(schedule, 2, end=1e-3))
    rough = few.sample(Batch.of(torch.zeros(SAMPLES, 2)), Generator(0))["x"]
    assert sliced(rough, reference) > 2 * chance
    after = checkpoint.state_dict()
    assert len(before) == len(after) == 3
    assert all(torch.equal(x, after[key]) for key, x in before.items())
