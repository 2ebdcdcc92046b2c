"""D01(c) on a world of two rows, for every chain with a step of its own: exact propagation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Product
from structdiff.processes import (
    Estimate,
    Rates,
    Transition,
    discretised_gaussian,
    mask_and_replace,
    nearest_neighbour,
    ordinal,
    vq_diffusion,
)
from structdiff.schedules import UniformTime
from structdiff.testing import ExactDenoiser
from tests.processes.cases import FALLING, LOPSIDED, POINTS

STEPS = 100
CHAINS: dict[str, Transition] = {
    "rates": Rates(LOPSIDED),
    "rates with a mask": Rates(FALLING, 3),
    "neighbours": nearest_neighbour(POINTS[:3], 1),
    "ordinal": ordinal(3, 1.0),
    "mask and replace": mask_and_replace(3, 0.3),
    "discretised gaussian": discretised_gaussian(3, torch.linspace(0.05, 0.8, STEPS)),
    "vq-diffusion": vq_diffusion(3, STEPS),
}
JOINT = torch.tensor([0.30, 0.02, 0.05, 0.03, 0.20, 0.05, 0.05, 0.05, 0.25], dtype=torch.float64)
DATA = torch.tensor(list(itertools.product(range(3), repeat=2)))


def pairs(marginals: Tensor) -> Tensor:
    """The law of two independent entries, `(..., S * S)`."""
    return (marginals[..., 0, :, None] * marginals[..., 1, None, :]).flatten(-2)


def walk(transition: Transition, steps: int) -> tuple[Tensor, float]:
    """The law that a walk ends in, and the mean variational bound, in nats; both exact.

    Records that the data cannot become (a prior may have a few) are left out of the walk.
    """
    process, n = Categorical(Flow(), transition, event=(2,)), transition.symbols
    states = torch.tensor(list(itertools.product(range(n), repeat=2)))
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(DATA), JOINT)
    bound = process.bind(Batch.of(states))
    times = UniformTime(steps).times()
    law = pairs(transition.stationary.expand(2, -1))
    nats = float(JOINT @ process.bind(Batch.of(DATA)).prior_divergence(DATA))
    shape = (len(DATA), len(states))
    x_0, x_t = DATA.repeat_interleave(len(states), 0), states.repeat(len(DATA), 1)
    wide = process.bind(Batch.of(x_t))
    for i, step in enumerate(bound.plan(times, 1.0)):
        reached = wide.log_prob(x_t, x_0, times[i]).exp().reshape(shape)
        seen = reached.sum(0) > 0
        said = denoiser(Batch.of(states[seen]), {"x": times[i]})["x"].value
        value = torch.zeros(len(states), 2, 3, dtype=torch.float64)
        value[seen] = said
        kernel = pairs(bound.log_kernel(Estimate(value), states, step).exp())
        law = law[seen] @ kernel[seen]
        estimate, oracle = Estimate(value.repeat(len(DATA), 1, 1)), wide.oracle(x_0, x_t, times[i])
        if i < steps - 1:
            term = wide.divergence(oracle, estimate, x_t, step)
        else:
            term = wide.reconstruction(estimate, x_0, x_t, times[i])
        term = torch.where(reached > 0, reached * term.reshape(shape), 0.0)
        nats += float(JOINT @ term.sum(1))
    return law.reshape(n, n)[:3, :3].flatten(), nats


@pytest.mark.parametrize("transition", CHAINS.values(), ids=CHAINS)
def test_the_exact_denoiser_samples_the_world(transition: Transition) -> None:
    """D01(c): TV < 0.03 at T = 100, and the bound is above the entropy, but not by much."""
    law, nats = walk(transition, STEPS)
    assert float((law - JOINT).abs().sum()) / 2 < 0.03
    entropy = -float(JOINT @ JOINT.log())
    assert entropy < nats < entropy + 0.05
