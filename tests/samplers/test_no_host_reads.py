"""Singlestep, coupled, replayed and truncated walks read nothing from the device in a step."""

from __future__ import annotations

import pytest
import torch

from structdiff import DDIM, DDPM, Batch, Gaussian, Generator, Linear, UniformTime
from structdiff.samplers.coupled import Coupled
from structdiff.samplers.own_time import MatchedVariance, OwnTime
from structdiff.samplers.pseudo import PNDM
from structdiff.samplers.recorded import Replayed, record
from structdiff.samplers.singlestep import Singlestep
from structdiff.samplers.thresholded import Thresholded
from structdiff.samplers.truncated import Since, Truncated
from structdiff.testing import NormalDenoiser
from tests.samplers.test_device_steps import NoReads


def denoiser():
    return NormalDenoiser(
        Gaussian(Linear(), event=(4,)), torch.zeros(2, 4), torch.tensor([0.5, 1.0])
    )


def bounded():
    return Thresholded(denoiser(), {"x": 1.0}, percentile=90)


def timed():
    return OwnTime(denoiser(), MatchedVariance("x", Linear(), 1.0))


def replayed(batch):
    sampler = DDPM(denoiser(), UniformTime(5))
    return Replayed(sampler, record(sampler, batch, Generator(0)))


WALKS = {
    "Singlestep": lambda batch: Singlestep(denoiser(), UniformTime(5), order=3),
    "PNDM": lambda batch: PNDM(denoiser(), UniformTime(5)),
    "Coupled": lambda batch: Coupled(denoiser(), UniformTime(5)),
    "Truncated": lambda batch: Truncated(
        DDPM(denoiser(), Since(UniformTime(5), 0.7)), batch.leaves
    ),
    "Replayed": replayed,
    "Thresholded": lambda batch: DDIM(bounded(), UniformTime(5)),
    "OwnTime": lambda batch: DDIM(timed(), UniformTime(5)),
}


@pytest.mark.parametrize("name", WALKS)
def test_steps_read_nothing_from_the_device(name):
    batch = Batch.of(torch.randn(6, 4))
    batch.layouts["x"].size, batch.layouts["x"].start  # noqa: B018  # kept, as a network would
    walk = WALKS[name](batch).bind(batch, Generator(0))
    carry = walk.start()
    with NoReads():
        for i in range(walk.steps):
            carry = walk.step(carry, i)
