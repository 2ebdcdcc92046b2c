"""At which times a model is trained."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from structdiff import Cosine, Generator, Karras, Linear
from structdiff.batch import Batch, Part
from structdiff.counter import Counter
from structdiff.objectives import (
    Denoising,
    LogUniformTimes,
    NormalClock,
    PowerTimes,
    TimeDistribution,
    UniformClock,
    UniformTimes,
)
from structdiff.schedules import CLEAN, Discrete, Flow, Schedule, Survival

LAWS = {
    "uniform": UniformTimes(),
    "part": UniformTimes(0.2, 0.6),
    "square": PowerTimes(2.0, 1e-3),
    "root": PowerTimes(0.5, 0.1, 0.9),
    "log": LogUniformTimes(1e-3, 0.9),
    "normal karras": NormalClock(Karras()),
    "normal cosine": NormalClock(Cosine(), mean=0.3, std=1.5),
    "clock": UniformClock(Linear(), 1e-3, 1.0),
    "clock of a chain": UniformClock(Survival(Discrete.ddpm(100)), 0.1, 0.95),
}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())


@laws
def test_quantiles_rise_within_range(law: TimeDistribution) -> None:
    t = law.quantile(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert bool((t.diff() > 0).all())
    assert 0 <= t[0] < t[-1] <= 1


@laws
def test_draws_are_low_discrepancy(law: TimeDistribution) -> None:
    """One in each of n parts of equal probability."""
    drawn = law.draw(64, Generator(0))
    edges = law.quantile(torch.linspace(0, 1, 65, dtype=torch.float64))
    assert drawn.dtype == torch.float64
    assert bool(((drawn >= edges[:-1]) & (drawn < edges[1:])).all())


@laws
@pytest.mark.parametrize(("samples", "parts"), [(12, 3), (7, 2), (5, 8)])
def test_parts_of_a_batch_have_the_times_of_the_whole(
    law: TimeDistribution, samples: int, parts: int
) -> None:
    whole, joined = law.draw(samples, Counter(4)), torch.full((samples,), torch.nan).double()
    for first in range(min(parts, samples)):
        part = Part(first, parts, samples)
        count = len(range(first, samples, parts))
        joined[first::parts] = law.draw(count, Counter(4), part=part)
    assert torch.equal(joined, whole)
    assert torch.equal(law.draw(samples, Counter(4), part=Part(0, 1, samples)), whole)


@pytest.mark.parametrize("independent", [False, True])
def test_leaves_of_a_part_have_the_times_of_the_whole(independent: bool) -> None:
    objective = Denoising(independent=independent)

    def drawn(samples: int, part: Part | None) -> dict[str, torch.Tensor]:
        batch = Batch.of({"a": torch.zeros(samples), "b": torch.zeros(samples)})
        return objective.draw_times(replace(batch, part=part), Counter(1))

    whole = drawn(7, None)
    assert torch.equal(whole["a"], whole["b"]) != independent
    for first in range(3):
        some = drawn(len(range(first, 7, 3)), Part(first, 3, 7))
        for name, times in whole.items():
            assert torch.equal(some[name], times[first::3])


@laws
def test_the_mean_is_kept_and_the_variance_falls(law: TimeDistribution) -> None:
    """Kingma I.1: of the mean of f(t) over 32 draws, against independent draws."""
    random, repeats, n = Generator(0), 400, 32

    def f(t: torch.Tensor) -> torch.Tensor:
        return torch.exp(-3 * t) + t**2

    truth = float(f(law.quantile((torch.arange(200_000).double() + 0.5) / 200_000)).mean())
    ours = torch.stack([f(law.draw(n, random)).mean() for _ in range(repeats)])
    alone = f(law.quantile(random.uniform((repeats, n), torch.float64, "cpu"))).mean(1)
    assert abs(float(ours.mean()) - truth) < 4 * float(ours.std()) / math.sqrt(repeats)
    assert abs(float(alone.mean()) - truth) < 4 * float(alone.std()) / math.sqrt(repeats)
    assert float(ours.var()) < float(alone.var()) / 10


@pytest.mark.parametrize(
    ("schedule", "mean", "std"),
    [(Karras(), -1.2, 1.2), (Cosine(), 0.0, 2.0), (Linear(), -4.0, 1.0)],
)
def test_normal_clock_is_a_truncated_normal(schedule: Schedule, mean: float, std: float) -> None:
    """B06: quantiles of log(sigma / alpha) against scipy."""
    ends = -schedule(torch.tensor([0.0, 1.0]).double()).clock
    low, high = ((ends - mean) / std).tolist()
    u = torch.linspace(0.001, 0.999, 499, dtype=torch.float64)
    truth = stats.truncnorm.ppf(u.numpy(), low, high, loc=mean, scale=std)
    ours = -schedule(NormalClock(schedule, mean, std).quantile(u)).clock
    torch.testing.assert_close(ours, torch.from_numpy(truth), rtol=0, atol=2e-3)


@laws
def test_density_is_one_over_the_slope_of_the_quantiles(law: TimeDistribution) -> None:
    u = (torch.arange(0, 4096, 4, dtype=torch.float64)[:1000] + 0.5) / 4096  # between kinks
    t, h = law.quantile(u), 1e-7
    slope = (law.quantile(u + h) - law.quantile(u - h)) / (2 * h)
    torch.testing.assert_close(law.density(t), 1 / slope, rtol=1e-5, atol=0)
    assert law.density(t).dtype == law.density(t.float()).dtype == torch.float64
    torch.testing.assert_close(law.density(t.reshape(10, 100)), law.density(t).reshape(10, 100))


@laws
def test_density_integrates_to_the_probability_of_each_part(law: TimeDistribution) -> None:
    """Of the whole range 1, and of 20 parts the share of 100,000 draws; 0 outside."""
    edges = torch.linspace(0, 1, 21, dtype=torch.float64)
    fine = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    mass = law.density(fine).reshape(20, -1).sum(1) / 400_000
    assert float(mass.sum()) == pytest.approx(1, abs=6e-4)  # a density may have a pole
    drawn = law.draw(100_000, Generator(3))
    share = torch.histogram(drawn, edges).hist / 100_000
    # Low-discrepancy draws: each edge is off by at most one draw.
    torch.testing.assert_close(mass, share, rtol=0, atol=6e-4)
    first, last = law.quantile(torch.tensor([0.0, 1.0]).double()).tolist()
    outside = torch.tensor([CLEAN, first - 1e-9, last + 1e-9], dtype=torch.float64)
    assert law.density(outside).tolist() == [0.0] * 3


@pytest.mark.parametrize("schedule", [Karras(), Cosine()])
def test_density_of_a_normal_clock_is_the_truncated_normals(schedule: Schedule) -> None:
    """In the middle of the table's intervals, between the 1st and 99th percent."""
    low, high = (-schedule(torch.tensor([0.0, 1.0]).double()).clock + 1.2).div(1.2).tolist()
    law = NormalClock(schedule)
    t = law.quantile((torch.arange(41, 4056, 41, dtype=torch.float64) + 0.5) / 4096)
    clock = -schedule(t).clock
    truth = stats.truncnorm.pdf(clock.numpy(), low, high, loc=-1.2, scale=1.2)
    expected = torch.from_numpy(truth) * schedule.slope(t)
    torch.testing.assert_close(law.density(t), expected, rtol=1e-4, atol=0)


