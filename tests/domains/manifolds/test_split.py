"""Parts of data beside torch's, and groups that are not torn."""

import numpy as np
import pytest
import torch
from torch.utils.data import random_split

from structdiff.domains.manifolds.split import by_groups, by_rows

RANDOM = np.random.default_rng(2)


@pytest.mark.parametrize("rows", [10, 19, 827, 6120, 12809])
@pytest.mark.parametrize("seed", [0, 3])
def test_rows_are_split_as_torch_splits_them(rows, seed):
    held = rows // 10
    sizes = [rows - 2 * held, held, held]
    expected = random_split(range(rows), sizes, torch.Generator().manual_seed(seed))
    split = by_rows(rows, 0.1, 0.1, seed)
    assert [part.tolist() for part in split] == [list(part.indices) for part in expected]


def test_shares_are_rounded_down_at_every_size():
    for rows in range(200):
        for tenths in range(5):
            parts = by_rows(rows, tenths / 10, 0.1, 0)
            assert [len(p) for p in parts[1:]] == [rows * tenths // 10, rows // 10]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [[50] * 4, [1] * 30, [90, 3, 3, 3, 1], [1000, *range(1, 60)]])
def test_groups_are_not_torn(sizes, seed):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    RANDOM.shuffle(groups)
    parts = by_groups(groups, 0.1, 0.2, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    inside = [set(groups[part]) for part in parts]
    assert all(inside)
    assert sum(map(len, inside)) == len(sizes)
    for part, share in zip(parts[1:], (0.1, 0.2), strict=True):
        assert len(part) <= max(share * len(groups), sorted(sizes)[1])


def test_groups_differ_by_seed_and_fill_their_share():
    groups = np.repeat(np.arange(200), 5)
    first, again, other = (by_groups(groups, 0.1, 0.1, seed) for seed in (0, 0, 1))
    assert first.test.tolist() == again.test.tolist() != other.test.tolist()
    assert len(first.test) == len(first.validation) == 100


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match="has 2 groups, too few for 3 parts.*data.test to 0"):
        by_groups(np.array(["a", "b", "b"]), 0.1, 0.1, 0)
    assert [len(part) for part in by_groups(np.array(["a", "b", "b"]), 0.4, 0, 0)] == [2, 1, 0]
