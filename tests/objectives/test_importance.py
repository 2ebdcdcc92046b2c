"""Times drawn where the loss is large: the same mean, with less variance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Cosine, Gaussian, Generator, Linear
from structdiff.objectives import (
    SNR,
    ContinuousBound,
    Denoising,
    NormalClock,
    PowerTimes,
    SigmoidWeight,
    TimeDistribution,
    UniformClock,
    UniformTimes,
    Warping,
    Weight,
)
from structdiff.objectives.importance import HistoryTimes, ImportanceTimes
from structdiff.testing import NormalDenoiser

SCHEDULE = Linear()
LOSSES: dict[str, tuple[Weight, TimeDistribution]] = {
    "likelihood": (SNR(), UniformClock(SCHEDULE, 1e-3, 1.0)),
    "unweighted": (SNR(), UniformTimes(1e-3, 1.0)),
    "reweighted": (SigmoidWeight(), UniformClock(SCHEDULE, 1e-3, 1.0)),
}
losses = pytest.mark.parametrize("name", LOSSES)


def normal(std: float = 1.0) -> NormalDenoiser:
    gaussian = Gaussian(SCHEDULE)
    return NormalDenoiser(gaussian, torch.zeros(1).double(), torch.tensor([std]).double())


def batch(rows: int, seed: int = 0, std: float = 1.0) -> Batch:
    """In no order of their own, as the samples of a source."""
    return Batch.of(std * Generator(seed).normal((rows,), torch.float64, "cpu"))


def draws(objective: Any, rows: int = 40_000, std: float = 1.0) -> Tensor:
    value: Tensor = objective(normal(std), batch(rows, 0, std), Generator(7)).leaves["x"]
    return value


@losses
@pytest.mark.parametrize("std", [1.0, 0.4])
def test_the_mean_is_kept_and_the_variance_falls(name: str, std: float) -> None:
    """LSGM's three losses of normal data, within 3 standard errors."""
    weight, law = LOSSES[name]
    times = ImportanceTimes(SCHEDULE, weight, law, std)
    plain = draws(Denoising(weight, law), std=std)
    better = draws(Denoising(weight, times, mean_over=law), std=std)
    error = math.hypot(float(plain.std()), float(better.std())) / math.sqrt(len(plain))
    assert abs(float(better.mean() - plain.mean())) < 3 * error
    assert better.var() < 0.98 * plain.var()
    # The best there is: at each time the loss counts alike, times the square of a normal number.
    torch.testing.assert_close(
        better.var(), 2 * better.mean() ** 2, rtol=10 / math.sqrt(len(plain)), atol=0
    )


