"""Rewards of what a walk will come to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    Batch,
    Brownian,
    Cosine,
    Gaussian,
    Generator,
    Geometric,
    Product,
)
from structdiff.guidance import Guided, Rewarded
from structdiff.guidance.ahead import LookAhead
from structdiff.schedules.by_entry import Speeds
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.mixtures import Mixture, world
from tests.guidance.worlds import Correlated, Counted

LEAF = Gaussian(Cosine(), event=(2,))

SLOPE = torch.tensor([0.5, -2.0], dtype=torch.float64)

times = pytest.mark.parametrize("t", [0.2, 0.5, 0.8])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear(said: Any, batch: Batch) -> Tensor:
    return said["x"].value @ SLOPE


def points(seed: int = 0) -> Batch:
    return Batch.of(Generator(seed).normal((5, 2), torch.float64, "cpu"))


@times
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_looking_ahead_has_one_direction_for_affine_denoisers(steps, t):
    """G08e: a linear reward of N(m, s^2 I), and of N(0, C) along an eigenvector of C."""
    alike = NormalDenoiser(LEAF, torch.tensor([[0.2, -0.1]]), torch.tensor([0.7]))
    turned = Correlated(LEAF, torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    rows = {"x": torch.full((5, 1), t)}
    cases = [(alike, SLOPE, {"x": torch.tensor(t)}), (turned, torch.tensor([1.0, -1.0]), rows)]
    for denoiser, a, at in cases:
        ahead = LookAhead(denoiser, lambda said, batch, a=a: said["x"].value @ a, steps)
        found = Guided(denoiser, ahead, 1.0)(points(), at)["x"].value
        moved = found - denoiser(points(), at)["x"].value
        unit = a / a.norm()
        along = moved @ unit
        torch.testing.assert_close(moved, along[:, None] * unit, rtol=1e-9, atol=1e-9)
        assert along.min() > 1e-3


@times
def test_looking_no_step_ahead_is_the_reward_of_the_estimate(t):
    """G08e: k = 0 is G07."""
    at = {"x": torch.tensor(t)}

    def reward(said: Any, batch: Batch) -> Tensor:
        return torch.sin(said["x"].value).prod(1)

    found = Guided(Mixture(), LookAhead(Mixture(), reward, 0), 2.0)(points(), at)["x"].value
    expected = Rewarded(Mixture(), reward, 2.0)(points(), at)["x"].value
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_looking_ahead_is_the_reward_after_a_walk(steps):
    """Against DDIM on the same times and central differences; calls are counted."""
    manifold = Torus(2)
    process = Product({"x": LEAF, "angle": Brownian(Geometric(0.1, 3.0), manifold)})
    angle = manifold.uniform(5, Generator(1), torch.float64, "cpu")
    denoiser = Counted(ExactDenoiser(process, Batch.of({"x": points()["x"], "angle": angle})))
    noisy = manifold.uniform(5, Generator(2), torch.float64, "cpu")
    batch = Batch.of({"x": points(1)["x"], "angle": noisy})

    def reward(said: Any, batch: Batch) -> Tensor:
        clean = manifold.exp(batch["angle"], said["angle"].value)
        return linear(said, batch) + torch.sin(clean).sum(1)

    ahead, t = LookAhead(denoiser, reward, steps), process.bind(batch).times(torch.tensor(0.6))
    value = ahead(batch, t)
    assert denoiser.calls == steps + 1
    grid = 0.6 * (1 - torch.arange(steps + 1) / (steps + 1))
    bound = DDIM(denoiser, Fixed(grid)).bind(batch, Generator(0))
    x: Any = batch.leaves
    for i in range(steps):
        x = bound.process.step(x, bound.denoise(x, i, None), bound.coefficients[i], Generator(0))
    end = batch.with_leaves(x)
    last = denoiser(end, process.bind(end).times(grid[-1]))
    torch.testing.assert_close(value, reward(last, end), rtol=1e-9, atol=1e-9)


class Fixed:
    """A grid of these times."""

    def __init__(self, grid: Tensor) -> None:
        self.grid = grid

    def times(self) -> Tensor:
        return self.grid


def test_entries_have_levels_and_times_of_their_own():
    """One entry is given; unit normals lose the cosine of the angle that a step turns."""
    leaf = Gaussian(Speeds(Cosine(), torch.tensor([1.0, 2.0])), event=(2,))
    denoiser = NormalDenoiser(leaf, torch.zeros(1, 2), torch.ones(1))
    batch = points().with_given({"x": torch.tensor([True, False]).expand(5, 2)})
    t = denoiser.process.bind(batch).times(torch.tensor(0.6))
    found = LookAhead(denoiser, linear, 2)(batch, t)
    angle = torch.acos(leaf.schedule.alpha(torch.tensor([[0.6], [0.4], [0.2]]))[:, 1])
    free = torch.cos(angle[:-1] - angle[1:]).prod() * torch.cos(angle[-1])
    expected = batch["x"] @ (SLOPE * torch.stack([torch.ones(()), free]))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_refusals():
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        LookAhead(Mixture(), linear, -1)
    denoiser, _ = world()
    with pytest.raises(
        ValueError, match="not all leaves of the process are Flowing, use Rewarded"
    ):
        LookAhead(denoiser, linear, 2)
