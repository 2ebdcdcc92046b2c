"""A module of ten lines from (x_t, clock) to x_t's shape works with all samplers and losses.

Here it is the exact denoiser of a normal law, with its mean and spread to be learned: samplers
draw that law, and losses are least there.
"""

import math

import pytest
import torch
from torch import nn

import structdiff.objectives as losses
import structdiff.samplers as samplers
from structdiff import Batch, Gaussian, Linear, NetworkDenoiser, Product, UniformTime
from structdiff.nn.experts import Experts
from structdiff.parameterisations import Noise
from structdiff.random import Generator

MEAN, STD = 1.5, 0.5
SCHEDULE = Linear()


class Normal(nn.Module):
    """The mean of the noise given x_t = alpha x_0 + sigma noise, where x_0 is normal."""

    def __init__(self, mean=MEAN, std=STD):
        super().__init__()
        self.mean, self.std = (nn.Parameter(torch.tensor(v).double()) for v in (mean, std))

    def forward(self, batch, clock, previous):
        alpha, sigma = ((2 * sign * clock["x"]).sigmoid().sqrt() for sign in (1, -1))
        variance = (alpha * self.std) ** 2 + sigma**2
        return {"x": sigma * (batch["x"] - alpha * self.mean) / variance}


def denoiser(network=None):
    return NetworkDenoiser(network or Normal(), Product({"x": Gaussian(SCHEDULE, Noise())}))


WALKS = {
    "DDIM": samplers.DDIM,
    "DDPM": samplers.DDPM,
    "Ancestral": lambda d, g: samplers.Ancestral(d, g, eta=0.5),
    "Heun": samplers.Heun,
    "Multistep": lambda d, g: samplers.Multistep(d, g, order=3),
    "Singlestep": samplers.Singlestep,
    "DEIS": samplers.DEIS,
    "DPMSolver": samplers.DPMSolver,
    "UniPC": samplers.UniPC,
    "PNDM": samplers.PNDM,
    "Churn": lambda d, g: samplers.Churn(d, g, SCHEDULE),
    "StochasticRungeKutta": samplers.StochasticRungeKutta,
    "Staggered": lambda d, g: samplers.Staggered(d, g, lag=0.1),
    "AnnealedLangevin": lambda d, g: samplers.AnnealedLangevin(d, g, rounds=20, snr=0.4),
    "Restart": lambda d, g: samplers.Restart(samplers.Heun, d, g, interval=(0.1, 0.3)),
    "Picard": lambda d, g: samplers.Picard(samplers.DDPM(d, g)),
    "PredictorCorrector": lambda d, g: samplers.PredictorCorrector(samplers.DDPM(d, g)),
    "Adaptive": lambda d, g: samplers.Adaptive(d),
    "GottaGoFast": lambda d, g: samplers.GottaGoFast(d),
}


def drawn(sampler, count, seed=0):
    batch = Batch.of(torch.zeros(count).double())
    return sampler.sample(batch, Generator(seed))["x"].detach()


@pytest.mark.parametrize("name", WALKS)
def test_every_sampler_draws_the_law_of_the_module(name):
    """Within four standard errors and an error of first order in the steps, 2 / 60."""
    x = drawn(WALKS[name](denoiser(), UniformTime(60)), 4000)
    assert abs(x.mean() - MEAN) < 4 * STD / math.sqrt(4000) + 2 / 60
    assert abs(x.std() - STD) < 4 * STD / math.sqrt(8000) + 2 / 60


LOSSES = {
    **{
        name: losses.Denoising(getattr(losses, name)())
        for name in ("SNR", "Uniform", "MinSNR", "P2", "EDM", "TruncatedSNR", "SigmoidWeight")
    },
    "self-conditioning": losses.Denoising(self_conditioning=0.5),
    "independent": losses.Denoising(independent=True),
    "ContinuousBound": losses.ContinuousBound(),
    "StepBound": losses.StepBound(UniformTime(10)),
    "ImplicitScore": losses.ImplicitScore(),
    "ConditionDropout": losses.ConditionDropout(losses.Denoising()),
    "GivenRows": losses.GivenRows(losses.Denoising(), losses.random_rows),
    "SoftTruncation": losses.SoftTruncation(
        lambda earliest: losses.Denoising(times=losses.UniformTimes(earliest)),
        losses.UniformTimes(1e-3, 0.5),
    ),
}


def slopes(loss, mean, std, by="mean", step=1e-3):
    """Each sample's derivative of the loss by a weight, by differences with common noise."""
    random = Generator(5).normal((20000,), torch.float64, "cpu")
    batch, ends = Batch.of(MEAN + STD * random), []
    for sign in (1, -1):
        moved = {"mean": mean, "std": std}
        moved[by] += sign * step
        with torch.enable_grad():
            terms = loss(denoiser(Normal(**moved)), batch, Generator(7))
        ends.append(terms.leaves["x"].detach())
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize("by", ["mean", "std"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_least_at_the_law_of_the_data(name, by):
    """There its slope is zero within 4.5 standard errors; beside it, it points back."""
    for sign in (0, 1, -1):
        slope = (
            slopes(LOSSES[name], MEAN, STD, by)
            if sign == 0
            else slopes(
                LOSSES[name],
                MEAN + 0.2 * sign * (by == "mean"),
                STD + 0.2 * sign * (by == "std"),
                by,
            )
        )
        score = float(slope.mean() / (slope.std() / math.sqrt(len(slope))))
        assert abs(score) < 4.5 if sign == 0 else sign * score > 6


def test_a_last_step_of_its_own_network_is_a_stochastic_decoder():
    """A chain above t* = 0.2 and an autoencoder below it, asked in many noisy steps.

    From one x at t* the records spread as the normal posterior does; asked once, they do not.
    """
    border = float(SCHEDULE(torch.tensor(0.2)).clock)
    both = denoiser(Experts([Normal(9.0, 2.0), Normal()], [border]))
    level = SCHEDULE(torch.tensor(0.2).double())
    alpha, sigma = float(level.alpha), float(level.sigma)
    precision = 1 / STD**2 + (alpha / sigma) ** 2
    mean = (MEAN / STD**2 + alpha / sigma**2 * 0.9) / precision
    posterior, found = precision**-0.5, {}
    for steps in (1, 60):
        walk = samplers.DDPM(both, samplers.Since(UniformTime(5 * steps), 0.2))
        start = samplers.Truncated(walk, {"x": torch.full((4000,), 0.9).double()}, noisy=True)
        found[steps] = drawn(start, 4000)
    assert found[1].std() < 1e-12
    assert abs(found[1][0] - mean) < 1e-6
    assert abs(found[60].mean() - mean) < 4 * posterior / math.sqrt(4000) + 0.01
    assert abs(found[60].std() / posterior - 1) < 4 / math.sqrt(8000) + 0.05
