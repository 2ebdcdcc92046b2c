"""Worlds with closed conditionals, and denoisers that say anything or count their calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    Product,
    absorbing,
    uniform,
)
from structdiff.denoiser import Denoiser, NetworkDenoiser
from structdiff.processes import Estimate, Process
from structdiff.spaces import SO3, Torus, ZeroCentre

SIZES = [2, 1, 4]
"""Rows of each sample of the ragged leaves of `everything`."""


def everything() -> Product:
    """A leaf of every space."""
    return Product(
        {
            "field": Gaussian(Linear(), event=(3,)),
            "atoms": Gaussian(Cosine(), event=(2,), space=ZeroCentre()),
            "kind": Categorical(Flow(), absorbing(3)),
            "shades": Categorical(Flow(), uniform(3), event=(2,)),
            "angle": Brownian(Geometric(0.02, 4.0), Torus(2)),
            "turn": Brownian(Geometric(0.02, 4.0), SO3()),
        }
    )


def layouts(sizes: list[int]) -> dict[str, Layout]:
    ragged, regular = Layout.ragged(sizes), Layout.regular(len(sizes))
    of = {"field": ragged, "atoms": ragged, "kind": ragged, "angle": ragged}
    return of | {"shades": regular, "turn": regular}


def blank(process: Process, sizes: list[int]) -> Batch:
    of = layouts(sizes)
    return Batch(process.empty({name: layout.rows for name, layout in of.items()}), of)


def clean(process: Process, sizes: list[int], seed: int = 0) -> Batch:
    """Some record of each size: noise is as good as any."""
    empty = blank(process, sizes)
    drawn = process.bind(empty).prior(Generator(seed))
    return empty.with_leaves(drawn | {"kind": empty.layouts["kind"].row % 3})


class Opinion(nn.Module):
    """A network that says something of everything."""

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> dict[str, Tensor]:
        x = batch.leaves
        ladder = torch.arange(3.0)
        said = {"field": torch.sin(3 * x["field"]), "atoms": torch.cos(2 * x["atoms"])}
        said |= {n: torch.sin(ladder * (1 + x[n].unsqueeze(-1))) for n in ("kind", "shades")}
        return said | {"angle": torch.cos(x["angle"]), "turn": x["turn"][:, 0]}


class Counted(Denoiser):
    """Another denoiser that counts its calls and keeps what it was shown."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.process = denoiser, denoiser.process
        self.shown: list[Any] = []

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        self.shown.append(previous)
        estimate: Mapping[str, Estimate] = self.denoiser(batch, t, previous)
        return estimate

    @property
    def calls(self) -> int:
        return len(self.shown)


def opinionated() -> Counted:
    return Counted(NetworkDenoiser(Opinion(), everything()))


class Correlated(Denoiser):
    """The exact denoiser of N(0, covariance) on a leaf `x` of event (d,), at any times."""

    def __init__(self, process: Gaussian, covariance: Tensor) -> None:
        super().__init__()
        self.leaf, self.process = process, Product({"x": process})
        self.covariance = covariance

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> dict[str, Estimate]:
        x = batch["x"]
        level = self.leaf.level(t["x"], x)
        alpha, sigma = level.alpha.expand_as(x), level.sigma.expand_as(x)
        noisy = alpha[:, :, None] * self.covariance * alpha[:, None] + torch.diag_embed(sigma**2)
        solved = alpha * torch.linalg.solve(noisy, x)
        return {"x": Estimate(solved @ self.covariance)}
