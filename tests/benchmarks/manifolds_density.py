"""Likelihoods of `manifolds.py`: the probability flow in steps of the logarithm of the noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.processes import GeodesicFlow

TOGETHER = 256


def log_density(
    denoiser: NetworkDenoiser, space: Any, x: Tensor, noise: float, steps: int = 20
) -> Tensor:
    """Log density of points of one leaf by the probability flow, `(rows,)`."""
    process: Any = denoiser.process
    (name,) = process.geometry
    leaf, low = process[name], math.log(noise)
    flow = isinstance(leaf, GeodesicFlow)
    high = 0.0 if flow else leaf.schedule.high
    parts = [
        _density(denoiser, space, name, part, (low, high), steps, flow=flow)
        for part in x.float().split(TOGETHER)
    ]
    return torch.cat(parts)


@torch.no_grad()
def _density(
    denoiser: NetworkDenoiser,
    space: Any,
    name: str,
    x: Tensor,
    ends: tuple[float, float],
    steps: int,
    *,
    flow: bool,
) -> Tensor:
    """The same for a block: Runge-Kutta's fourth order in s = log(noise)."""
    batch = Batch.of({name: x})
    schedule: Any = denoiser.process[name].schedule  # type: ignore[index]

    def field(y: Tensor, s: float) -> Tensor:
        # dx/ds = -estimate, for the heat kernel with s = log sigma and for a flow with s = log t.
        time = math.exp(s) if flow else (s - schedule.low) / (schedule.high - schedule.low)
        t = torch.tensor(min(max(time, 0.0), 1.0), dtype=torch.float64)
        return -denoiser(batch.with_leaves({name: y}), {name: t})[name].value

    def rates(y: Tensor, s: float) -> tuple[Tensor, Tensor]:
        frame = space.frame(y)
        v, turned = vmap(
            lambda e: jvp(lambda z: field(z, s), (y,), (e,)), in_dims=1, out_dims=(None, 1)
        )(frame)
        return v, (turned * frame).sum((1, 2))

    h, total, y = (ends[1] - ends[0]) / steps, x.new_zeros(len(x)), x
    for i in range(steps):
        s = ends[0] + i * h
        k1, d1 = rates(y, s)
        k2, d2 = rates(space.project(y + h / 2 * k1), s + h / 2)
        k3, d3 = rates(space.project(y + h / 2 * k2), s + h / 2)
        k4, d4 = rates(space.project(y + h * k3), s + h)
        y = space.project(y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return total.double() - space.log_volume
