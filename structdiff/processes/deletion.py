r"""Deletion: rows die one by one, so that a sample's size changes along a walk.

Each row of a sample lives on until t with probability alpha_t, whatever the others do, and keeps
its values:

    n_t ~ Binomial(n_0, alpha_t).

Nothing is left at t = 1. The time reversal is a birth process: rows are born at the rate
E[n_0 - n_t | x_t] (-alpha'_t) / (1 - alpha_t), and a born row is one of those that x_0 has beside
x_t. An `Insertion` says both. A step draws the number of births in it, a binomial of the expected
missing rows (rounded at random so that the mean is kept), and then the rows one after another,
each seeing those before it: right to first order, with no model of sizes beside it.

A walk whose batches grow is no walk of a sampler, where rows are fixed: `Deletion.grow` is a loop
of its own. It may make sizes and first values that a sampler then refines (`given`), or all there
is, as for sets of tokens.

References:
    Trans-Dimensional Generative Modeling via Jump Diffusion Models (Campbell et al., 2023).
    https://arxiv.org/abs/2305.16261
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.processes.blackout import binomial_log_prob
from structdiff.processes.draws import draw_class
from structdiff.random import Randomness
from structdiff.schedules import Grid, Schedule

__all__ = ["Deletion", "Insertion"]

_TURNS = 1 << 20
"""More births than a sample has in a step: each has an address of its own."""


class Insertion(ABC):
    """What is known of the rows that a sample has lost."""

    @abstractmethod
    def missing(self, batch: Batch, t: Tensor) -> Tensor:
        """Expected number of rows that each sample has lost, `(samples,)`; of 0 none is born."""

    @abstractmethod
    def insert(
        self, batch: Batch, t: Tensor, samples: Tensor, random: Randomness
    ) -> Mapping[str, Tensor]:
        """A draw of one lost row for each of some samples.

        Arguments:
            batch: The rows that there are.
            t: The time.
            samples: Which samples get a row.
            random: Where its noise comes from, one row for each of them.
        """


class Deletion:
    """Rows that live on with probability alpha.

    Arguments:
        schedule: Its alpha is the probability to live on; it should end at or near 0.

    Raises:
        ValueError: If alpha + sigma of the schedule is not 1.

    Example:
        >>> from structdiff.random import Generator
        >>> from structdiff.schedules import Flow
        >>> batch = Batch({"x": torch.arange(5)}, {"x": Layout.ragged([2, 3])})
        >>> half = Deletion(Flow()).corrupt(batch, -1.0, 0.5, Generator(0))
        >>> half.layouts["x"].counts, half["x"].tolist()
        ((0, 1), [2])
    """

    def __init__(self, schedule: Schedule) -> None:
        level = schedule(torch.linspace(0, 1, 11))
        if not torch.allclose(level.alpha + level.sigma, torch.ones(11).double()):
            mend = "use Flow(), or Survival(schedule) of a variance-preserving one"
            msg = f"the schedule of deletion must have alpha + sigma = 1: {mend}"
            raise ValueError(msg)
        self.schedule = schedule

    def alpha(self, t: float) -> float:
        """The probability to live on until t."""
        return float(self.schedule.alpha(torch.tensor(t, dtype=torch.float64)))

    def corrupt(self, batch: Batch, s: float, t: float, random: Randomness) -> Batch:
        """The rows of time s that live on until t.

        Arguments:
            batch: Rows of time s; `CLEAN` for data. All leaves are of the same rows.
            s: Where they come from.
            t: Where they go, at least s.
            random: Where the noise comes from.

        Raises:
            ValueError: If leaves have different rows or edges, some are given, or t is before s.
        """
        layout = _rows(batch)
        if t < s:
            msg = f"t must be at least s, got {t} after {s}: `grow` goes back to data"
            raise ValueError(msg)
        source = random.scoped(leaf="rows", ids=batch.ids, layout=layout)
        u = source.uniform((layout.rows,), torch.float64, batch.device)
        early = self.alpha(s)
        kept = torch.nonzero(u * early < self.alpha(t)).flatten()
        return _with_rows(
            batch, layout.sample[kept], {n: x[kept] for n, x in batch.leaves.items()}
        )

    def size_log_prob(self, size: Tensor, size_0: Tensor, t: float) -> Tensor:
        """Log-probability of sizes at t, given those of the data."""
        alpha = torch.tensor(self.alpha(t), dtype=torch.float64)
        return binomial_log_prob(size, size_0, alpha)

    @torch.no_grad()
    def grow(self, insertion: Insertion, grid: Grid, batch: Batch, random: Randomness) -> Batch:
        """Walk from no rows to samples.

        Arguments:
            insertion: What is born.
            grid: Times of the steps.
            batch: Gives leaves' shapes, conditions and ids; its rows are dropped.
            random: Where the noise comes from.

        Raises:
            ValueError: If leaves have different rows or edges, or some are given.
        """
        _rows(batch)
        none = torch.zeros(0, dtype=torch.long, device=batch.device)
        batch = _with_rows(batch, none, {n: x[:0] for n, x in batch.leaves.items()})
        times = grid.times()
        sigma = self.schedule(times).sigma
        for i in range(len(times) - 1):
            gone = sigma[i]
            share = (gone - sigma[i + 1]) / gone if gone > 0 else torch.zeros(())
            missing, turn = insertion.missing(batch, times[i]), _TURNS * i
            births = self._births(missing, share, batch, random.scoped(step=turn))
            while bool((births > 0).any()):
                turn, samples = turn + 1, torch.nonzero(births > 0).flatten()
                own = random.scoped(
                    step=turn, ids=batch.ids[samples], layout=Layout.regular(len(samples))
                )
                rows = insertion.insert(batch, times[i], samples, own)
                batch = _joined(batch, samples, rows)
                births = (births - 1) * (insertion.missing(batch, times[i]) > 0)
        return batch

    def _births(self, missing: Tensor, share: Tensor, batch: Batch, random: Randomness) -> Tensor:
        """The number of births of each sample in a step."""
        regular = Layout.regular(batch.samples, batch.device)
        source = random.scoped(leaf="births", ids=batch.ids, layout=regular)
        u, v = (source.uniform((batch.samples,), torch.float64, batch.device) for _ in range(2))
        count = torch.floor(missing.double().clamp(min=0) + u).long()
        outcome = torch.arange(int(count.max()) + 1, device=batch.device)
        law = binomial_log_prob(outcome, count[:, None], share.to(batch.device))
        return draw_class(law, v)


def _rows(batch: Batch) -> Layout:
    """The one layout of all leaves."""
    counts = {name: layout.counts for name, layout in batch.layouts.items()}
    if any(layout.nodes is not None for layout in batch.layouts.values()):
        msg = "deletion cannot take edge rows, which name their nodes: make edges anew afterwards"
        raise ValueError(msg)
    if len(set(counts.values())) > 1 or batch.given:
        must = "deletion needs leaves of the same rows, none of them given"
        msg = f"{must}, got {sorted(counts)} with {sorted(batch.given)} given: give conditions"
        raise ValueError(msg)
    return next(iter(batch.layouts.values()))


def _with_rows(batch: Batch, sample: Tensor, leaves: Mapping[str, Tensor]) -> Batch:
    """The batch with other rows, sorted by sample."""
    counts = torch.bincount(sample, minlength=batch.samples).tolist()
    layout = Layout.ragged(counts, batch.device)
    return replace(batch, leaves=dict(leaves), layouts=dict.fromkeys(leaves, layout))


def _joined(batch: Batch, samples: Tensor, rows: Mapping[str, Tensor]) -> Batch:
    """The batch with one more row at the end of each of some samples."""
    sample = torch.cat([_rows(batch).sample, samples])
    order = torch.argsort(sample, stable=True)
    leaves = {n: torch.cat([x, rows[n].to(x.dtype)])[order] for n, x in batch.leaves.items()}
    return _with_rows(batch, sample[order], leaves)
