"""Independent normal entries: their exact denoiser, and where walks end, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from structdiff import Batch, Gaussian, Product
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.testing.noise import Impulses


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


class Exact(Denoiser):
    """The denoiser of independent normal entries, by Bayes' rule in the process's coordinates."""

    def __init__(self, process: Gaussian, mean: Tensor, std: Tensor, *, tells: bool) -> None:
        super().__init__()
        self.leaf, self.process = process, Product({"x": process})
        self.mean, self.std, self.tells = mean, std, tells

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> Mapping[str, Estimate]:
        del previous
        x, variance = batch["x"], self.std**2
        level = self.leaf.level(t["x"], x)
        total = level.alpha**2 * variance + level.sigma**2
        value = self.mean + level.alpha * variance / total * (x - level.alpha * self.mean)
        told = {"variance": variance * level.sigma**2 / total} if self.tells else {}
        return {"x": Estimate(value, told)}


def ends(walk: Any, event: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each entry at the end of a walk, exactly, for independent entries."""
    rows = 2 * walk.steps + 3
    x = walk.sample(Batch.of(torch.zeros(rows, *event, dtype=torch.float64)), Impulses())["x"]
    return x[0], (x[1:] - x[0]).square().sum(0)


SPECTRUM = 0.7 ** torch.arange(8, dtype=torch.float64)
"""Deviations that decay."""
