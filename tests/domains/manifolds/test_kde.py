"""Kernel density estimates on spheres and tori."""

import math

import pytest
import torch

from structdiff.domains.manifolds.kde import (
    FLOOR,
    KernelDensity,
    fit_bandwidth,
    fit_mixture,
    kernels_of,
    log_parts,
)
from structdiff.random import Generator
from structdiff.spaces import SO3, Torus
from structdiff.spaces.sphere import Sphere

SPACES = [Sphere(2), Sphere(3), Torus(1), Torus(3)]


def clusters(space, rows, seed, spread=0.2):
    """Points around three centres that do not depend on the seed."""
    centres = space.uniform(3, Generator(0), torch.float64, "cpu")
    start = centres[torch.arange(rows) % 3]
    tau = torch.tensor(spread**2, dtype=torch.float64)
    return space.diffuse(start, tau, Generator(seed))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: f"{type(s).__name__}{s.dimension}")
def test_the_kernel_is_the_heat_kernel(space):
    x, y = (space.uniform(30, Generator(seed), torch.float64, "cpu") for seed in (1, 2))
    y[:5] = space.exp(x[:5], 1e-3 * space.noise(x[:5], Generator(3)))
    y[5] = x[5]
    widths = [0.003, 0.1, 0.7]
    found = kernels_of(space, widths)(x, y)
    for place, width in enumerate(widths):
        tau = torch.tensor(width**2, dtype=torch.float64)
        rows = x.repeat_interleave(len(y), 0), y.repeat(len(x), 1)
        exact = space.log_kernel(*rows, tau).reshape(len(x), len(y))
        likely = exact > -500
        gap = (found[..., place] - exact)[likely].abs()
        assert gap.max() < 2e-3


@pytest.mark.parametrize("dimension", [1, 2])
def test_it_integrates_to_one_on_a_torus(dimension):
    space = Torus(dimension)
    density = KernelDensity(space, clusters(space, 20, 1), (0.1, 0.4), (0.3, 0.7))
    n = 200
    axis = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * math.pi - math.pi
    grid = torch.cartesian_prod(*[axis] * dimension).reshape(-1, dimension)
    total = density.log_prob(grid).exp().sum() * (2 * math.pi / n) ** dimension
    assert abs(float(total) - 1) < 1e-4


def test_it_integrates_to_one_on_the_sphere():
    space = Sphere(2)
    density = KernelDensity(space, clusters(space, 20, 1), (0.1, 0.4), (0.3, 0.7))
    points = space.uniform(60_000, Generator(4), torch.float64, "cpu")
    weight = density.log_prob(points).exp() * 4 * math.pi
    assert abs(float(weight.mean()) - 1) < 5 * float(weight.std()) / math.sqrt(len(points))


def test_far_points_have_the_floor():
    space = Sphere(2)
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    found = KernelDensity(space, pole, (0.01,), (1.0,)).log_prob(-pole)
    assert math.isclose(float(found), math.log(FLOOR / (4 * math.pi)), abs_tol=1e-9)


@pytest.mark.parametrize("space", [Sphere(2), Torus(2)], ids=["sphere", "torus"])
def test_the_bandwidth_is_the_likeliest(space):
    train, check = clusters(space, 200, 1), clusters(space, 100, 2)
    best = fit_bandwidth(space, train, check)

    def worth(width):
        return float(KernelDensity(space, train, (width,), (1.0,)).log_prob(check).mean())

    (width,) = best.bandwidths
    assert 0.03 < width < 0.3
    assert worth(width) >= max(worth(width * 1.1), worth(width / 1.1)) - 1e-6


def test_the_weights_are_the_likeliest():
    """At a maximum the mean share of a component over its weight is 1, less where that is 0."""
    space = Torus(2)
    train, check = clusters(space, 200, 1), clusters(space, 100, 2)
    widths = (0.02, 0.06, 0.2, 0.6)
    best = fit_mixture(space, train, check, widths)
    assert math.isclose(sum(best.weights), 1, abs_tol=1e-9)
    parts = log_parts(space, train, check, widths)
    slope = (1 - FLOOR) * torch.exp(parts - best.log_prob(check)[:, None]).mean(0)
    kept = slope @ torch.tensor(best.weights, dtype=torch.float64)
    for one, weight in zip(slope.tolist(), best.weights, strict=True):
        assert one <= float(kept) + 1e-3
        if weight > 1e-3:
            assert math.isclose(one, float(kept), abs_tol=1e-3)
    singles = [KernelDensity(space, train, (width,), (1.0,)).log_prob(check) for width in widths]
    assert best.log_prob(check).mean() >= max(one.mean() for one in singles) - 1e-6


@pytest.mark.parametrize(
    ("space", "widths", "match"),
    [
        (SO3(), [0.1], "are for spheres .* and tori, got SO3"),
        (Sphere(1), [0.1], "got Sphere"),
        (Torus(1), [], "at least one, got"),
        (Torus(1), [0.1, 0.0], "bandwidths must be positive"),
    ],
)
def test_what_cannot_be_is_refused(space, widths, match):
    with pytest.raises(ValueError, match=match):
        kernels_of(space, widths)
