"""Records with a label `c`: the exact denoiser given it or not, and the exact log p(c | x_t)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from structdiff import Batch, Layout
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Process
from structdiff.testing import ExactDenoiser


class Labelled(Denoiser):
    """The law of records with weights and labels, given the label where a sample has one."""

    def __init__(self, process: Process, data: Batch, weights: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.process: Any = process
        self.data, self.weights, self.labels = data, weights.double(), labels
        self.free = ExactDenoiser(process, data, weights)

    def given(self, label: int) -> ExactDenoiser:
        chosen = (self.labels == label).nonzero().squeeze(1)
        return ExactDenoiser(self.process, self.data.select(chosen), self.weights[chosen])

    def label(self, batch: Batch) -> Tensor:
        """The label of each sample, -1 where it is not known."""
        everyone = torch.ones(batch.samples, dtype=torch.bool)
        known = batch.present.get("c", everyone) & ("c" in batch.condition)
        return torch.where(known, batch.condition.get("c", -everyone.long()), -1)

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> dict[str, Estimate]:
        label, found = self.label(batch), {}
        for one in label.unique().tolist():
            samples = (label == one).nonzero().squeeze(1)
            rows = {n: layout.rows_of(samples) for n, layout in batch.layouts.items()}
            times = {n: time if time.ndim == 0 else time[rows[n]] for n, time in t.items()}
            law = self.free if one < 0 else self.given(one)
            for n, estimate in law(batch.select(samples), times).items():
                shape = (batch[n].shape[0], *estimate.value.shape[1:])
                found.setdefault(n, estimate.value.new_zeros(shape))
                found[n] = found[n].index_copy(0, rows[n], estimate.value)
        return {n: Estimate(value) for n, value in found.items()}

    def joint(self, batch: Batch, t: Any) -> Tensor:
        """log p(record, x_t) for records that all have as many rows, `(records, samples)`."""
        records, samples = self.data.samples, batch.samples
        sample = torch.arange(samples).repeat(records)
        many = batch.select(sample)
        rows = {n: layout.rows_of(sample) for n, layout in batch.layouts.items()}
        times = {n: time if time.ndim == 0 else time[rows[n]] for n, time in t.items()}
        x_0 = self.data.select(torch.arange(records).repeat_interleave(samples)).leaves
        terms = self.process.bind(many).log_prob(many.leaves, x_0, times)
        per = [many.layouts[name].sum(value) for name, value in terms.items()]
        total = torch.stack(per).sum(0).reshape(records, samples)
        return total + self.weights.log()[:, None]

    def log_prob(self, batch: Batch, t: Any) -> Tensor:
        """log p(c | x_t); -inf at what no record leads to."""
        joint = self.joint(batch, t)
        told = torch.where(self.labels[:, None] == batch.condition["c"], joint, -torch.inf)
        together, all_of_it = torch.logsumexp(told, 0), torch.logsumexp(joint, 0)
        return torch.where(all_of_it == -torch.inf, -torch.inf, together - all_of_it)


def tokens(sequences: list[list[int]]) -> Batch:
    """A ragged leaf `token`, one row a token."""
    layout = Layout.ragged([len(one) for one in sequences])
    return Batch({"token": torch.tensor(sum(sequences, []))}, {"token": layout})


def every(symbols: int, length: int) -> list[list[int]]:
    """All sequences."""
    return [list(one) for one in product(range(symbols), repeat=length)]
