"""Schedules made from others: scale, shift, and no signal at the end."""

from __future__ import annotations

import math

import pytest
import torch

from structdiff import Batch, Gaussian, Generator
from structdiff.samplers import Multistep
from structdiff.schedules import (
    Cosine,
    Discrete,
    Exploding,
    Flow,
    Geometric,
    Karras,
    Linear,
    Schedule,
    Shifted,
    SimpleLinear,
    Standard,
    SubVP,
    UniformLogSNR,
    Window,
    ZeroTerminal,
    size_shift,
)
from structdiff.schedules.by_entry import Speeds
from structdiff.schedules.learned import LearnedClock
from structdiff.testing import NormalDenoiser, Silent, walk

ALL = [Linear(), Cosine(), Flow(), SubVP(), Karras(), Geometric(), Discrete.ddpm(), SimpleLinear()]
each = pytest.mark.parametrize("schedule", ALL, ids=lambda s: type(s).__name__)


def grid(points: int = 501) -> torch.Tensor:
    return torch.linspace(0, 1, points, dtype=torch.float64)


@each
def test_standard_changes_units_only(schedule: Schedule) -> None:
    """A09: alpha and sigma over sqrt(alpha^2 + sigma^2); infinite clocks included."""
    ours, inner = Standard(schedule)(grid()), schedule(grid())
    unit = torch.sqrt(inner.alpha**2 + inner.sigma**2)
    torch.testing.assert_close(ours.alpha, inner.alpha / unit, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.sigma, inner.sigma / unit, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.clock, inner.clock, rtol=1e-12, atol=1e-14)


def test_standard_holds_at_infinite_clocks() -> None:
    """Clean before a window, pure noise after it."""
    level = Standard(Window(Flow(), 0.3, 0.6))(torch.tensor([0.1, 0.9]).double())
    assert level.alpha.tolist() == [1, 0]
    assert level.sigma.tolist() == [0, 1]
    assert level.clock.tolist() == [math.inf, -math.inf]


def test_standard_and_exploding_undo_each_other() -> None:
    for a, b in (
        (Exploding(Standard(Karras())), Karras()),
        (Standard(Exploding(Linear())), Linear()),
    ):
        ours, theirs = a(grid()), b(grid())
        torch.testing.assert_close(ours.alpha, theirs.alpha, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours.sigma, theirs.sigma, rtol=1e-12, atol=0)


@each
@pytest.mark.parametrize("b", [0.3, 1.0, 2.5])
def test_shift_moves_the_clock_and_keeps_the_scale(schedule: Schedule, b: float) -> None:
    ours, inner = Shifted(schedule, math.log(b))(grid()), schedule(grid())
    torch.testing.assert_close(ours.clock, inner.clock + math.log(b), rtol=1e-12, atol=1e-12)
    scale = [level.alpha**2 + level.sigma**2 for level in (ours, inner)]
    torch.testing.assert_close(*scale, rtol=1e-12, atol=0)
    if b == 1:
        torch.testing.assert_close(ours.alpha, inner.alpha, rtol=1e-12, atol=0)
        torch.testing.assert_close(ours.sigma, inner.sigma, rtol=1e-12, atol=0)


@each
@pytest.mark.parametrize("b", [0.4, 3.0])
def test_shift_undoes_a_scaling_of_the_data(schedule: Schedule, b: float) -> None:
    """B09: data times b with log-SNR - 2 log b: x_t over its deviation stays, draw by draw."""
    source, rows = torch.Generator().manual_seed(1), 4000
    data = torch.randn(rows, generator=source, dtype=torch.float64) * 0.7
    t = torch.rand(rows, generator=source, dtype=torch.float64) * 0.98 + 0.01

    def seen(process_schedule: Schedule, scale: float) -> torch.Tensor:
        x_0 = scale * data
        process = Gaussian(process_schedule).bind(Batch.of(x_0))
        x_t = process.diffuse(x_0, t, Generator(2))
        level = process_schedule(t)
        return x_t / torch.sqrt((level.alpha * scale * 0.7) ** 2 + level.sigma**2)

    scaled = seen(Shifted(schedule, -math.log(b)), b)
    torch.testing.assert_close(scaled, seen(schedule, 1.0), rtol=1e-9, atol=1e-9)
    assert abs(float(scaled.std()) - 1) < 4 / math.sqrt(2 * rows)