def test_a_uniform_clock_has_equally_spaced_clocks() -> None:
    law = UniformClock(Cosine(), 0.01, 0.98)
    clock = Cosine()(law.quantile(torch.linspace(0, 1, 65, dtype=torch.float64))).clock
    torch.testing.assert_close(clock.diff(), clock.diff().mean().expand(64))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LogUniformTimes(0.0, 1.0), "low must be positive, got 0.0"),
        (lambda: UniformTimes(0.5, 0.5), "0 <= low < high <= 1, got 0.5 and 0.5"),
        (lambda: UniformTimes(-0.1, 0.5), "got -0.1 and 0.5"),
        (lambda: NormalClock(Karras(), std=0.0), "std must be positive, got 0.0"),
        (lambda: UniformClock(Karras(), 0.5, 0.2), "got 0.5 and 0.2"),
        (lambda: UniformClock(Flow(), 0.0, 0.9), "finite at low and high, got inf at 0.0 and -2"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]


def test_early_times_tame_the_bound_of_a_chain() -> None:
    """Of t rows noisy that count 1 / t each: E = 1 and E (...)^2 = int 1 / (t density) dt."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    second = {}
    for power in (1.0, 2.0, 3.0):
        law = PowerTimes(power, 1e-6)
        t = law.quantile(u)
        weight = 1 / (t * law.density(t))
        assert (t * weight).mean().item() == pytest.approx(1, abs=1e-3)
        second[power] = (t * weight**2).mean().item()
    assert second[1.0] == pytest.approx(math.log(1e6), rel=0.05)
    assert second[2.0] == pytest.approx(4, rel=0.01)
    assert second[3.0] > second[2.0]


def test_a_power_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="power must be positive, got 0"):
        PowerTimes(0.0)
