"""Which samples each update sees: a function of the seed and the update alone.

So a resumed run sees what it would have seen, and no position has to be stored. An epoch is a
permutation of the samples cut into batches, of a fixed number of samples or of a fixed cost; no
batch holds a sample twice. A batch's ids are the indices of its samples in the data, and its
`part` says which samples of the whole batch they are, so that noise drawn by id and times drawn
for the whole batch are the same for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from structdiff.batch import Batch, Part

__all__ = ["Source"]


class Source:
    """Batches by number.

    Arguments:
        samples: Number of samples.
        collate: Makes a batch of samples from their indices, in that order.
        batch_size: Samples per batch.
        costs: Cost of each sample, `(samples,)`; with `budget`, batches are cut by cost.
        budget: Largest cost of a batch; a sample that costs more is a batch of its own.
        seed: Start of the permutations.
        shard: This process's number and how many there are; each sees its part of every batch.

    Raises:
        ValueError: If there are no samples, or fewer in a batch than processes.

    Example:
        >>> import torch
        >>> x = torch.arange(4.0)
        >>> source = Source(4, lambda index: Batch.of(x[index]), batch_size=2)
        >>> sorted(torch.cat([source(0)["x"], source(1)["x"]]).tolist())
        [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        samples: int,
        collate: Callable[[NDArray[np.int64]], Batch],
        *,
        batch_size: int,
        costs: Sequence[float] | None = None,
        budget: float | None = None,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        if samples < 1:
            msg = "there are no samples to train on"
            raise ValueError(msg)
        if batch_size < shard[1]:
            msg = f"batch_size = {batch_size} is below the number of processes, {shard[1]}"
            raise ValueError(msg)
        self.samples, self.collate, self.batch_size = samples, collate, batch_size
        self.costs = None if budget is None or costs is None else np.asarray(costs, np.float64)
        self.budget, self.seed, self.shard = budget, seed, shard
        self._epoch: tuple[int, int, list[NDArray[np.int64]]] = (-1, 0, [])

    def _cut(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch; a last one that is too small is left out."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.samples)
        if self.costs is None or self.budget is None:
            size = min(self.batch_size, self.samples)
            ends = np.arange(size, self.samples + 1, size)
            return np.split(order, ends)[: len(ends)]
        return self._cut_by_cost(order, self.costs[order], self.budget, epoch)

    def _cut_by_cost(
        self, order: NDArray[np.int64], costs: NDArray[np.float64], budget: float, epoch: int
    ) -> list[NDArray[np.int64]]:
        """Batches within the budget, each in a random order.

        Cut as they come, batches begin with large samples; and where times are stratified, the
        place of a sample decides its time.
        """
        ends = _ends_by_cost(costs, budget)
        random = np.random.default_rng([self.seed, epoch, 1])
        return [random.permutation(batch) for batch in np.split(order, ends)[: len(ends)]]

    def indices(self, number: int) -> NDArray[np.int64]:
        """Samples of batch `number`, those of all processes."""
        epoch, first, batches = self._epoch
        if number < first or epoch < 0:
            epoch, first, batches = 0, 0, self._cut(0)
        while number >= first + len(batches):
            epoch, first, batches = epoch + 1, first + len(batches), self._cut(epoch + 1)
        self._epoch = (epoch, first, batches)
        return batches[number - first]

    def __call__(self, number: int) -> Batch:
        """This process's part of batch `number`; where it is empty, a sample of `share` 0.

        Raises:
            ValueError: If `collate` returned another number of samples.
        """
        rank, world = self.shard
        indices = self.indices(number)
        mine, first = (indices[rank::world], rank) if rank < len(indices) else (indices[:1], 0)
        batch = self.collate(mine)
        if batch.samples != len(mine):
            msg = (
                f"collate returned {batch.samples} samples for {len(mine)} indices: it must "
                "return one for each"
            )
            raise ValueError(msg)
        ids = torch.from_numpy(mine).to(batch.device)
        return replace(batch, ids=ids, part=Part(first, world, len(indices)))

    def share(self, number: int) -> float:
        """Weight of this process's mean, so that the mean over processes is that of the batch."""
        rank, world = self.shard
        indices = self.indices(number)
        return len(indices[rank::world]) * world / len(indices)


def _ends_by_cost(costs: NDArray[np.float64], budget: float) -> NDArray[np.int64]:
    """Ends of the longest runs whose cost stays within the budget."""
    total = np.concatenate([[0.0], np.cumsum(costs)])
    ends, start = [], 0
    while start < len(costs):
        end = int(np.searchsorted(total, total[start] + budget, side="right")) - 1
        start = max(end, start + 1)
        ends.append(start)
    return np.asarray(ends)