@losses
def test_times_are_uniform_in_the_papers_quantity(name: str) -> None:
    """Log sigma, the integral of alpha^2, and sigma^2, between the ends of the law."""
    weight, law = LOSSES[name]
    times = ImportanceTimes(SCHEDULE, weight, law)
    t = times.quantile(torch.linspace(0, 1, 101, dtype=torch.float64))

    def paper(t: Tensor) -> Tensor:
        if name == "unweighted":
            nodes = torch.linspace(1e-3, 1.0, 200_001, dtype=torch.float64)
            total = torch.cumulative_trapezoid(SCHEDULE.alpha(nodes) ** 2, nodes)
            return total[((t - 1e-3) / (1 - 1e-3) * 200_000).round().long().clamp(min=1) - 1]
        sigma = SCHEDULE.sigma(t)
        return sigma.log() if name == "likelihood" else sigma**2

    value = paper(t)
    place = (value - value[0]) / (value[-1] - value[0])
    torch.testing.assert_close(
        place, torch.linspace(0, 1, 101, dtype=torch.float64), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize(
    "law",
    [
        ImportanceTimes(Cosine(), SNR(), UniformTimes(1e-3, 1.0)),
        ImportanceTimes(SCHEDULE, SigmoidWeight(1.0), PowerTimes(2.0, 0.01), 0.3),
        HistoryTimes(SCHEDULE, PowerTimes(2.0, 0.01)),
        HistoryTimes(SCHEDULE, UniformClock(SCHEDULE, 0.01, 0.9), bins=7),
    ],
)
def test_density_is_one_over_the_slope_of_the_quantiles(law: TimeDistribution) -> None:
    """And it integrates to 1; of a history that saw a loss of its clock too."""
    if isinstance(law, HistoryTimes):
        clock = SCHEDULE(torch.linspace(0.01, 1.0, 9000, dtype=torch.float64)).clock
        law.observe(clock, 1 + clock.abs())
        assert float(law.shares().max() / law.shares().min()) > 1.5
    u = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    low, high = law.quantile(u - 1e-7), law.quantile(u + 1e-7)
    middle = law.density((low + high) / 2)
    share = (middle * (high - low) / 2e-7 - 1).abs()
    assert float(share.median()) < 1e-5
    assert float((share > 1e-3).double().mean()) < 0.02  # at the joints of a table


def test_each_leaf_is_counted_by_its_own_time() -> None:
    """With independent times too: by the ratio of the densities, by hand."""
    law, times = UniformTimes(0.1, 0.9), PowerTimes(2.0, 0.05)
    objective = Denoising(times=times, mean_over=law, independent=True)
    record = Batch.of({"x": torch.zeros(8), "y": torch.zeros(8)})
    drawn = objective.draw_times(record, Generator(0))
    assert not torch.equal(drawn["x"], drawn["y"])
    for t in drawn.values():
        inside = (t > 0.1) & (t < 0.9)
        u = ((t - 0.05) / 0.95).sqrt()
        expected = inside / 0.8 * 2 * 0.95 * u
        torch.testing.assert_close(objective.counted(torch.ones(8), t), expected.float())


def test_a_history_of_losses_stays_unbiased_while_it_learns() -> None:
    """Of the bound: the mean over many batches is the integral, within 3 errors of it."""
    low = 0.01
    uniform = UniformTimes(low, 1.0)
    times = HistoryTimes(SCHEDULE, uniform, bins=24)
    objective, random = Warping(ContinuousBound(times), times, "x"), Generator(1)
    parts = [objective(normal(), batch(400, k), random).leaves["x"] for k in range(80)]
    mean = torch.stack([part.mean() for part in parts])
    snr = torch.exp(SCHEDULE.log_snr(torch.tensor([low, 1.0]).double()))
    truth = float((torch.log1p(snr) / 2).diff().neg())
    assert abs(float(mean.mean()) - truth) < 3 * float(mean.std()) / math.sqrt(80)
    # What it has learned varies less than uniform times, and little more than the best does.
    learned = draws(ContinuousBound(times)).var()
    assert learned < 0.6 * draws(ContinuousBound(uniform)).var()
    assert learned < 1.3 * 2 * truth**2


def test_a_history_is_even_until_all_was_seen_and_forgets() -> None:
    law = HistoryTimes(SCHEDULE, UniformTimes(0.0, 1.0), bins=2, decay=0.5, even=0.01)
    at = SCHEDULE(torch.tensor([0.25, 0.75]).double()).clock
    law.observe(at[:1], torch.ones(1))
    assert law.shares().tolist() == [0.5, 0.5]
    law.observe(at, torch.tensor([3.0, 1.0]))
    first = (9 + 0.5) / 1.5  # the loss of 1 counts half by now
    root = math.sqrt(first)
    share = 0.99 * root / (root + 1) + 0.005
    assert law.shares()[0].item() == pytest.approx(share)
    assert law.density(torch.tensor([0.1, 0.9])).tolist() == pytest.approx(
        [2 * share, 2 * (1 - share)]
    )
    for _ in range(60):
        law.observe(at, torch.tensor([1.0, 1.0]) / law.density(torch.tensor([0.25, 0.75])))
    assert law.shares().tolist() == pytest.approx([0.5, 0.5])
    law.observe(at, torch.zeros(2))
    silent = HistoryTimes(SCHEDULE, bins=1)
    silent.observe(at, torch.zeros(2))
    assert silent.shares().tolist() == [1.0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ImportanceTimes(SCHEDULE, SNR(), UniformTimes(), 0.0), "std must be positive"),
        (lambda: HistoryTimes(SCHEDULE, bins=0), "bins must be at least 1.*got 0"),
        (lambda: HistoryTimes(SCHEDULE, decay=2.0), "decay in .* got 64, 2.0"),
        (lambda: HistoryTimes(SCHEDULE, even=0.0), "even in"),
        (
            lambda: Denoising(times=UniformTimes(0.1, 1.0), mean_over=UniformTimes(0.01, 0.5)),
            r"times must be able to draw all times of mean_over, from 0.0105 to 0.5",
        ),
        (
            lambda: Denoising(times=NormalClock(Cosine()), mean_over=UniformTimes(0.0, 1.0)),
            None,
        ),
    ],
)
def test_refusals(make: Any, match: str | None) -> None:
    if match is None:
        make()
        return
    with pytest.raises(ValueError, match=match):
        make()
