"""Bootstrap intervals: those of the normal law where it holds, and they cover."""

import numpy as np
import pytest

from structdiff.domains.molecules.measures.laws import Values, mean, wasserstein
from structdiff.domains.molecules.measures.resampling import Measure, rows_of


def test_interval_of_a_mean_is_two_standard_errors():
    x = np.random.default_rng(0).normal(3, 1, 400)
    measure = Measure("x", mean(Values.of(x, np.arange(400))), 400, "", "A")
    (row,) = rows_of([measure], 400, resamples=4000)
    half = 1.96 * x.std() / 20
    assert row.value == pytest.approx(x.mean())
    assert (row.low, row.high) == pytest.approx((row.value - half, row.value + half), abs=0.01)


def test_values_of_one_molecule_are_drawn_together():
    """Ten copies of each value in its molecule: the interval is that of the molecules."""
    x = np.random.default_rng(1).normal(9, 1, 100)
    alone = Measure("x", mean(Values.of(x, np.arange(100))), 100, "", "A")
    ten = Values.of(np.repeat(x, 10), np.repeat(np.arange(100), 10))
    rows = rows_of([alone, Measure("x", mean(ten), 1000, "", "A")], 100)
    assert (rows[1].low, rows[1].high) == pytest.approx((rows[0].low, rows[0].high))


def test_intervals_of_distances_cover():
    """Samples of a normal law shifted by 1: of 200 intervals 95 % hold the distance, +- 3 se."""
    random = np.random.default_rng(2)
    real = Values.of(random.normal(size=4000), np.arange(4000))
    owner, held = np.arange(100), 0
    for seed in range(200):
        drawn = Values.of(random.normal(1, 1, 100), owner)
        measure = Measure("x", wasserstein(drawn, real), 4200, "", "A")
        (row,) = rows_of([measure], 100, resamples=100, seed=seed)
        held += row.low <= 1 - real.value.mean() <= row.high
    assert held / 200 == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 200) + 0.015)


def test_blocks_do_not_change_the_interval():
    x = Values.of(np.arange(50.0), np.arange(50))
    small, large = (Measure("x", mean(x), size, "", "A") for size in (50, 1_000_000))
    one, two = rows_of([small, large], 50)
    assert (one.low, one.high) == (two.low, two.high)
    assert one.low < one.value < one.high


def test_of_no_molecules_nothing_is_known():
    measure = Measure("x", mean(Values.of([], [])), 0, "how", "A")
    (row,) = rows_of([measure], 0)
    assert np.isnan([row.value, row.low, row.high]).all()
    assert row.text() == "-"
