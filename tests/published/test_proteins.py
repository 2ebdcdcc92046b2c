"""Backbones of proteins: places, frames and types of residues."""

from __future__ import annotations

import math
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
    UniformTime,
    bound,
    uniform,
)
from structdiff.processes import Process
from structdiff.samplers import Ancestral
from structdiff.spaces import SO3, ZeroCentre
from structdiff.testing import Addressed, ExactDenoiser
from tests.published.draws import normal, uniforms


def residues() -> Product:
    """R^3 without its centre x SO(3) under IGSO(3) x types."""
    return Product(
        {
            "place": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "frame": Brownian(Geometric(0.05, 3.0), SO3()),
            "type": Categorical(Flow(), uniform(5)),
        }
    )


def chains(samples: int, length: int) -> Batch:
    """Chains of residues at random."""
    layout = Layout.ragged([length] * samples)
    rows = samples * length
    place = ZeroCentre().project(2 * normal(rows, 3, seed=1), layout, None)
    frame = SO3().exp(torch.eye(3).expand(rows, 3, 3), 2 * normal(rows, 3, seed=2))
    kinds = (5 * uniforms(rows, seed=3)).long()
    leaves = {"place": place, "frame": frame, "type": kinds}
    return Batch(leaves, dict.fromkeys(leaves, layout))


def test_the_bound_of_places_frames_and_types_is_the_sum_of_their_bounds() -> None:
    """Of independent parts; each alone, with the same noise."""
    process: Any = residues()
    names, two = list(process.offering(Process)), chains(2, 3)
    index = torch.cartesian_prod(*[torch.arange(2)] * 3)
    layout = Layout.ragged([3] * 8)

    def part(name: str, which: Tensor) -> Tensor:
        return two[name].reshape(2, 3, *two[name].shape[1:])[which].flatten(0, 1)

    leaves = {name: part(name, index[:, k]) for k, name in enumerate(names)}
    data = Batch(leaves, dict.fromkeys(names, layout))
    grid = UniformTime(5)
    report = bound(ExactDenoiser(process, data), data, grid, Addressed(3))
    total = torch.zeros(8)
    for name in names:
        own = Product({name: process[name]})
        alone = ExactDenoiser(own, Batch({name: two[name]}, {name: two.layouts[name]}))
        here = Batch({name: leaves[name]}, {name: layout})
        found = bound(alone, here, grid, Addressed(3))
        torch.testing.assert_close(found.total, report.leaf(name), rtol=1e-9, atol=1e-9)
        total = total + found.total
    torch.testing.assert_close(report.total, total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9])
def test_frames_turn_with_the_places(time: float) -> None:
    """A turned chain has the turned estimate: places turn, velocities of frames are their own."""
    process, data, turn = residues(), chains(5, 4), chains(1, 1)["frame"][0]

    def turned(batch: Batch) -> Batch:
        place, frame = batch["place"] @ turn.T, turn @ batch["frame"]
        return batch.with_leaves({**batch.leaves, "place": place, "frame": frame})

    bind: Any = process.bind(data)
    t = bind.times(torch.tensor(time))
    noisy = data.with_leaves(bind.diffuse(data.leaves, t, Generator(0)))
    said = ExactDenoiser(process, data)(noisy, t)
    again = ExactDenoiser(process, turned(data))(turned(noisy), t)
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(again["place"].value, said["place"].value @ turn.T, **close)
    torch.testing.assert_close(again["frame"].value, said["frame"].value, **close)
    torch.testing.assert_close(again["type"].value.exp(), said["type"].value.exp(), **close)
    assert said["frame"].value.norm(dim=1).max() > 1e-3


def test_frames_are_noised_by_igso3() -> None:
    """The law of the angle is the character series, summed here."""
    process: Any = residues()
    frame = SO3().exp(torch.eye(3).expand(4000, 3, 3), normal(4000, 3))
    leaf = process["frame"].bind(Batch.of({"frame": frame}))
    time = torch.tensor(0.8)
    noisy = leaf.diffuse(frame, time, Generator(1))
    angle = SO3().log(frame, noisy).norm(dim=1).sort().values
    tau = float(leaf.schedule(time).sigma) ** 2
    w = torch.linspace(1e-6, math.pi, 2001)
    orders = torch.arange(0.0, 60.0)[:, None]
    series = (2 * orders + 1) * torch.exp(-orders * (orders + 1) * tau / 2)
    series = (series * torch.sin((orders + 0.5) * w) / torch.sin(w / 2)).sum(0)
    density = (1 - torch.cos(w)) / math.pi * series
    law = torch.cumulative_trapezoid(density, w)
    assert float(law[-1]) == pytest.approx(1, abs=1e-5)
    found = torch.searchsorted(angle, w[1:]) / len(angle)
    assert (found - law).abs().max() < 1.63 / math.sqrt(len(angle))  # Kolmogorov-Smirnov, 1 %


def test_chains_come_back_whole() -> None:
    """Places, frames and types of one chain together, not of different ones."""
    process, data = residues(), chains(3, 4)
    walk = Ancestral(ExactDenoiser(process, data), UniformTime(60), eta=1.0)
    blank = data.select([0] * 90)
    blank = Batch(blank.leaves, blank.layouts)
    drawn = walk.sample(blank, Generator(2))
    kinds = drawn["type"].reshape(90, 1, 4) == data["type"].reshape(1, 3, 4)
    which = kinds.all(2).int().argmax(1)
    assert kinds.all(2).any(1).double().mean() > 0.95
    assert (torch.bincount(which, minlength=3) > 10).all()
    gap = (drawn["place"].reshape(90, 4, 3) - data["place"].reshape(3, 4, 3)[which]).norm(dim=2)
    angle = SO3().log(drawn["frame"], data["frame"].reshape(3, 4, 3, 3)[which].flatten(0, 1))
    assert (gap.amax(1) < 0.2).double().mean() > 0.95
    assert (angle.norm(dim=1).reshape(90, 4).amax(1) < 0.3).double().mean() > 0.95
