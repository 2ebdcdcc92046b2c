"""Geodesic random walks bound to points, and means of samples within their error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structdiff import Batch, Geometric
from structdiff.processes.langevin import Langevin
from structdiff.schedules import Schedule
from structdiff.spaces import Manifold, UniformLaw
from tests.processes.cases import time

ROWS = 40_000
WIDE: Schedule = Geometric(0.05, 2.0)


def bound(space: Manifold, x: Tensor, steps: int, **options) -> Langevin:
    """Brownian motion by a walk, or one with a drift."""
    law = options.pop("law", None) or UniformLaw(space)
    process = Langevin(options.pop("schedule", WIDE), space, law, steps=steps, **options)
    return process.bind(Batch.of(x))


def many(space: Manifold, rows: int = ROWS) -> Tensor:
    """Copies of the origin."""
    return space.origin(torch.float64, "cpu").expand(rows, *space.point)


def within(values: Tensor, expected: float, extra: float = 0.0) -> None:
    """Within four standard errors of the sample."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < 4 * error + extra


def tau_of(t: float) -> float:
    return float(WIDE.sigma(time(t)) ** 2)
