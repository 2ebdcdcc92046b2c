"""Stochastic steps read nothing back from the device, and a compiler sees them whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Counter,
    Denoiser,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    Randomness,
    UniformTime,
)
from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
from structdiff.samplers.restart import Restart
from structdiff.samplers.runge_kutta import StochasticRungeKutta
from structdiff.spaces import SO3, ZeroCentre
from tests.samplers.test_device_steps import Network, NoReads, Stored

SAMPLERS: dict[str, Callable[[Denoiser], Any]] = {
    "AnnealedLangevin": lambda d: AnnealedLangevin(d, UniformTime(4), rounds=1),
    "LangevinCorrector": lambda d: LangevinCorrector(DDPM(d, UniformTime(4)), 2),
    "Restart": lambda d: Restart(Heun, d, UniformTime(4), interval=(0.25, 0.75)),
    "StochasticRungeKutta": lambda d: StochasticRungeKutta(d, UniformTime(4), eta=0.5),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("random", [Generator, Counter])
def test_no_step_reads_the_device(name: str, random: Callable[[int], Randomness]) -> None:
    process = Product(
        {
            "position": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "frame": Brownian(Geometric(0.01, 3.0), SO3()),
        }
    )
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(
        {"position": x, "frame": torch.eye(3).expand(3, 3, 3).contiguous()},
        {"position": Layout.ragged([2, 1, 3]), "frame": Layout.regular(3)},
        given={"frame": torch.tensor([True, False, False])},
    )
    said = {"position": x - x.mean(0), "frame": torch.full((3, 3), 0.1)}
    walk = SAMPLERS[name](Stored(process, said)).bind(batch, random(0))
    with torch.no_grad():
        carry = walk.start()
        for i in range(walk.steps):
            with NoReads():
                carry = walk.step(carry, i)
    assert torch.equal(carry.x["frame"][0], torch.eye(3))
    assert not torch.equal(carry.x["frame"][1], torch.eye(3))


@pytest.mark.parametrize("name", ["AnnealedLangevin", "StochasticRungeKutta"])
@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules
def test_a_step_compiles_without_a_graph_break(name: str) -> None:
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(Network(), Product({"x": Gaussian(Linear(), event=(2,))}))
    walk = SAMPLERS[name](denoiser).bind(Batch.of({"x": torch.zeros(4, 2)}), Counter(0))
    torch._dynamo.reset()
    with torch.no_grad():
        start = walk.start()
        plain = walk.step(walk.step(start, 0), 1)
        step = torch.compile(walk.step, fullgraph=True, dynamic=False, backend="eager")
        compiled = step(step(start, 0), 1)
    assert torch.equal(plain.x["x"], compiled.x["x"])