def test_size_shift_keeps_what_is_seen_of_averages() -> None:
    """B09: the mean over patches of (side / base)^2 pixels has the clock of the base schedule."""
    side, base, t = 16, 4, torch.tensor(0.6).double()
    inner, level = Cosine()(t), Shifted(Cosine(), size_shift(side, base))(t)
    pixels = torch.randn(20_000, side // base, side // base, dtype=torch.float64)
    noise = (level.sigma * pixels).mean((1, 2)).std()
    seen = torch.log(level.alpha / noise)
    assert float(seen - inner.clock) == pytest.approx(0, abs=4 / math.sqrt(2 * 20_000))
    assert size_shift(256, 64) == -math.log(4)


def test_zero_terminal_is_algorithm_1_of_lin() -> None:
    """B11: alpha(1) = 0 exactly, the first step unchanged, and the paper's betas between."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    root = torch.cumprod(1 - betas, 0).sqrt()
    paper = (root - root[-1]) * root[0] / (root[0] - root[-1])
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    level = ZeroTerminal(Discrete.ddpm(), first=1e-3)(t)
    torch.testing.assert_close(level.alpha, paper, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(level.sigma, (1 - paper**2).sqrt(), rtol=1e-9, atol=0)
    assert level.alpha[-1] == 0
    assert level.sigma[-1] == 1
    assert level.alpha[0] == Discrete.ddpm().alpha(t[0])
    early = torch.linspace(0, 1e-3, 11, dtype=torch.float64)
    fixed = ZeroTerminal(Discrete.ddpm(), first=1e-3)
    assert torch.equal(fixed.alpha(early), Discrete.ddpm().alpha(early))


@pytest.mark.parametrize(
    ("schedule", "first"), [(Discrete.ddpm(), 1e-3), (Linear(0.1, 6.0), 0.0)], ids=["ddpm", "vp"]
)
def test_zero_terminal_removes_the_bias_of_the_mean(schedule: Schedule, first: float) -> None:
    """B11: the flow from mean 0 misses m by s alpha_T m / sqrt(alpha_T^2 s^2 + sigma_T^2)."""
    mean, std = 1.7, 0.6
    end = schedule(torch.ones(()).double())
    bias = -std * end.alpha * mean / torch.sqrt((end.alpha * std) ** 2 + end.sigma**2)
    assert float(bias) < -5e-3
    for used, expected in ((schedule, float(bias)), (ZeroTerminal(schedule, first), 0.0)):
        denoiser = NormalDenoiser(Gaussian(used), torch.tensor([mean]), torch.tensor([std]))
        sampler = Multistep(denoiser, UniformLogSNR(used, 400, end=1e-5), order=3)
        # Where the mean of the prior goes: through an affine map, the mean of the samples.
        x = {"x": torch.zeros(1, dtype=torch.float64)}
        middle = walk(sampler, x, Silent())["x"]
        last = sampler.bind(Batch.of(x), Silent())
        found = last.denoise({"x": middle}, last.steps - 1, None)["x"].value
        assert float(found) - mean == pytest.approx(expected, abs=1e-4)


BY_ENTRY = Speeds(Linear(), torch.tensor([1.0, 2.0]))


def test_standard_keeps_levels_by_entry_and_the_clock_that_networks_see() -> None:
    """Entries have their own level, networks that of the schedule inside."""
    t = torch.tensor([0.2, 0.7]).double()
    standard = Gaussian(BY_ENTRY, event=(2,)).standard()
    torch.testing.assert_close(standard.clock(t), Linear()(t).clock)
    found, inner = (s(s.spread(t)).clock for s in (standard.schedule, BY_ENTRY))
    assert found.shape == (2, 2)
    torch.testing.assert_close(found, inner)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Exploding(Cosine()), r"alpha\(1\) of schedule Cosine must be positive, got 0"),
        (lambda: ZeroTerminal(Flow()), "must preserve the variance .* wrap it in Standard"),
        (lambda: ZeroTerminal(Cosine()), r"alpha\(1\) of schedule Cosine is 0 already"),
        (lambda: ZeroTerminal(Linear(), first=1.0), r"first must be in \[0, 1\), got 1.0"),
        (lambda: Exploding(BY_ENTRY), r"Speeds has noise levels by entry \(2,\)"),
        (lambda: Shifted(BY_ENTRY, 0.3), "change the schedule inside it"),
        (lambda: ZeroTerminal(BY_ENTRY), "schedule must have one level"),
        (lambda: ZeroTerminal(LearnedClock()), "LearnedClock is learned and its ends would move"),
        (lambda: size_shift(0), "side and base must be positive, got 0 and 64.0"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
