"""Geodesic random walks against exact heat kernels and the laws where they end."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff import Generator, Geometric
from structdiff.spaces import SO3, Law, Manifold, Torus, WrappedNormal
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.sphere import Sphere
from tests.processes.cases import time
from tests.processes.geodesic_walks import ROWS, bound, many, within


def chi(dimension: int, value: Callable[[Tensor], Tensor]) -> float:
    """E value(|z|) for a standard normal z in this many dimensions."""
    r = torch.linspace(0, 14, 20_001, dtype=torch.float64)
    weight = r ** (dimension - 1) * torch.exp(-r.square() / 2)
    return float(torch.trapezoid(weight * value(r), r) / torch.trapezoid(weight, r))


# On these spaces a function f of the distance r to the start is an eigenfunction of the Laplacian,
# f(0) = 1, so that Brownian motion has E f = e^{growth tau}, and each step of a walk multiplies
# E f by E f(sqrt(h) |z|).
EIGEN = {
    "sphere": (Sphere(2), torch.cos, -1.0),
    "SO3": (SO3(), lambda r: (1 + 2 * torch.cos(r)) / 3, -1.0),
    "hyperbolic": (Hyperbolic(3), torch.cosh, 1.5),
}
eigen = pytest.mark.parametrize("name", EIGEN)


class Free(Law):
    """No law at all: the volume."""

    def __init__(self, space: Manifold) -> None:
        self.manifold, self.name = space, "volume"

    def draw(self, rows, random, dtype, device) -> Tensor:
        return self.manifold.origin(dtype, device).expand(rows, *self.manifold.point)

    def log_prob(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def score(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), *self.manifold.tangent)


def free_walk(space: Manifold, steps: int, tau: float, rows: int = ROWS) -> Tensor:
    """Distances from the start after a walk without drift."""
    x = many(space, rows)
    process = bound(space, x, steps, law=Free(space))
    end = process.walk(x, torch.tensor(tau, dtype=torch.float64), Generator(steps))
    return space.distance(x, end)


@eigen
def test_each_step_draws_the_geodesic_normal(name: str) -> None:
    """The walk's mean of an eigenfunction, by quadrature over each step."""
    space, wave, _ = EIGEN[name]
    for steps in (1, 3):
        one = chi(space.dimension, lambda r, h=1 / steps: wave(math.sqrt(h) * r))
        within(wave(free_walk(space, steps, 1.0)), one**steps)


@eigen
def test_bias_against_the_heat_kernel_halves_with_doubled_steps(name: str) -> None:
    """Weak order 1: the figures of the module's head."""
    space, wave, growth = EIGEN[name]
    exact, errors = math.exp(growth), []
    for steps in (8, 16, 32):
        one = chi(space.dimension, lambda r, h=1 / steps: wave(math.sqrt(h) * r))
        errors.append(abs(one**steps / exact - 1))
    stated = {"sphere": 0.0217, "SO3": 0.0106, "hyperbolic": 0.0561}[name]
    assert errors[0] == pytest.approx(stated, rel=0.01)
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def kernel(dimension: int, r: Tensor, tau: float) -> Tensor:
    """The heat kernel of hyperbolic space, generator Laplacian / 2, without its constant."""
    if dimension == 3:
        return r / torch.sinh(r) * torch.exp(-r.square() / (2 * tau))
    # The plane: an integral over s > r; s = r + u^2 takes the root out of it.
    u = torch.linspace(0, 4, 4001, dtype=torch.float64)[1:]
    s = r[:, None] + u.square()
    gap = torch.cosh(s) - torch.cosh(r)[:, None]
    return torch.trapezoid(s * torch.exp(-s.square() / (2 * tau)) / gap.sqrt() * 2 * u, u)


@pytest.mark.parametrize("dimension", [2, 3])
def test_walk_on_hyperbolic_space_has_the_distances_of_the_kernel(dimension: int) -> None:
    r = torch.linspace(1e-6, 9, 801, dtype=torch.float64)
    density = kernel(dimension, r, 1.0) * torch.sinh(r) ** (dimension - 1)
    mean = float(torch.trapezoid(r * density, r) / torch.trapezoid(density, r))
    space = Hyperbolic(dimension)
    errors = [mean - float(free_walk(space, steps, 1.0).mean()) for steps in (1, 2, 4)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4)
    assert errors[0] / errors[2] == pytest.approx(4, abs=1.2)
    within(free_walk(space, 32, 1.0), mean, extra=errors[2] / 8)


@pytest.mark.parametrize("space", [Sphere(2), SO3(), Torus(2)], ids=["sphere", "SO3", "torus"])
def test_long_walk_forgets_its_start(space: Manifold) -> None:
    """R01 (b): first and second moments of the features are those of the uniform law."""
    x = many(space, 20_000)
    process = bound(space, x, 12, schedule=Geometric(0.05, 4.0))
    last = process.diffuse(x, time(1.0), Generator(0))
    end, prior = space.features(last), space.features(process.prior(Generator(1)))
    for a, b in ((end, prior), (end.square(), prior.square())):
        error = torch.hypot(a.std(0), b.std(0)) / math.sqrt(len(a))
        assert bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * error).all())
    assert bool(space.belongs(last, 1e-5).inside.all())


@pytest.mark.parametrize("dimension", [2, 3])
def test_walk_on_hyperbolic_space_ends_in_the_wrapped_normal(dimension: int) -> None:
    """Its distances from the centre have the law's moments, up to the bias of 16 steps."""
    space = Hyperbolic(dimension)
    law = WrappedNormal(space, 0.5)
    way = torch.tensor([1.5, *[0.0] * (dimension - 1)], dtype=torch.float64)
    x = space.exp(many(space), way.expand(ROWS, dimension))
    process = bound(space, x, 16, law=law)
    centre = many(space)
    r = space.distance(centre, process.diffuse(x, time(1.0), Generator(0)))
    assert float(r.square().mean()) == pytest.approx(dimension * 0.25, rel=0.03)
    within(r, chi(dimension, lambda r: 0.5 * r), extra=0.01)
    direction = space.log(centre, process.diffuse(x, time(1.0), Generator(1)))
    within(direction[:, 0], 0.0, extra=0.01)
