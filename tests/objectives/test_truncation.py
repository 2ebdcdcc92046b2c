"""Soft truncation, and the loss by noise level."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from structdiff import Batch, Denoising, Gaussian, Generator, Linear
from structdiff.objectives import (
    SNR,
    LogUniformTimes,
    TimeDistribution,
    UniformTimes,
    Warping,
)
from structdiff.objectives.by_clock import LossByClock
from structdiff.objectives.truncation import SoftTruncation
from structdiff.testing import NormalDenoiser

SCHEDULE = Linear()
NORMAL = NormalDenoiser(Gaussian(SCHEDULE), torch.zeros(1).double(), torch.ones(1).double())


def batch(rows: int, seed: int) -> Batch:
    return Batch.of(Generator(seed).normal((rows,), torch.float64, "cpu"))


class Always(TimeDistribution):
    """One number."""

    def __init__(self, t: float) -> None:
        self.t = t

    def quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.t)

    def density(self, t: Tensor) -> Tensor:
        return torch.where(t == self.t, torch.inf, 0.0).double()


def test_the_mean_is_that_of_the_reweighted_loss() -> None:
    """For tau log-uniform, of p(t) = log(t (1 - a) / ((1 - t) a)) / log(1 / a)."""
    a = 1e-3
    soft = SoftTruncation(lambda tau: Denoising(SNR(), UniformTimes(tau)), LogUniformTimes(a, 1.0))
    random = Generator(0)
    means = torch.stack([soft(NORMAL, batch(64, k), random).total for k in range(500)])

    def density(t: float) -> float:
        return math.log(t * (1 - a) / ((1 - t) * a)) / math.log(1 / a)

    def loss(t: float) -> float:  # of the noise of N(0, 1) data, alpha^2
        return float(SCHEDULE.alpha(torch.tensor(t).double())) ** 2

    assert quad(density, a, 1)[0] == pytest.approx(1, abs=1e-6)
    truth = quad(lambda t: loss(t) * density(t), a, 1)[0]
    plain = quad(loss, a, 1)[0]
    error = float(means.std()) / math.sqrt(500)
    assert abs(float(means.mean()) - truth) < 3.5 * error
    assert abs(truth - plain) > 10 * error


def test_a_fixed_earliest_time_is_no_truncation() -> None:
    """Bit for bit, from where the stream is after the draw of tau."""
    soft = SoftTruncation(lambda tau: Denoising(SNR(), UniformTimes(tau)), Always(0.2))
    random = Generator(3)
    random.uniform((1,), torch.float64, "cpu")
    expected = Denoising(SNR(), UniformTimes(0.2))(NORMAL, batch(50, 0), random)
    got = soft(NORMAL, batch(50, 0), Generator(3))
    assert torch.equal(got.leaves["x"], expected.leaves["x"])


def test_losses_by_clock_are_those_of_each_bin() -> None:
    """Of N(0, 1) data: sigma^2 at each level, seen through an objective in training."""
    report = LossByClock([-2.0, 0.0, 2.0])
    seen = Warping(Denoising(SNR(), UniformTimes(0.01, 1.0)), report, "x")
    random = Generator(0)
    for k in range(20):
        seen(NORMAL, batch(1000, k), random)
    assert float(report.count().sum()) == 20_000
    edges = SCHEDULE.time(torch.tensor([9.0, 2.0, 0.0, -2.0, -9.0]).double()).clamp(0.01, 1.0)
    for k, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        t = torch.linspace(float(low), float(high), 2001).double()
        truth = float((SCHEDULE.alpha(t) ** 2).mean())  # of eps
        place = 3 - k
        assert abs(float(report.mean()[place]) - truth) < 4 * float(report.error()[place])
        assert float(report.error()[place]) < 0.1 * truth
    assert str(report).splitlines()[0] == "log-SNR from  to      losses  mean"
    assert len(str(report).splitlines()) == 5
    report.reset()
    assert report.mean().isnan().all()


def test_error_of_a_mean_by_hand() -> None:
    report = LossByClock([0.0])
    report.observe(torch.tensor([1.0, 2.0, 3.0, -1.0]), torch.tensor([1.0, 2.0, 6.0, 5.0]))
    assert report.mean().tolist() == [5.0, 3.0]
    assert report.error()[1].item() == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert report.error()[0].isnan()
    with pytest.raises(ValueError, match=r"edges must rise and be at least one, got \[1.0, 0.0\]"):
        LossByClock([1.0, 0.0])
