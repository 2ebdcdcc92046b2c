"""How near drawn points are to real ones."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from structdiff.domains.manifolds.metrics import (
    SCALES,
    discrepancy,
    distances,
    kuiper,
    nearest,
    off_space,
    smirnov,
)
from structdiff.random import Generator
from structdiff.spaces import SO3, Torus
from structdiff.spaces.sphere import Sphere

SPACES = [Sphere(2), Torus(3), SO3()]


def uniform(space, rows, seed):
    return space.uniform(rows, Generator(seed), torch.float64, "cpu")


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_distances_are_of_all_pairs(space):
    x, y = uniform(space, 4, 1), uniform(space, 6, 2)
    found = distances(space, x, y)
    for i in range(4):
        for j in range(6):
            exact = space.distance(x[i : i + 1], y[j : j + 1])
            torch.testing.assert_close(found[i, j], exact[0])
    torch.testing.assert_close(nearest(space, x, y), found.amin(1))


@pytest.mark.parametrize("space", SPACES, ids=lambda s: type(s).__name__)
def test_the_discrepancy_is_that_of_the_formula(space):
    x, y = uniform(space, 5, 1), uniform(space, 7, 2)
    unit = torch.stack(
        [
            space.distance(y[i : i + 1], y[j : j + 1])[0]
            for i in range(7)
            for j in range(7)
            if i != j
        ]
    ).median()

    def k(a, b):
        d = float(space.distance(a[None], b[None]))
        return sum(math.exp(-d / (s * float(unit))) for s in SCALES) / len(SCALES)

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert math.isclose(discrepancy(space, x, y).value, xx + yy - 2 * xy, abs_tol=1e-9)


def test_the_discrepancy_of_one_law_is_zero_on_average_and_its_error_right():
    space = Sphere(2)
    found = [
        discrepancy(space, uniform(space, 60, 2 * i), uniform(space, 60, 2 * i + 1))
        for i in range(80)
    ]
    values = np.array([one.value for one in found])
    spread = values.std(ddof=1)
    assert abs(values.mean()) < 4 * spread / math.sqrt(len(values))
    # The kernel is degenerate at equal laws, where the jackknife is too wide rather than narrow.
    assert 0.7 < np.mean([one.error for one in found]) / spread < 3


def test_the_error_of_different_laws_is_their_spread():
    space = Torus(1)

    def far(rows, seed):
        return space.project(1.0 + 0.5 * torch.randn(rows, 1, generator=_seeded(seed)).double())

    found = [discrepancy(space, far(60, i), uniform(space, 60, i)) for i in range(80)]
    values = np.array([one.value for one in found])
    assert (values > 0).all()
    ratio = np.mean([one.error for one in found]) / values.std(ddof=1)
    assert 0.75 < ratio < 1.35


def _seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_two_points_of_either_are_needed():
    with pytest.raises(ValueError, match="two samples of either are needed, got 1 and 5"):
        discrepancy(Torus(1), torch.zeros(1, 1), torch.zeros(5, 1))


def test_points_off_the_space_are_told():
    x = uniform(Sphere(2), 5, 1)
    assert off_space(Sphere(2), x) < 1e-15
    x[2] *= 1.01
    exact = float((x[2] - x[2] / x[2].norm()).abs().max())
    assert math.isclose(off_space(Sphere(2), x), exact, rel_tol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_smirnov_is_scipys(seed):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=40), random.normal(0.5, 2, size=70)
    y[:5] = x[:5]
    assert math.isclose(smirnov(x, y), ks_2samp(x, y).statistic)


def test_kuiper_does_not_depend_on_the_cut_and_sees_an_arc():
    random = np.random.default_rng(3)
    x, y = random.uniform(0, 2, 50), random.uniform(1, 5, 80)
    first = kuiper(x, y)
    for turn in (0.3, 2.0, 5.5, -1.0):
        assert math.isclose(kuiper(x + turn, y + turn), first, abs_tol=1e-12)
    # The greatest difference over arcs: 50 points inside an arc that has few of the others.
    every = np.sort(np.concatenate([x, y]) % (2 * np.pi))
    best = max(
        abs(np.mean((x >= a) & (x <= b)) - np.mean((y >= a) & (y <= b)))
        for a in every
        for b in every
        if a <= b
    )
    assert math.isclose(first, best, abs_tol=1e-12)


@pytest.mark.parametrize("measure", [smirnov, kuiper])
def test_empty_samples_are_refused(measure):
    with pytest.raises(ValueError, match="both samples must have numbers, got 0 and 1"):
        measure([], [1.0])
