"""The Frechet distance: closed forms, another root, its bias and its error."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from structdiff.metrics.frechet import bootstrapped, frechet, frechet_of_moments


def _normal(seed, samples, features):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(samples, features, generator=random, dtype=torch.float64)


def _spread(seed, features):
    root = _normal(seed, features, features)
    return root @ root.mT


def test_diagonal_normals_have_the_closed_form():
    a, b = torch.tensor([0.0, 0.3, 2.0, 9.0]), torch.tensor([1.0, 0.0, 2.0, 4.0])
    mean, other = torch.tensor([0.0, 1.0, -2.0, 3.0]), torch.tensor([1.0, 1.0, 0.5, 3.0])
    found = frechet_of_moments(mean, a.diag(), other, b.diag())
    expected = (mean - other).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_planar_normals_have_the_closed_form(seed):
    # tr (S T)^(1/2) = sqrt(tr S T + 2 sqrt(det S T)) in two dimensions.
    s, t = _spread(seed, 2), _spread(seed + 10, 2)
    shared = math.sqrt((s @ t).trace() + 2 * math.sqrt(torch.det(s @ t)))
    found = frechet_of_moments(torch.zeros(2), s, torch.tensor([3.0, 4.0]), t)
    assert float(found) == pytest.approx(25 + float(s.trace() + t.trace()) - 2 * shared, abs=1e-6)


@pytest.mark.parametrize("features", [3, 20])
def test_the_trace_is_that_of_the_root_of_scipy(features):
    s, t = _spread(0, features), _spread(1, features)
    root = linalg.sqrtm((s @ t).numpy())
    expected = float(s.trace() + t.trace()) - 2 * float(np.trace(root).real)
    zero = torch.zeros(features)
    assert float(frechet_of_moments(zero, s, zero, t)) == pytest.approx(expected, abs=1e-6)


def test_singular_covariances_keep_their_digits():
    x = _normal(0, 5, 30)  # rank 4
    assert frechet(x, x).value == pytest.approx(0, abs=1e-10)
    assert frechet(x, x + 2).value == pytest.approx(4 * 30, abs=1e-9)


def test_the_distance_of_two_samples_of_one_law_is_the_stated_bias():
    features, n, m, repeats = 6, 80, 120, 200
    x, y = _normal(0, repeats * n, features), _normal(1, repeats * m, features)
    pairs = zip(x.split(n), y.split(m), strict=True)
    values = torch.tensor([frechet(a, b, resamples=2).value for a, b in pairs])
    expected = (1 / n + 1 / m) * (features + (features + 1) * features / 4)
    error = float(values.std()) / math.sqrt(repeats)
    # The next order of the expansion is of the size of the first, times features / n.
    assert float(values.mean()) == pytest.approx(expected, abs=4 * error + expected * features / n)
    assert 1 / n + 1 / m < 0.5 * expected  # the test can fail


def test_the_bootstrap_error_is_the_spread_over_new_samples():
    n, repeats = 300, 60
    x, y = _normal(2, repeats * n, 3) + 1.0, _normal(3, repeats * n, 3)
    pairs = zip(x.split(n), y.split(n), strict=True)
    found = [frechet(a, b, resamples=40) for a, b in pairs]
    spread = float(np.std([one.value for one in found], ddof=1))
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.3)


def test_a_bootstrap_follows_from_its_seed():
    x, y = _normal(0, 50, 2), _normal(1, 50, 2)
    far = lambda a, b: (a.mean(0) - b.mean(0)).norm()  # noqa: E731
    assert bootstrapped(far, x, y, seed=3) == bootstrapped(far, x, y, seed=3)
    assert bootstrapped(far, x, y, seed=3).error != bootstrapped(far, x, y, seed=4).error


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), "features must be"),
        (torch.zeros(1, 2), torch.zeros(3, 2), "at least 2 samples"),
        (torch.zeros(3), torch.zeros(3), "features must be"),
        (torch.full((3, 2), math.nan), torch.zeros(3, 2), "must be finite"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(x, y, match):
    with pytest.raises(ValueError, match=match):
        frechet(x, y)


def test_one_resample_has_no_spread():
    with pytest.raises(ValueError, match="resamples must be at least 2"):
        frechet(torch.zeros(3, 2), torch.zeros(3, 2), resamples=1)
