"""The adaptive probability flow against closed forms and fine fixed grids."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Categorical,
    Gaussian,
    Generator,
    Geometric,
    Linear,
    Product,
    UniformTime,
    absorbing,
)
from structdiff.processes import GeodesicFlow
from structdiff.samplers import Adaptive
from structdiff.schedules import Flow
from structdiff.spaces import SO3, HeatLaw, Torus
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.sphere import Sphere
from structdiff.testing import ExactDenoiser, NormalDenoiser

SHARES = torch.tensor([0.5, 0.3, 0.2]).double()
FLOWS = {
    "sphere": GeodesicFlow(Sphere(2), HeatLaw(Sphere(2), 0.2)),
    "hyperbolic": GeodesicFlow(Hyperbolic(2)),
}
DIFFUSIONS = {
    "torus": Brownian(Geometric(0.02, 4.0), Torus(2)),
    "rotations": Brownian(Geometric(0.02, 4.0), SO3()),
    "sphere": Brownian(Geometric(0.02, 4.0), Sphere(2)),
}
WORLDS = {f"{n} flow": p for n, p in FLOWS.items()} | DIFFUSIONS


@pytest.mark.parametrize("name", WORLDS)
def test_it_is_the_limit_of_fine_steps(name: str) -> None:
    """From the same noise it comes where many steps of DDIM come, to the last point."""
    process = WORLDS[name]
    space = process.manifold
    origin = space.origin(torch.float64, "cpu").expand(3, *space.point)
    data = space.exp(origin, 0.7 * space.noise(origin, Generator(0)))
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data), SHARES)
    empty = Batch.of(torch.zeros(40, *space.point).double())
    adaptive = Adaptive(denoiser, tolerance=1e-5, end=0.3).bind(empty, Generator(2))
    carry = adaptive.step(adaptive.start(), 0)
    fine = DDIM(denoiser, UniformTime(701, end=0.3)).bind(empty, Generator(2))
    other = fine.start()
    for i in range(700):
        other = fine.step(other, i)
    gap = space.distance(carry.x["x"], other.x["x"])
    assert float(gap.median()) < 3e-3
    assert float((gap < 0.05).double().mean()) > 0.9  # one on a watershed may go either way
    assert carry.calls < 300


def test_the_end_is_data() -> None:
    process = DIFFUSIONS["torus"]
    data = torch.tensor([[0.0, 1.0], [2.0, -3.0]]).double()
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data))
    empty = Batch.of(torch.zeros(300, 2).double())
    x = Adaptive(denoiser, end=0.05).sample(empty, Generator(1))["x"]
    gaps = torch.stack([process.manifold.distance(x, point.expand_as(x)) for point in data], 1)
    assert float(gaps.amin(1).max()) < 1e-9
    assert abs(float((gaps.argmin(1) == 0).double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 300)


def test_a_normal_is_scaled() -> None:
    """The flow of N(0, 4) under exploding noise multiplies by the ratio of spreads."""
    process = Gaussian(Geometric(0.1, 10.0))
    denoiser = NormalDenoiser(process, torch.zeros(1), torch.full((1,), 2.0))
    empty = Batch.of(torch.zeros(5).double())
    sampler = Adaptive(denoiser, tolerance=1e-8, end=0.1).bind(empty, Generator(0))
    start = sampler.start()
    sigma = process.schedule(torch.tensor([1.0, 0.1]).double()).sigma
    spread = torch.sqrt(4 + sigma**2)
    end = sampler.step(start, 0).x["x"]
    torch.testing.assert_close(end, start.x["x"] * spread[1] / spread[0], rtol=1e-6, atol=1e-6)


def test_given_rows_stay() -> None:
    process = DIFFUSIONS["sphere"]
    data = process.manifold.uniform(4, Generator(0), torch.float64, "cpu")
    denoiser = ExactDenoiser(Product({"x": process}), Batch.of(data[:1]))
    held = torch.tensor([True, False, True, False])
    batch = Batch.of(data[[0, 0, 0, 0]]).with_given({"x": held})
    x = Adaptive(denoiser, end=0.05).sample(batch, Generator(1))["x"]
    assert torch.equal(x[held], data[[0, 0]])
    torch.testing.assert_close(x, data[[0, 0, 0, 0]], rtol=0, atol=1e-5)  # of order sigma^3


def test_refusals() -> None:
    normal = NormalDenoiser(Gaussian(Linear()), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"0 < end < start <= 1, got 0\.5 and 0\.5"):
        Adaptive(normal, start=0.5, end=0.5)
    with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
        Adaptive(normal, tolerance=0)
    words = ExactDenoiser(
        Product({"x": Categorical(Flow(), absorbing(3))}), Batch.of(torch.tensor([1]))
    )
    with pytest.raises(ValueError, match="has no probability flow"):
        Adaptive(words)
