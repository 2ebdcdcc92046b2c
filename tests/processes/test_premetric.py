"""Flows along the gradient of a premetric, against geodesics and the law of their values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import DDIM, Batch, Generator, NetworkDenoiser, Product, UniformTime
from structdiff.processes import Conditional, Flowing, GeodesicFlow, PremetricFlow
from structdiff.spaces import Hyperbolic, Manifold, Sphere, Torus

SPACES: dict[str, Manifold] = {"S2": Sphere(2), "T2": Torus(2), "H2": Hyperbolic(2)}
spaces = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def some(space: Manifold, rows: int, seed: int = 0) -> Tensor:
    origin = space.origin(torch.float64, "cpu").expand(rows, *space.point)
    return space.exp(origin, 0.6 * space.noise(origin, Generator(seed)))


def time(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


@spaces
def test_the_geodesic_distance_gives_the_geodesic_flow(space: Manifold) -> None:
    x_0 = some(space, 40)
    ours = PremetricFlow(space, space.distance, steps=3).bind(Batch.of(x_0))
    theirs = GeodesicFlow(space).bind(Batch.of(x_0))
    t = torch.linspace(0.05, 1, 40).double()
    x_t = theirs.diffuse(x_0, t, Generator(1))
    torch.testing.assert_close(ours.diffuse(x_0, t, Generator(1)), x_t, rtol=1e-7, atol=1e-7)
    a, b = (process.oracle(x_0, x_t, t).value for process in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def chord(x_0: Tensor, x: Tensor) -> Tensor:
    return (x - x_0).norm(dim=-1)


def test_the_premetric_falls_with_time() -> None:
    """d(x_0, x_t) = t d(x_0, x_1), to first order in the steps."""
    space, rows = Sphere(2), 200
    x_0, errors = some(space, rows), []
    for steps in (32, 64, 128):
        process = PremetricFlow(space, chord, steps=steps).bind(Batch.of(x_0))
        start = process.diffuse(x_0, time(1.0), Generator(2))
        x_t = process.diffuse(x_0, time(0.3), Generator(2))
        errors.append(float((chord(x_0, x_t) - 0.3 * chord(x_0, start)).abs().mean()))
    assert errors[2] < 0.01
    assert 1.7 < errors[0] / errors[1] < 2.4
    assert 1.7 < errors[1] / errors[2] < 2.4


def test_the_velocity_is_the_derivative_of_the_curve() -> None:
    """Between two close times, against the stated velocity."""
    space = Sphere(2)
    x_0 = some(space, 20)
    process = PremetricFlow(space, chord, steps=2000).bind(Batch.of(x_0))
    early, late = (process.diffuse(x_0, time(t), Generator(2)) for t in (0.4, 0.401))
    velocity = process.velocity(process.oracle(x_0, early, time(0.4)), early, time(0.4))
    moved = space.log(early, late) / 0.001
    torch.testing.assert_close(velocity, moved, rtol=0.02, atol=0.02)


def test_the_known_point_is_reached() -> None:
    """Steps of DDIM with the estimate at x_0 end there."""
    space = Sphere(2)
    goal = some(space, 1)

    process = Product({"x": PremetricFlow(space, chord)})
    assert process.offers(Flowing)
    assert not process.offers(Conditional)
    leaf = process["x"]

    class Output(torch.nn.Module):
        def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
            x = batch["x"]
            t = torch.sigmoid(-clock["x"]).to(x)  # type: ignore[index]
            way = leaf.towards(goal.expand_as(x), x, t)
            return {"x": -way / t}

    empty = Batch.of(torch.zeros(30, 3).double())
    x = DDIM(NetworkDenoiser(Output(), process), UniformTime(50)).sample(empty, Generator(0))["x"]
    assert float(space.distance(x, goal.expand_as(x)).max()) < 0.01


def test_clean_rows_stay_and_steps_are_needed() -> None:
    x_0 = some(Sphere(2), 3)
    process = PremetricFlow(Sphere(2), chord).bind(Batch.of(x_0))
    assert torch.equal(process.diffuse(x_0, time(-1.0), Generator(0)), x_0)
    assert float(process.towards(x_0, x_0, time(0.5)).abs().max()) == 0
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        PremetricFlow(Sphere(2), chord, steps=0)
