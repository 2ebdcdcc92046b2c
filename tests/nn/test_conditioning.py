"""Conditions as features."""

import pytest
import torch

from structdiff.batch import Batch
from structdiff.nn import ConditionFeatures

FEATURES = ConditionFeatures({"alpha": 1, "v": 2}, {"kind": 3}, frequencies=4)
BLANK = Batch.of(torch.zeros(3))
FULL = BLANK.with_condition(
    {
        "alpha": torch.tensor([0.5, -1.0, 2.0]),
        "v": torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]),
        "kind": torch.tensor([0, 2, 1]),
    }
)


def test_nothing_known_is_all_zeros() -> None:
    assert FEATURES(BLANK).abs().sum() == 0
    assert FEATURES(BLANK).shape == (3, FEATURES.width)


def test_absent_equals_unknown_whatever_the_value() -> None:
    nan = torch.full((3,), torch.nan)
    absent = FULL.with_condition({"alpha": nan}).with_present(
        {"alpha": torch.zeros(3, dtype=torch.bool)}
    )
    assert torch.equal(FEATURES(absent), FEATURES(BLANK))


def test_presence_is_per_sample_and_per_key() -> None:
    mask = torch.tensor([True, False, True])
    partly = FEATURES(FULL.with_present({"alpha": mask}))
    whole = FEATURES(FULL)
    without = FEATURES(
        FULL.with_condition({n: x for n, x in FULL.condition.items() if n != "alpha"})
    )
    assert torch.equal(partly[mask], whole[mask])
    assert torch.equal(partly[~mask], without[~mask])
    assert not torch.equal(whole[1], without[1])


def test_different_values_have_different_features() -> None:
    value = torch.linspace(-3, 3, 200)
    batch = Batch.of(torch.zeros(200)).with_condition({"alpha": value})
    features = FEATURES(batch)
    gaps = torch.cdist(features, features) + torch.eye(200)
    assert gaps.min() > 1e-2


def test_unknown_names_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"knows the conditions .* not \['beta'\]"):
        FEATURES(BLANK.with_condition({"beta": torch.zeros(3)}))
    with pytest.raises(ValueError, match="'v' has shape"):
        FEATURES(BLANK.with_condition({"v": torch.zeros(3, 3)}))
    with pytest.raises(ValueError, match="numbers and classes"):
        ConditionFeatures({"a": 1}, {"a": 2})
