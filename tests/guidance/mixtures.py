"""Labelled mixtures on R^2 and labelled records, with exact denoisers given any label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Product,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Process
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser
from tests.guidance.worlds import Counted


def matching(batch: Batch, labels: Mapping[str, Tensor]) -> Tensor:
    """Which components have the labels that a sample is given, `(samples, components)`."""
    match = torch.ones(batch.samples, len(next(iter(labels.values()))), dtype=torch.bool)
    for name, value in batch.condition.items():
        known = batch.present.get(name, torch.ones(batch.samples, dtype=torch.bool))
        match &= ~known[:, None] | (value[:, None] == labels[name])
    return match


class Mixture(Denoiser):
    """The exact denoiser of labelled normals on R^2, given any of their labels."""

    labels = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])}
    means = torch.tensor([[-1.0, 0.5], [0.3, -0.7], [1.2, 0.9], [-0.4, -1.5]]).double()
    stds = torch.tensor([0.5, 0.8, 0.4, 0.6]).double()
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2]).double()

    def __init__(self) -> None:
        super().__init__()
        self.leaf = Gaussian(Cosine(), event=(2,))
        self.process = Product({"x": self.leaf})

    def components(self, x: Tensor, t: Tensor, match: Tensor) -> Tensor:
        """log w_k + log N(x; alpha m_k, alpha^2 s_k^2 + sigma^2) up to a constant."""
        level = self.leaf.level(t, x)
        variance = (level.alpha * self.stds) ** 2 + level.sigma**2
        gap = ((x[:, None] - level.alpha * self.means) ** 2).sum(-1)
        log_p = self.weights.log() - gap / (2 * variance) - torch.log(variance)
        return torch.where(match, log_p, -torch.inf)

    def log_density(self, x: Tensor, t: Tensor, match: Tensor) -> Tensor:
        """log p_t(x given the labels), up to a constant."""
        return torch.logsumexp(self.components(x, t, match), -1)

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> dict[str, Estimate]:
        x = batch["x"]
        level = self.leaf.level(t["x"], x)
        share = torch.softmax(self.components(x, t["x"], matching(batch, self.labels)), -1)
        keep = level.alpha * self.stds**2 / ((level.alpha * self.stds) ** 2 + level.sigma**2)
        each = self.means + keep[:, None] * (x[:, None] - level.alpha * self.means)
        return {"x": Estimate((share[..., None] * each).sum(1))}


POINTS = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

A, B = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1, 1, 0, 0, 1])


def labelled(conditions: Mapping[str, Tensor]) -> Batch:
    return Batch.of(POINTS).with_condition(dict(conditions))


def score(denoiser: Denoiser, batch: Batch, t: float) -> Tensor:
    """(alpha estimate - x) / sigma^2."""
    time = torch.tensor(t)
    level = Mixture().leaf.level(time, POINTS)
    estimate = denoiser(batch, {"x": time})["x"].value
    return (level.alpha * estimate - batch["x"]) / level.sigma**2


def gradient(powers: Mapping[tuple[str, ...], float], t: float) -> Tensor:
    """grad log of the product of p_t(x given these conditions) to these powers, by autograd."""
    world, x = Mixture(), POINTS.clone().requires_grad_()
    total = torch.zeros(())
    for names, power in powers.items():
        chosen = labelled({name: {"a": A, "b": B}[name] for name in names})
        log_p = world.log_density(x, torch.tensor(t), matching(chosen, world.labels))
        total = total + power * log_p.sum()
    (slope,) = torch.autograd.grad(total, x)
    return slope


class Records(Denoiser):
    """The exact denoiser of records that have a label `c`, given it or not."""

    def __init__(self, process: Process, data: Batch, weights: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.process, self.data, self.weights = process, data, weights
        self.labels = {"c": labels}

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> dict[str, Estimate]:
        patterns, pattern = torch.unique(matching(batch, self.labels), dim=0, return_inverse=True)
        order, found = pattern.argsort(stable=True), []
        for k, match in enumerate(patterns):
            chosen = match.nonzero().squeeze(1)
            law = ExactDenoiser(self.process, self.data.select(chosen), self.weights[chosen])
            found.append(law(batch.select((pattern == k).nonzero().squeeze(1)), t))
        joined = {n: torch.cat([one[n].value for one in found]) for n in batch.leaves}
        return {n: Estimate(value[order.argsort()]) for n, value in joined.items()}


WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15]).double()

LABELS = torch.tensor([0, 1, 0, 1, 0])


def world() -> tuple[Counted, Batch]:
    """Records of three leaves and their labels, beside noisy ones."""
    process = Product(
        {
            "x": Gaussian(Cosine(), event=(2,)),
            "z": Categorical(Flow(), uniform(3)),
            "angle": Brownian(Geometric(0.05, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {
            "x": POINTS,
            "z": torch.tensor([0, 1, 2, 2, 0]),
            "angle": torch.linspace(-3, 3, 5)[:, None],
        }
    )
    noisy = Batch.of(process.bind(data).prior(Generator(3)))
    denoiser = Counted(Records(process, data, WEIGHTS, LABELS))
    return denoiser, noisy.with_condition({"c": torch.tensor([0, 1, 1, 0, 1])})


def absent(batch: Batch) -> Batch:
    return batch.with_present({"c": torch.zeros(batch.samples, dtype=torch.bool)})


def same(one: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> bool:
    return all(torch.equal(e.value, other[name].value) for name, e in one.items())
