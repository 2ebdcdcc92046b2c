"""Schedules between other ends and at another pace."""

from __future__ import annotations

import pytest
import torch

from structdiff import Batch, Cosine, Gaussian, Generator, Geometric, Linear
from structdiff.likelihood import continuous_bound
from structdiff.objectives import UniformClock
from structdiff.schedules import Flow, Karras, Rescaled, Sigmoid, Warped
from structdiff.schedules.by_entry import Speeds
from structdiff.schedules.learned import LearnedClock
from structdiff.testing import NormalDenoiser

T = torch.linspace(0, 1, 41, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [Geometric(), Karras(), Geometric(0.5, 3.0)])
def test_the_clock_is_an_affine_image_with_the_ends_asked_for(schedule) -> None:
    level, moved = schedule(T), Rescaled(schedule, 4.0, -3.0)(T)
    assert moved.clock[[0, -1]].tolist() == pytest.approx([4.0, -3.0])
    ratio = moved.clock.diff() / level.clock.diff()
    torch.testing.assert_close(ratio, ratio[:1].expand(40), rtol=1e-6, atol=0)
    torch.testing.assert_close(moved.alpha**2 + moved.sigma**2, torch.ones_like(T))


@pytest.mark.parametrize("schedule", [Linear(), Flow(), Cosine(), Sigmoid(), Geometric()])
@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_warp_moves_times_and_no_level(schedule, power: float) -> None:
    warped = Warped(schedule, lambda t: t**power)
    for ours, theirs in zip(warped(T), schedule(T**power), strict=True):
        torch.testing.assert_close(ours, theirs)
    inside = T[1:-1]
    slope = power * inside ** (power - 1) * schedule.slope(inside**power)
    torch.testing.assert_close(warped.slope(inside), slope, rtol=1e-5, atol=1e-8)


def test_the_continuous_bound_does_not_see_the_pace() -> None:
    data = Batch.of(torch.linspace(-2, 2, 400, dtype=torch.float64)[:, None])
    mean, std = torch.zeros(1, 1).double(), torch.tensor([0.5]).double()  # a wrong model
    found = []
    for schedule in (Linear(), Warped(Linear(), lambda t: (t + t**2) / 2)):
        denoiser = NormalDenoiser(Gaussian(schedule, event=(1,)), mean, std)
        low = float(schedule.time(torch.tensor(2.5)))
        law = UniformClock(schedule, low, 1.0)
        found.append(continuous_bound(denoiser, data, Generator(0), draws=400, times=law))
    first, second = (float(bound.total.mean()) for bound in found)
    error = sum(bound.mean_error() for bound in found)
    assert first == pytest.approx(second, abs=3 * error)
    assert error < 0.1 * first


def test_refusals() -> None:
    with pytest.raises(ValueError, match="last must be below first"):
        Rescaled(Linear(), -1.0, 1.0)
    with pytest.raises(ValueError, match="infinite ends cannot be moved"):
        Rescaled(Flow(), 5.0, -5.0)
    with pytest.raises(ValueError, match="warp must rise from 0"):
        Warped(Linear(), lambda t: 1 - t)
    with pytest.raises(ValueError, match="its ends are 0 and 0.5"):
        Warped(Linear(), lambda t: t / 2)
    with pytest.raises(ValueError, match="LearnedClock is learned and its ends would move"):
        Rescaled(LearnedClock(), 5.0, -5.0)
    by_entry = Speeds(Linear(), torch.tensor([1.0, 2.0]))
    for make in (lambda: Rescaled(by_entry, 5.0, -5.0), lambda: Warped(by_entry, torch.square)):
        with pytest.raises(ValueError, match=r"Speeds has noise levels by entry \(2,\)"):
            make()
