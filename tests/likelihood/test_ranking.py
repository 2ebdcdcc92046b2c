"""The area under the curve of true against false positives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr

from structdiff.likelihood.ranking import auroc


def test_it_is_the_share_of_pairs_in_order() -> None:
    """All pairs, with ties and infinities; and the area under the steps of the curve."""
    random = np.random.default_rng(0)
    label = random.random(60) < 0.3
    score = np.append(random.integers(0, 9, 57) + label[:57], [np.inf, -np.inf, np.inf])
    kind, other = score[label][:, None], score[~label][None]
    pairs = ((kind > other) + 0.5 * (kind == other)).mean()
    assert auroc(score, label) == pytest.approx(pairs, abs=1e-15)
    assert auroc(-score, label) == pytest.approx(1 - pairs, abs=1e-15)
    falls = np.unique(score)[::-1]
    true, false = (
        np.array([0.0, *((score[which] >= s).mean() for s in falls)]) for which in (label, ~label)
    )
    area = (np.diff(false) * (true[1:] + true[:-1]) / 2).sum()
    assert auroc(score, label) == pytest.approx(area, abs=1e-12)


def test_two_normals_are_told_apart_as_their_distance_says() -> None:
    """Phi(d / sqrt 2); four standard errors of 20000 of each are 0.006."""
    random = np.random.default_rng(1)
    label = np.repeat([0, 1], 20_000)
    for distance in (0.0, 1.0, 2.0):
        score = random.normal(size=40_000) + distance * label
        assert abs(auroc(score, label) - ndtr(distance / 2**0.5)) < 0.012


@pytest.mark.parametrize(
    ("scores", "labels", "match"),
    [
        ([0.0, 1.0], [1], r"must both be \(samples,\), got \(2,\) and \(1,\)"),
        ([0.0, np.nan], [0, 1], "scores must not be NaN"),
        ([0.0, 1.0], [0, 2], "labels must be 0 or 1"),
        ([0.0, 1.0], [1, 1], "both kinds, got 2 samples of one, 0 of none"),
    ],
)
def test_what_is_no_ranking_is_refused(scores: Any, labels: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        auroc(scores, labels)
