"""Nearest training samples: enumeration, and a model that copies."""

from importlib import import_module

import pytest
import torch

from structdiff.metrics.nearest import copying, nearest

MODULE = import_module("structdiff.metrics.nearest")  # the room has a function of that name


def _normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("together", [1, 7, 1 << 20])
@pytest.mark.parametrize("block", [1, 6, 50])
def test_neighbours_are_those_of_enumeration(monkeypatch, together, block):
    monkeypatch.setattr(MODULE, "_TOGETHER", together)
    x, train = _normal(0, 9, 2, 3), _normal(1, 50, 2, 3)
    found = nearest(x, train.split(block))
    far = (x[:, None] - train).flatten(2).square().mean(2).sqrt()
    assert torch.equal(found.place, far.argmin(1))
    torch.testing.assert_close(found.distance, far.amin(1))


def test_a_copy_is_at_a_distance_of_zero_to_the_last_digit():
    train = _normal(0, 40, 1, 5, 5) + 1000  # squares lose what copies differ by
    found = nearest(train[[7, 3]], train.split(16))
    assert found.place.tolist() == [7, 3]
    assert found.distance.tolist() == [0, 0]


def test_a_model_of_the_law_is_as_near_as_held_out_samples_and_one_that_copies_is_nearer():
    train, held, drawn = _normal(0, 400, 3), _normal(1, 1000, 3), _normal(2, 1000, 3)
    fresh = copying(drawn, held, lambda: train.split(64), share=0.1)
    error = (2 * 0.1 * 0.9 / 1000) ** 0.5  # of the share and of its threshold
    assert fresh.nearer.value == pytest.approx(0.1, abs=3 * error)
    half = torch.cat([drawn[:500], train + 1e-4 * _normal(3, 400, 3), train[:100]])
    copied = copying(half, held, lambda: train.split(64), share=0.1)
    assert copied.nearer.value == pytest.approx(0.5 + fresh.nearer.value / 2, abs=0.03)
    assert copied.threshold == fresh.threshold


def test_what_cannot_be_looked_for_is_refused():
    with pytest.raises(ValueError, match="training samples have shape"):
        nearest(torch.zeros(2, 3), [torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="no training samples"):
        nearest(torch.zeros(2, 3), [])
    with pytest.raises(ValueError, match="0 drawn"):
        copying(torch.zeros(0, 3), torch.zeros(2, 3), lambda: [torch.zeros(2, 3)])
