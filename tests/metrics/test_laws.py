"""Distances of laws: closed forms, other formulas, other code."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from structdiff.metrics.laws import crps, jensen_shannon, sliced_wasserstein, total_variation


def _normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_total_variation_is_the_largest_difference_of_an_event():
    p, q = np.array([3.0, 1, 0, 4]), np.array([1.0, 1, 2, 0])
    events = [[bool(number >> bit & 1) for bit in range(4)] for number in range(16)]
    largest = max(abs(p[event].sum() / 8 - q[event].sum() / 4) for event in map(np.array, events))
    assert total_variation(p, q) == pytest.approx(largest, abs=1e-15)


def test_jensen_shannon_is_the_square_of_the_distance_of_scipy():
    p, q = np.array([3.0, 1, 0, 4]), np.array([1.0, 1, 2, 0])
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2, abs=1e-12)


@pytest.mark.parametrize("wrong", [[1, -1], [0, 0], [1, 2, 3], [[1, 2]], [1, math.nan]])
def test_what_is_no_law_of_the_same_classes_is_refused(wrong):
    with pytest.raises(ValueError, match="counts must be"):
        total_variation([1, 2], wrong)


def test_a_shift_has_its_length_over_the_dimension():
    x = _normal(0, 200, 4)
    shift = torch.tensor([1.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    found = sliced_wasserstein(x, x + shift, 4000)
    assert found.value == pytest.approx(9 / 4, abs=4 * found.error)
    assert found.error < 0.05


def test_quantiles_of_unequal_numbers_are_compared_exactly():
    x, y = _normal(0, 4, 1), _normal(1, 6, 1) + 1
    both = [part.repeat_interleave(12 // len(part), 0).sort(0).values for part in (x, y)]
    expected = float((both[0] - both[1]).square().mean())
    assert sliced_wasserstein(x, y).value == pytest.approx(expected, rel=1e-12)


def test_scaled_normals_have_the_closed_form():
    # W2 of N(0, 1) and N(0, s^2) is (s - 1)^2 in every direction.
    x, y = _normal(0, 20_000, 2), 3 * _normal(1, 20_000, 2)
    assert sliced_wasserstein(x, y, 32).value == pytest.approx(4, rel=0.03)


def test_the_score_of_a_normal_forecast_has_the_closed_form():
    y = torch.tensor([-1.5, 0.0, 0.4, 2.0], dtype=torch.float64)
    draws = _normal(0, 200_000, 1).expand(-1, 4)
    z = y.numpy()
    expected = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi)
    assert crps(draws, y).numpy() == pytest.approx(expected, abs=0.01)


def test_the_score_is_unbiased_at_any_number_of_draws():
    draws, y = _normal(0, 3, 40_000), _normal(1, 40_000)
    found = crps(draws, y)
    error = float(found.std()) / math.sqrt(len(found))
    # E|X - y| - E|X - X'| / 2 of one law is half of E|X - X'| = 2 / sqrt(pi).
    assert float(found.mean()) == pytest.approx(1 / math.sqrt(math.pi), abs=4 * error)


def test_forecasts_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="samples must be"):
        crps(torch.zeros(5, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="at least 2 draws"):
        crps(torch.zeros(1, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="directions must be at least 2"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 2), 1)
