"""Batches are a function of the seed and their number, and cost no more than the budget."""

import numpy as np
import pytest
import torch

from structdiff.batch import Batch, Part
from structdiff.training import Source

COSTS = np.random.default_rng(0).integers(0, 40, 200).astype(float)


def make(samples=10, **settings):
    return Source(samples, lambda i: Batch.of(torch.from_numpy(i)), **settings)


def rows(source, numbers):
    return [source(n)["x"].tolist() for n in numbers]


def test_an_epoch_holds_each_sample_once_and_epochs_differ():
    source = make(12, batch_size=4)
    epochs = [sum(rows(source, range(3 * k, 3 * k + 3)), []) for k in range(4)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("by_cost", [False, True])
def test_a_batch_depends_on_seed_and_number_only(by_cost):
    settings = {"costs": COSTS, "budget": 100} if by_cost else {}
    numbers = [0, 40, 3, 120, 3, 41, 0]
    source = make(200, batch_size=7, seed=3, **settings)
    fresh = [make(200, batch_size=7, seed=3, **settings)(n)["x"].tolist() for n in numbers]
    assert rows(source, numbers) == fresh
    assert fresh[2] == fresh[4]
    other = make(200, batch_size=7, seed=4, **settings)
    assert rows(other, [0, 3]) != [fresh[0], fresh[2]]


def test_batches_by_cost_cover_an_epoch_within_the_budget():
    source = make(200, batch_size=1, costs=COSTS, budget=100)
    for epoch in range(3):
        batches = source._cut(epoch)
        assert sorted(np.concatenate(batches)) == list(range(200))
        totals = np.array([COSTS[batch].sum() for batch in batches])
        assert totals.max() <= 100
        # None could have taken in the largest sample of the next, which came after it.
        assert all(t + COSTS[b].max() > 100 for t, b in zip(totals, batches[1:], strict=False))


def test_a_sample_above_the_budget_is_a_batch_of_its_own():
    source = make(4, batch_size=1, costs=[1, 1, 50, 1], budget=3)
    batches = [set(batch) for batch in source._cut(0)]
    assert {2} in batches
    assert set().union(*batches) == {0, 1, 2, 3}


@pytest.mark.parametrize("by_cost", [False, True])
def test_shards_partition_a_batch_and_their_means_average_to_its_mean(by_cost):
    settings = {"costs": COSTS, "budget": 60} if by_cost else {}
    whole = make(200, batch_size=7, **settings)
    shards = [make(200, batch_size=7, shard=(rank, 3), **settings) for rank in range(3)]
    empty = 0
    for number in range(40):
        parts = [s(number)["x"] for s in shards]
        shares = [s.share(number) for s in shards]
        empty += shares.count(0.0)
        joined = sum([p.tolist() for p, w in zip(parts, shares, strict=True) if w], [])
        assert sorted(joined) == sorted(whole(number)["x"].tolist())
        mean = sum(float(p.double().mean()) * w for p, w in zip(parts, shares, strict=True)) / 3
        assert mean == pytest.approx(float(whole(number)["x"].double().mean()), rel=1e-12)
    assert (empty > 0) == by_cost


def test_a_small_data_set_is_one_batch():
    assert sorted(make(3, batch_size=8)(5)["x"].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("by_cost", [False, True])
def test_a_batch_says_which_samples_of_the_data_and_of_the_whole_batch_it_holds(by_cost):
    settings = {"costs": COSTS, "budget": 60} if by_cost else {}
    whole = make(200, batch_size=7, **settings)
    for number in range(40):
        for rank in range(3):
            source = make(200, batch_size=7, shard=(rank, 3), **settings)
            batch, indices = source(number), whole.indices(number)
            assert batch.ids.tolist() == batch["x"].tolist()
            places = batch.part.places(batch.samples)
            assert batch.part.total == len(indices) == len(set(indices.tolist()))
            assert indices[places.numpy()].tolist() == batch.ids.tolist()


def test_a_part_of_a_batch_is_kept_with_its_samples_and_dropped_with_some():
    batch = make(10, batch_size=6, shard=(1, 2))(0)
    assert batch.part == Part(1, 2, 6)
    same = (
        batch.to("cpu"),
        batch.only("x"),
        batch.with_leaves({"x": batch["x"]}),
        batch.with_given({"x": torch.ones(3, dtype=torch.bool)}),
    )
    assert [other.part for other in same] == [batch.part] * 4
    assert batch.select([0, 2]).part is None
    assert Batch.of(torch.zeros(3)).part is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no samples to train on"):
        make(0, batch_size=1)
    with pytest.raises(ValueError, match="batch_size = 2 is below the number of processes, 3"):
        make(5, batch_size=2, shard=(0, 3))
    twice = Source(4, lambda i: Batch.of(torch.cat([torch.from_numpy(i)] * 2)), batch_size=2)
    with pytest.raises(ValueError, match="collate returned 4 samples for 2 indices"):
        twice(0)


def test_in_batches_cut_by_cost_the_place_does_not_follow_the_size() -> None:
    """Stratified times go by place, and must not go by size."""
    costs = np.array([1.0, 2.0, 6.0] * 400)
    source = Source(
        len(costs),
        lambda index: Batch.of(torch.from_numpy(index)),
        batch_size=1,
        costs=costs.tolist(),
        budget=16.0,
    )
    places: dict[float, list[float]] = {}
    for number in range(400):
        index = source.indices(number)
        for place, sample in enumerate(index.tolist()):
            places.setdefault(costs[sample], []).append((place + 0.5) / len(index))
    for found in places.values():
        assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / len(found) ** 0.5
