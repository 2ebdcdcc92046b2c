"""Steps of restoring walks never ask the device for a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from structdiff import DDPM, Batch, Cosine, Gaussian, Generator, UniformTime
from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.inverse.projection import Projection
from structdiff.guidance.twisted import TwistedSMC, particles_of
from structdiff.operators import Blur
from structdiff.samplers import Walk
from structdiff.testing import NormalDenoiser

READS = ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique")


@contextmanager
def unread() -> Iterator[None]:
    """Reading a tensor is an error inside."""
    own = {name: getattr(Tensor, name) for name in READS}

    def refuse(*_: object, **__: object) -> None:
        msg = "a number was read"
        raise AssertionError(msg)

    for name in READS:
        setattr(Tensor, name, refuse)
    try:
        yield
    finally:
        for name, method in own.items():
            setattr(Tensor, name, method)


def walks() -> dict[str, Walk]:
    process, grid = Gaussian(Cosine(), event=(6,)), UniformTime(4)
    denoiser = NormalDenoiser(process, torch.arange(12.0).reshape(2, 6) / 6, torch.full((2,), 0.5))
    seen = Observation(Blur(torch.tensor([0.2, 0.6, 0.2]), (6,)), torch.ones(6), noise_std=0.1)
    guided, ddpm = PiGDM(denoiser, seen), DDPM(denoiser, grid)
    return {
        "Consistent": DDPM(Consistent(denoiser, seen), grid),
        "DDRM": DDRM(ddpm, seen),
        "DPS": DPS(denoiser, grid, seen, zeta=0.1),
        "PiGDM": DDPM(guided, grid),
        "Projection": Projection(ddpm, seen),
        "TwistedSMC": TwistedSMC(DDPM(guided, grid), denoiser, guided.log_prob, 3),
    }


@pytest.mark.parametrize("name", list(walks()))
def test_a_step_reads_nothing(name):
    walk = walks()[name].bind(particles_of(Batch.of(torch.zeros(2, 6)), 3), Generator(0))
    with torch.no_grad():
        carry = walk.start()
        with unread():
            for i in range(walk.steps):
                carry = walk.step(carry, i)
    assert bool(torch.isfinite(carry.x["x"]).all())


def test_a_read_is_noticed():
    with unread(), pytest.raises(AssertionError, match="a number was read"):
        bool(torch.ones(()))
