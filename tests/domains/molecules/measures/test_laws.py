"""Distances of laws are those of their definitions, of scipy, and of molecules drawn twice."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from structdiff.domains.molecules.measures.laws import (
    Values,
    by_kind,
    cosine,
    mean,
    median,
    variation,
    wasserstein,
    wasserstein_on_circle,
)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def values(random, molecules, number, kinds=1):
    owner = np.sort(random.integers(molecules, size=number))
    return Values.of(random.normal(size=number), owner, random.integers(kinds, size=number))


def once(statistic, molecules):
    return float(statistic(np.ones((1, molecules)))[0])


def on_circle(angles, others):
    """The least cost of matching as many angles as others in the order of the circle."""
    one, two = np.sort(np.asarray(angles) % 360), np.sort(np.asarray(others) % 360)
    gaps = [np.abs((one - np.roll(two, k) + 180) % 360 - 180).mean() for k in range(len(two))]
    return min(gaps)


def test_a_shift_is_its_length(random):
    x = values(random, 20, 100)
    for shift in (0.0, 0.3, -2.0):
        moved = Values.of(x.value + shift, x.owner)
        assert once(wasserstein(moved, x), 20) == pytest.approx(abs(shift), abs=1e-12)


def test_weighted_distances_are_those_of_scipy(random):
    x, y = values(random, 8, 30), values(random, 50, 70)
    weights = random.multinomial(8, np.full(8, 1 / 8), 5).astype(float)
    expected = [wasserstein_distance(x.value, y.value, w[x.owner]) for w in weights]
    np.testing.assert_allclose(wasserstein(x, y)(weights), expected, rtol=1e-12)


def test_turns_are_measured_the_short_way():
    x, y = Values.of([170.0, 175.0, 10.0], [0, 1, 2]), Values.of([-170.0, -175.0, 30.0], [0, 1, 2])
    assert once(wasserstein_on_circle(x, y), 3) == pytest.approx((15 + 15 + 20) / 3)
    turned = Values.of(x.value + 350.0, x.owner)
    assert once(wasserstein_on_circle(turned, x), 3) == pytest.approx(10)


def test_distance_on_the_circle_is_that_of_the_best_matching(random):
    for size in (1, 2, 5, 9):
        x, y = 360 * random.random((2, size)) - 180
        owner = np.arange(size)
        found = once(wasserstein_on_circle(Values.of(x, owner), Values.of(y, owner)), size)
        assert found == pytest.approx(on_circle(x, y), rel=1e-12)


def test_kinds_are_weighted_by_the_data():
    real = Values.of([0.0, 0.0, 0.0, 5.0], [0, 1, 2, 3], ["C-H", "C-H", "C-H", "C-C"])
    drawn = Values.of([1.0, 7.0], [0, 1], ["C-H", "C-C"])
    assert once(by_kind(wasserstein, drawn, real), 2) == pytest.approx((3 * 1 + 1 * 2) / 4)
    missing = Values.of([7.0, 9.0], [0, 1], ["C-C", "N-N"])
    assert once(by_kind(wasserstein, missing, real), 2) == pytest.approx(2)
    assert np.isnan(once(by_kind(wasserstein, Values.of([1.0], [0], ["N-N"]), real), 1))


def test_a_molecule_of_weight_two_is_two_molecules(random):
    """All statistics, weights beside copies; one molecule of weight 0 is not there."""
    x, y = values(random, 6, 40, kinds=3), values(random, 6, 90, kinds=3)
    weights = np.array([2.0, 1.0, 0.0, 3.0, 1.0, 1.0])
    copies = np.repeat(np.arange(40), weights[x.owner].astype(int))
    more = Values(x.value[copies], np.arange(len(copies)), x.kind[copies])
    counted, counts = Values(np.ones(40), x.owner, x.kind), Values(np.ones(90), y.owner, y.kind)
    copied = Values(np.ones(len(more)), more.owner, more.kind)
    for statistic, expected in (
        (wasserstein(x, y), wasserstein(more, y)),
        (wasserstein_on_circle(x, y), wasserstein_on_circle(more, y)),
        (by_kind(wasserstein, x, y), by_kind(wasserstein, more, y)),
        (variation(counted, counts), variation(copied, counts)),
        (cosine(counted, counts), cosine(copied, counts)),
        (mean(x), mean(more)),
        (median(x), median(more)),
    ):
        assert statistic(weights[None])[0] == pytest.approx(once(expected, len(copies)), rel=1e-10)


def test_shares_and_cosines_by_hand():
    """Counts (2, 1, 1) and (0, 3, 4) of the words a, b, c."""
    drawn = Values.of([2, 1, 1], [0, 0, 1], ["a", "b", "c"])
    real = Values.of([3, 4], [0, 1], ["b", "c"])
    assert once(variation(drawn, real), 2) == pytest.approx(1 / 2)
    assert once(cosine(drawn, real), 2) == pytest.approx((3 + 4) / (np.sqrt(6) * 5))
    assert once(cosine(drawn, Values.of([1], [0], ["z"])), 2) == 0


def test_equal_laws_are_not_apart(random):
    x = values(random, 10, 50, kinds=2)
    ones = Values(np.ones(50), x.owner, x.kind)
    for distance in (wasserstein, wasserstein_on_circle):
        assert once(by_kind(distance, x, x), 10) == pytest.approx(0, abs=1e-12)
    assert once(variation(ones, ones), 10) == 0
    assert once(cosine(ones, ones), 10) == pytest.approx(1)


def test_what_has_no_value_is_not_a_number():
    none, one = Values.of([], []), Values.of([1.0], [0])
    for statistic in (median(none), mean(none), cosine(none, one), variation(none, one)):
        assert np.isnan(statistic(np.ones((2, 3)))).all()
    assert np.isnan(once(variation(one, none), 3))
    assert np.isnan(wasserstein(one, one)(np.array([[0.0, 1.0]]))).all()


def test_medians_are_of_the_values_that_count():
    x = Values.of([5.0, 1.0, 3.0], [0, 1, 2])
    assert once(median(x), 3) == 3
    assert median(x)(np.array([[3.0, 1.0, 1.0]]))[0] == 5
    assert np.isnan(median(x)(np.zeros((1, 3)))[0])
