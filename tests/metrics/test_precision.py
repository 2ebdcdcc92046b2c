"""Precision, recall, density, coverage: enumeration, and what one law gives."""

import math

import pytest
import torch

from structdiff.metrics import precision
from structdiff.metrics.precision import expected_coverage, overlap, radii


def _normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _enumerated(x, y, k):
    """The four numbers by loops."""
    far = lambda a, b: math.dist(a.tolist(), b.tolist())  # noqa: E731
    reach = lambda s: [sorted(far(a, b) for b in s)[k] for a in s]  # noqa: E731
    rx, ry = reach(x), reach(y)
    inside = [[far(a, b) <= r for b, r in zip(y, ry, strict=True)] for a in x]
    known = [any(far(b, a) <= r for a, r in zip(x, rx, strict=True)) for b in y]
    covered = [any(row[j] for row in inside) for j in range(len(y))]
    return (
        sum(map(any, inside)) / len(x),
        sum(known) / len(y),
        sum(map(sum, inside)) / (k * len(x)),
        sum(covered) / len(y),
    )


@pytest.mark.parametrize("together", [1, 1 << 20])
@pytest.mark.parametrize("k", [1, 3])
def test_the_four_numbers_are_those_of_enumeration(monkeypatch, together, k):
    monkeypatch.setattr(precision, "_TOGETHER", together)
    x, y = 0.6 * _normal(0, 14, 2) + 0.7, _normal(1, 11, 2)
    found = [measure.value for measure in overlap(x, y, k)]
    assert found == pytest.approx(_enumerated(x, y, k), abs=1e-12)
    assert 0 < min(found) < max(found)


def test_a_law_that_is_narrow_has_precision_and_no_recall():
    y = _normal(0, 200, 2)
    found = overlap(0.1 * _normal(1, 200, 2), y)
    assert found.precision.value == 1
    assert found.recall.value < 0.1
    assert found.density.value > 1.2
    far = overlap(_normal(2, 200, 2) + 100, y)
    assert [measure.value for measure in far] == [0, 0, 0, 0]


def test_one_law_has_the_expected_coverage_and_a_density_of_one():
    n, m, k, repeats = 40, 25, 3, 80
    found = [overlap(_normal(2 * i, m, 3), _normal(2 * i + 1, n, 3), k) for i in range(repeats)]
    for values, expected in (
        (torch.tensor([one.coverage.value for one in found]), expected_coverage(n, m, k)),
        (torch.tensor([one.density.value for one in found]), 1.0),
    ):
        error = float(values.std()) / math.sqrt(repeats)
        assert float(values.mean()) == pytest.approx(expected, abs=4 * error)


def test_radii_leave_out_the_sample_itself():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    assert radii(x, 1).tolist() == [1, 1, 2]
    assert radii(x, 2).tolist() == [3, 2, 3]


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_samples_are_refused(k):
    with pytest.raises(ValueError, match="neighbours must be from 1 to 3"):
        overlap(torch.zeros(4, 1), torch.zeros(4, 1), k)
