"""The kernel discrepancy: enumeration, leaving out one by one, no bias."""

import math

import pytest
import torch

from structdiff.metrics import kernel
from structdiff.metrics.kernel import cubic, discrepancy, kernel_distance


def _normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _enumerated(x, y):
    """MMD^2 by loops over pairs."""
    k = lambda a, b: (float(a @ b) / len(a) + 1) ** 3  # noqa: E731
    xx = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    xy = [k(a, b) for a in x for b in y]
    return sum(xx) / len(xx) + sum(yy) / len(yy) - 2 * sum(xy) / len(xy)


def test_the_estimate_is_that_of_enumeration():
    x, y = _normal(0, 6, 3), _normal(1, 9, 3) + 0.5
    assert kernel_distance(x, y).value == pytest.approx(_enumerated(x, y), rel=1e-12)


def test_the_error_is_the_jackknife_by_leaving_out():
    x, y = _normal(0, 6, 2), _normal(1, 8, 2)
    total = 0.0
    for part, others in ((x, lambda left: (left, y)), (y, lambda left: (x, left))):
        n = len(part)
        left = [_enumerated(*others(torch.cat([part[:i], part[i + 1 :]]))) for i in range(n)]
        mean = sum(left) / n
        total += (n - 1) / n * sum((value - mean) ** 2 for value in left)
    assert kernel_distance(x, y).error == pytest.approx(math.sqrt(total), rel=1e-9)


@pytest.mark.parametrize("together", [1, 20, 1 << 20])
def test_blocks_change_nothing(monkeypatch, together):
    x, y = _normal(0, 30, 4), _normal(1, 41, 4)
    whole = discrepancy(x, y, cubic)
    monkeypatch.setattr(kernel, "_TOGETHER", together)
    assert discrepancy(x, y, cubic) == pytest.approx(whole, rel=1e-12)


def test_it_has_no_bias_at_any_number_of_samples():
    x, y = _normal(0, 400 * 10, 5), _normal(1, 400 * 25, 5)
    pairs = zip(x.split(10), y.split(25), strict=True)
    values = torch.tensor([kernel_distance(a, b).value for a, b in pairs])
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 4 * error
    assert float(values.min()) < 0  # it may be below zero


def test_it_converges_to_the_difference_of_three_moments():
    # On the line k = (1 + xy)^3: MMD^2 = 3 dm1^2 + 3 dm2^2 + dm3^2 of the raw moments.
    x, y = _normal(0, 3000, 1) * 1.2, _normal(1, 3000, 1) + 0.3
    found = kernel_distance(x, y)
    moments = [0.3, (1 + 0.09) - 1.44, 0.3**3 + 3 * 0.3]
    expected = 3 * moments[0] ** 2 + 3 * moments[1] ** 2 + moments[2] ** 2
    assert found.value == pytest.approx(expected, abs=4 * found.error)
    assert found.error < expected / 4


def test_any_kernel_of_any_objects_serves():
    x, y = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1])
    same = lambda a, b: (a[:, None] == b[None]).double()  # noqa: E731
    # Shares of equal pairs: 1 of 6 and 1 of 3 inside, 4 of 12 across.
    assert discrepancy(x.double(), y.double(), same).value == pytest.approx(1 / 6 + 1 / 3 - 2 / 3)


def test_two_samples_have_a_value_and_no_error():
    found = kernel_distance(torch.zeros(2, 1), torch.ones(2, 1))
    assert found.value == pytest.approx(1 + 8 - 2)
    assert math.isnan(found.error)


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="two samples of either"):
        discrepancy(torch.zeros(1, 1), torch.zeros(3, 1), cubic)
