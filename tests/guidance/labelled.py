"""Records with a label `c`: the exact denoiser given it or not, and the exact log p(c | x_t)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    absorbing,
    marginal,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import ClassifierFree
from structdiff.processes import Estimate, Process
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser

LAW = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}
transitions = pytest.mark.parametrize("transition", TRANSITIONS.values(), ids=TRANSITIONS)


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


def unconditional(denoiser: Labelled) -> ClassifierFree:
    return ClassifierFree(denoiser, 0.0)


def grammar(transition: Any, length: int = 2, event: tuple[int, ...] = ()) -> Labelled:
    """All sequences of three symbols, weighted, and labelled by the parity of their sum."""
    data = tokens(every(3, length))
    if event:
        data = Batch.of({"token": data["token"].reshape(-1, *event)})
    source = torch.Generator().manual_seed(length)
    weights = torch.softmax(1.5 * torch.randn(3**length, generator=source), 0)
    labels = torch.tensor([sum(one) % 2 for one in every(3, length)])
    process = Product({"token": Categorical(Flow(), transition, event=event)})
    return Labelled(process, data, weights, labels)


def states(world: Labelled, length: int = 2) -> Batch:
    """All states with either label, without those that no record of the label leads to."""
    symbols = world.process["token"].symbols
    all_of_them = every(symbols, length) * 2
    label = torch.arange(2).repeat_interleave(symbols**length)
    batch = tokens(all_of_them).with_condition({"c": label})
    sound = world.log_prob(batch, {"token": torch.tensor(0.5)}) > -torch.inf
    return batch.select(sound.nonzero().squeeze(1))


def mixed() -> tuple[Labelled, Batch]:
    """Records of four spaces, with noisy ones."""
    process = Product(
        {
            "x": Gaussian(Linear(), event=(2,)),
            "z": Categorical(Flow(), uniform(3)),
            "mask": Categorical(Flow(), absorbing(2)),
            "angle": Brownian(Geometric(0.05, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {
            "x": Generator(7).normal((5, 2), torch.float64, "cpu"),
            "z": torch.tensor([0, 1, 2, 2, 0]),
            "mask": torch.tensor([0, 1, 1, 0, 1]),
            "angle": torch.linspace(-3, 3, 5)[:, None],
        }
    )
    world = Labelled(
        process, data, torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15]), torch.tensor([0, 1, 0, 1, 1])
    )
    bound = process.bind(data)
    noisy = bound.diffuse(data.leaves, bound.times(torch.tensor(0.6)), Generator(3))
    batch = data.with_leaves({**noisy, "mask": torch.full((5,), 2)})
    return world, batch.with_condition({"c": torch.tensor([0, 1, 1, 0, 1])})
