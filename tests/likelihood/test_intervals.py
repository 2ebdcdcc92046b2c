"""Intervals cover the truth as often as they say, and agree with the normal law."""

import math

import numpy as np
import pytest

from structdiff.likelihood import ratio


def test_the_interval_of_a_mean_is_that_of_the_central_limit():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    value, low, high = ratio(values, resamples=4000)
    assert value == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(400)
    # Quantiles of 4,000 resamples are known to about 4 % of the width.
    assert low == pytest.approx(value - half, abs=0.12 * half)
    assert high == pytest.approx(value + half, abs=0.12 * half)


def test_the_interval_covers_the_truth():
    random, hits, rounds = np.random.default_rng(1), 0, 400
    for seed in range(rounds):
        size = random.integers(2, 10, 60).astype(float)
        above = size * 1.5 + random.normal(0, 1, 60)
        _, low, high = ratio(above, size, resamples=300, seed=seed)
        hits += low < 1.5 < high
    assert abs(hits / rounds - 0.94) < 4 * math.sqrt(0.94 * 0.06 / rounds)


def test_a_ratio_of_sums_weighs_samples_by_what_is_below():
    assert ratio([1.0, 9.0], [1.0, 3.0]).value == 2.5
    assert ratio([2.0, 2.0]) == (2.0, 2.0, 2.0)
    wide, narrow = ratio([0.0, 1.0] * 20, level=0.99), ratio([0.0, 1.0] * 20, level=0.5)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(30.0)
    assert ratio(values, seed=3) == ratio(values, seed=3) != ratio(values, seed=4)


def test_refusals():
    with pytest.raises(ValueError, match="at least one sample"):
        ratio([])
    with pytest.raises(ValueError, match="must be finite"):
        ratio([1.0, math.nan])
    with pytest.raises(ValueError, match="below must be positive"):
        ratio([1.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="level must be in"):
        ratio([1.0], level=1.0)
