"""Finite worlds for samplers: estimates by table, and laws of many drawn records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff import Batch, Generator
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers import Walk
from tests.enumerable import World, records


class Table(Denoiser):
    """The exact denoiser of a world, looked up: it says the same of the same noisy record.

    Arguments:
        world: The world.
        process: Its process.
        time: The time at which it is always asked; that of a call by default. On an absorbing
            chain what is known of x_0 does not depend on it.
    """

    def __init__(self, world: World, process: Any, time: float | None = None) -> None:
        super().__init__()
        self.world, self.process, self.time = world, process, time
        self.exact = world.denoiser(process)
        self.tables: dict[float, Tensor] = {}
        self.calls = 0

    def table(self, t: float) -> Tensor:
        """Log-probabilities of every noisy record, `(S^D, D, K)`."""
        if t not in self.tables:
            states = records(self.process["x"].symbols, self.world.rows)
            value = self.world.estimates(self.exact, states, t)["x"].value
            self.tables[t] = value.reshape(len(states), self.world.rows, -1)
        return self.tables[t]

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        del previous
        self.calls += 1
        time = float(t["x"].max()) if self.time is None else self.time
        found = self.table(time)[place(batch["x"], self.process["x"].symbols, self.world.rows)]
        return {"x": Estimate(found.flatten(0, 1))}


def place(x: Tensor, symbols: int, rows: int) -> Tensor:
    """The number of each record."""
    return x.reshape(-1, rows) @ symbols ** torch.arange(rows - 1, -1, -1)


def drawn(walk: Walk, world: World, samples: int, seed: int = 0) -> Tensor:
    """Shares of the clean records among samples, `(K^D,)`."""
    x = torch.zeros(samples, world.rows, dtype=torch.long)
    end = walk.sample(world.batch(x), Generator(seed))["x"]
    count = torch.bincount(
        place(end, world.classes, world.rows), minlength=world.probability.numel()
    )
    return count.double() / samples


def apart(share: Tensor, law: Tensor) -> float:
    """Total variation."""
    return 0.5 * float((share - law).abs().sum())


def noise_of(law: Tensor, samples: int) -> float:
    """A total variation that shares of so many samples of the law stay below.

    Its mean is at most the sum of sqrt(p (1 - p) / (2 pi n)); by McDiarmid's inequality it is
    above that by sqrt(4 / n) with probability below e^-8.
    """
    mean = torch.sqrt(law * (1 - law) / (2 * torch.pi * samples)).sum()
    return float(mean) + (4 / samples) ** 0.5
