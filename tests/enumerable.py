"""Finite worlds: a joint law on K^D records, its exact denoiser, and the exact law of a chain.

A record is D rows of a ragged leaf `x` of event `()`, so that rows can be drawn one by one. A step
is factorised over rows given the record, so the law of a whole record after it is a sum over all
S^D noisy records: no samples, no tolerance.

    world = World.random(classes=3, rows=2)
    process = world.process(Categorical(Flow(), absorbing(3)))
    denoiser = world.denoiser(process)
    law = world.prior(process)
    for i, coefficients in enumerate(process.bind(world.data_batch).plan(times, 1.0)):
        law = world.step(denoiser, law, times[i], coefficients["x"])
    world.distance(law)  # total variation from the data
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from structdiff import Batch, Layout, Product
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate, Process
from structdiff.testing import ExactDenoiser

Measure: TypeAlias = Callable[[Any, Estimate, Tensor, Tensor, Tensor], Tensor]


def records(symbols: int, rows: int) -> Tensor:
    """All records, `(symbols^rows, rows)`, the last row first to change."""
    return torch.tensor(list(product(range(symbols), repeat=rows)))


def together(kernels: Tensor) -> Tensor:
    """Laws of independent rows, `(n, D, S)`, to those of records, `(n, S^D)`."""
    joint = kernels[:, 0]
    for row in kernels.unbind(1)[1:]:
        joint = (joint.unsqueeze(-1) * row.unsqueeze(1)).flatten(1)
    return joint


@dataclass(frozen=True)
class World:
    """A joint law of D rows of K classes.

    Arguments:
        law: Probabilities, `(K,) * D`, float64.
    """

    law: Tensor

    @classmethod
    def random(cls, classes: int, rows: int, seed: int = 0, scale: float = 1.5) -> World:
        """A coupled law of full support; the larger the scale, the lower its entropy."""
        source = torch.Generator().manual_seed(seed)
        logits = scale * torch.randn(classes**rows, generator=source, dtype=torch.float64)
        return cls(torch.softmax(logits, 0).reshape((classes,) * rows))

    @property
    def classes(self) -> int:
        return len(self.law)

    @property
    def rows(self) -> int:
        return self.law.ndim

    @property
    def probability(self) -> Tensor:
        """That of each record of `data_batch`, `(K^D,)`."""
        return self.law.flatten()

    @property
    def entropy(self) -> float:
        """Mean of -log p, in nats a record."""
        return -float(torch.xlogy(self.law, self.law).sum())

    def batch(self, states: Tensor) -> Batch:
        """Records `(n, D)` as a batch of n samples of D rows each."""
        return Batch({"x": states.flatten()}, {"x": Layout.ragged([self.rows] * len(states))})

    @cached_property
    def data_batch(self) -> Batch:
        """Every clean record once."""
        return self.batch(records(self.classes, self.rows))

    def process(self, leaf: Process) -> Any:
        """The process of the one leaf."""
        return Product({"x": leaf})

    def denoiser(self, process: Process) -> ExactDenoiser:
        """E of the oracle given the noisy record, by enumeration."""
        return ExactDenoiser(process, self.data_batch, self.probability)

    def noisy(self, process: Any, t: float) -> Tensor:
        """The law of x_t, `(S^D,)`."""
        return self.probability @ self.noisy_given(process, t)

    def noisy_given(self, process: Any, t: float) -> Tensor:
        """q(x_t | x_0) of each clean record, `(K^D, S^D)`."""
        leaf, x_0 = process["x"], self.data_batch["x"]
        time = torch.full((len(x_0),), t, dtype=torch.float64)
        symbols = torch.arange(leaf.symbols).expand(len(x_0), -1)
        kernel = [leaf.from_clean(time, x_0).log_prob(x_t, x_0) for x_t in symbols.unbind(1)]
        return together(torch.stack(kernel, -1).exp().reshape(-1, self.rows, leaf.symbols))

    def expectation(self, denoiser: Denoiser, t: float, measure: Measure) -> Tensor:
        """E of a number per row, summed over rows, given each clean record: `(K^D,)`.

        Arguments:
            denoiser: What says the estimates.
            t: The time of x_t.
            measure: From the leaf's process (bound), an estimate, x_0, x_t and the time to
                numbers per row.
        """
        process: Any = denoiser.process
        joint = self.noisy_given(process, t)
        live = (joint > 0).any(0)
        states = records(process["x"].symbols, self.rows)[live]
        clean, noisy = joint[:, live].nonzero(as_tuple=True)
        x_0 = self.data_batch["x"].reshape(-1, self.rows)[clean]
        said = self.estimates(denoiser, states, t)["x"].value.reshape(len(states), self.rows, -1)
        estimate = Estimate(said[noisy].flatten(0, 1))
        leaf = process.bind(self.batch(x_0))["x"]
        time = torch.tensor(t, dtype=torch.float64)
        rows = measure(leaf, estimate, x_0.flatten(), states[noisy].flatten(), time)
        total = rows.double().reshape(-1, self.rows).sum(1) * joint[:, live][clean, noisy]
        return total.new_zeros(len(joint)).index_add(0, clean, total)

    def prior(self, process: Any) -> Tensor:
        """The law of independent stationary rows, `(S^D,)`."""
        return together(process["x"].stationary.expand(1, self.rows, -1))[0]

    def estimates(self, denoiser: Denoiser, states: Tensor, t: Any) -> Mapping[str, Estimate]:
        """What a denoiser says of noisy records `(n, D)` at one time."""
        batch = self.batch(states)
        time = torch.as_tensor(t, dtype=torch.float64)
        return denoiser(batch, denoiser.process.bind(batch).times(time), None)

    def step(self, denoiser: Denoiser, law: Tensor, t: Any, coefficients: Any) -> Tensor:
        """The law of x_s, `(S^D,)`, from that of x_t: one step of the denoiser's own process."""
        return self.propagate(law, self.kernels(denoiser, law, t, coefficients))

    def kernels(self, denoiser: Denoiser, law: Tensor, t: Any, coefficients: Any) -> Tensor:
        """Laws of the rows of x_s, `(S^D, D, S)`, zero at noisy records of probability zero."""
        process: Any = denoiser.process
        symbols, live = process["x"].symbols, law > 0
        states = records(symbols, self.rows)[live]
        bound = process.bind(self.batch(states))["x"]
        estimate = self.estimates(denoiser, states, t)["x"]
        log_r = bound.log_kernel(estimate, states.flatten(), coefficients)
        kernels = log_r.new_zeros(len(law), self.rows, symbols)
        kernels[live] = log_r.exp().reshape(-1, self.rows, symbols)
        return kernels

    def propagate(self, law: Tensor, kernels: Tensor) -> Tensor:
        """The law of records after any factorised step with these laws of rows `(S^D, D, S)`."""
        return law @ together(kernels)

    def clean(self, law: Tensor) -> Tensor:
        """The part of a law on `(S^D,)` that lies on clean records, `(K^D,)`."""
        symbols = round(len(law) ** (1 / self.rows))
        return law.reshape((symbols,) * self.rows)[(slice(self.classes),) * self.rows].flatten()

    def distance(self, law: Tensor) -> float:
        """Total variation between a law on `(S^D,)` and the data."""
        clean = self.clean(law)
        outside = float(law.sum() - clean.sum())
        return (float((clean - self.probability).abs().sum()) + outside) / 2

    def divergence(self, law: Tensor) -> float:
        """KL of the data from a law on `(S^D,)`: the nats that its samples cost beyond entropy."""
        cross = -float((self.probability * self.clean(law).log()).sum())
        return cross - self.entropy if math.isfinite(cross) else math.inf


def integral(measure: Callable[[float], Tensor], *, power: int = 5, nodes: int = 32) -> Tensor:
    """Of a function of t over [0, 1], by Gauss-Legendre in t^(1 / power): kinks at 0 are smoothed.

    With power 1 and D + 1 nodes it is exact for the absorbing chain on `Flow`, a polynomial in t.
    """
    places, weights = np.polynomial.legendre.leggauss(nodes)
    values = [
        weight / 2 * power * u ** (power - 1) * measure(u**power)
        for u, weight in zip((places + 1) / 2, weights, strict=True)
    ]
    return torch.stack(values).sum(0)
