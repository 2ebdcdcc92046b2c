"""Samplers on curved worlds of which everything is known: mixtures of heat kernels.

A few points with unequal weights, noised by the heat kernel: the exact denoiser gives the score of
the mixture on the torus, the sphere and the rotations.
"""

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
    Brownian,
    Denoiser,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Leaping,
    Linear,
    Multistep,
    Product,
    UniformTime,
)
from structdiff.samplers import Ancestral, PredictorCorrector, Walk
from structdiff.schedules import UniformLogSNR
from structdiff.spaces import SO3, HeatKernel, Sphere, Torus, power, product
from structdiff.testing import ExactDenoiser

WEIGHTS = torch.tensor([0.7, 0.3]).double()
SPACES: dict[str, HeatKernel] = {"torus": Torus(2), "sphere": Sphere(2), "rotations": SO3()}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def two(space: HeatKernel) -> Tensor:
    """Two points about 1.5 apart."""
    x = space.uniform(1, Generator(5), torch.float64, "cpu")
    v = space.noise(x, Generator(6))
    return torch.cat(
        [x, space.exp(x, 1.5 * v / space.norm2(v).sqrt().reshape(-1, *(1,) * (v.ndim - 1)))]
    )


def world(space: HeatKernel, data: Tensor, dtype: torch.dtype = torch.float64) -> ExactDenoiser:
    process = Product({"x": Brownian(Geometric(0.02, 4.0), space)})
    return ExactDenoiser(process, Batch.of(data.to(dtype)), WEIGHTS)


def shares(space: HeatKernel, x: Tensor, data: Tensor) -> tuple[float, float]:
    """The share of the first point and the largest distance to the nearer one."""
    gaps = torch.stack([space.distance(x, point.expand_as(x)) for point in data.to(x)], 1)
    return float((gaps.argmin(1) == 0).double().mean()), float(gaps.amin(1).max())


WALKS: dict[str, Callable[[Denoiser], Walk]] = {
    "ancestral": lambda d: DDPM(d, UniformTime(40)),
    "deterministic": lambda d: DDIM(d, UniformTime(60)),
    "Heun": lambda d: Heun(d, UniformTime(30)),
    "multistep": lambda d: Multistep(d, UniformTime(40), order=2),
    "geodesic random walk": lambda d: Leaping(d, UniformTime(80)),
    "predictor-corrector": lambda d: PredictorCorrector(DDPM(d, UniformTime(20)), share=0.3),
}


@spaces
@pytest.mark.parametrize("name", WALKS)
def test_the_weights_of_two_modes(space: HeatKernel, name: str) -> None:
    rows, data = 3000, two(space)
    empty = Batch.of(torch.zeros(rows, *space.point).double())
    x = WALKS[name](world(space, data)).sample(empty, Generator(1))["x"]
    share, off = shares(space, x, data)
    assert abs(share - 0.7) < 0.03
    assert off < 0.02


@spaces
def test_samples_turn_with_the_data(space: HeatKernel) -> None:
    """Noise is drawn at no particular place: the laws of features agree after the turn."""
    rows, data = 3000, two(space)
    turn = space.isometry(Generator(9), torch.float64, "cpu")
    empty = Batch.of(torch.zeros(rows, *space.point).double())

    def noisy(points: Tensor, seed: int) -> Tensor:
        walk = DDPM(world(space, points), UniformTime(12, end=0.7)).bind(empty, Generator(seed))
        carry = walk.start()
        for i in range(11):
            carry = walk.step(carry, i)
        return carry.x["x"]

    a, b = space.features(turn(noisy(data, 1))), space.features(noisy(turn(data), 2))
    error = ((a.var(0) + b.var(0)) / rows).sqrt()
    assert bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all())
    assert float((a.mean(0) / a.std(0)).abs().max()) > 0.2  # there is something to turn


@pytest.mark.parametrize(
    "space",
    [Torus(2), Sphere(2), Sphere(7), SO3(), power(Sphere(2), 2), product(SO3(), Torus(1))],
    ids=["T2", "S2", "S7", "SO3", "S2 x S2", "SO3 x T1"],
)
def test_a_thousand_steps_stay_on_the_space(space: HeatKernel) -> None:
    data = space.uniform(2, Generator(0), torch.float32, "cpu")
    empty = Batch.of(torch.zeros(4, *space.point, dtype=torch.float32))
    process = Product({"x": Brownian(Geometric(0.02, 3.0), space)})
    denoiser = ExactDenoiser(process, Batch.of(data))
    x = Ancestral(denoiser, UniformTime(1000), eta=0.7).sample(empty, Generator(1))["x"]
    assert space.belongs(x, tolerance=1e-5).reason is None
    assert float(space.distance(x, space.project(x)).max()) < 1e-5


@spaces
@pytest.mark.parametrize("t", [0.3, 0.6])
def test_kernels_form_a_semigroup(space: HeatKernel, t: float) -> None:
    """int k_a(x, y) k_b(y, z) dy = k_{a + b}(x, z), by drawing y; the errors cancel in part."""
    x, z = two(space).split(1)
    a, b = torch.tensor(t).double(), torch.tensor(0.5).double()
    rows = 60_000
    y = space.diffuse(x.expand(rows, *space.point), a, Generator(3))
    density = space.log_kernel(y, z.expand_as(y), b).exp()
    truth = float(space.log_kernel(x, z, a + b).exp())
    assert abs(float(density.mean()) - truth) < 4 * float(density.std()) / math.sqrt(rows)
    assert float(density.std()) / math.sqrt(rows) < 0.01 * truth


@spaces
def test_noise_forgets(space: HeatKernel) -> None:
    """At the last time the features have the mean that they have under the uniform law."""
    rows = 20_000
    process = Brownian(Geometric(0.02, 4.0), space)
    x_0 = two(space)[:1].expand(rows, *space.point)
    x = process.bind(Batch.of(x_0)).diffuse(x_0, torch.tensor(1.0).double(), Generator(2))
    even = space.uniform(rows, Generator(3), torch.float64, "cpu")
    for power_ in (1, 2):
        a, b = (space.features(y) ** power_ for y in (x, even))
        error = ((a.var(0) + b.var(0)) / rows).sqrt()
        assert bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all())


def test_an_end_too_early_is_as_wrong_as_one_too_late() -> None:
    """Data on a segment of the plane: the score explodes as t goes to 0, so a walk ends before.

    The distance (W2 along, root mean square across) to the segment's law after eight steps falls
    with the last time, then rises, as steps are spent where nothing is left to find.
    """
    segment = torch.stack([torch.linspace(-1, 1, 201), torch.zeros(201)], 1).double()
    schedule = Linear()
    process = Product({"x": Gaussian(schedule, event=(2,))})
    denoiser = ExactDenoiser(process, Batch.of(segment))
    empty, quantiles = Batch.of(torch.zeros(2000, 2).double()), torch.linspace(-1, 1, 2000)
    errors = []
    for end in (0.3, 0.01, 1e-7):
        walk = DDIM(denoiser, UniformLogSNR(schedule, 8, end=end)).bind(empty, Generator(0))
        carry = walk.start()
        for i in range(7):
            carry = walk.step(carry, i)
        along, across = carry.x["x"].unbind(1)
        gap = (along.sort().values - quantiles).square().mean() + across.square().mean()
        errors.append(float(gap.sqrt()))
    assert errors[1] < 0.3 * errors[0]
    assert errors[2] > 1.3 * errors[1]
