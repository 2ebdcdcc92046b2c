"""Weights of the error of x_0, against what the papers weigh."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from structdiff.objectives import (
    EDM,
    P2,
    SNR,
    MinSNR,
    SigmoidWeight,
    TruncatedSNR,
    Uniform,
    Weight,
)
from structdiff.schedules import Cosine, Karras, Linear, Schedule, Standard

ROWS = 200
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""alpha, sigma and squared errors of x_0 and eps to a paper's loss."""

PAPERS: dict[str, tuple[Weight, Formula]] = {
    "x_0": (Uniform(), lambda a, s, data, eps: data),
    "simple": (SNR(), lambda a, s, data, eps: eps),
    # The score is -eps / sigma; Song and Ermon weigh its error by sigma^2.
    "score, sigma^2": (SNR(), lambda a, s, data, eps: s**2 * (eps / s**2)),
    # Salimans and Ho: the larger of both errors.
    "truncated": (TruncatedSNR(), lambda a, s, data, eps: torch.maximum(data, eps)),
    "min 5": (MinSNR(), lambda a, s, data, eps: torch.minimum((a / s) ** 2, a * 0 + 5) * data),
    # Kingma and Gao, Hoogeboom et al.: of the error of eps, in log-SNR.
    "sigmoid": (SigmoidWeight(), lambda a, s, data, eps: eps / (1 + (a / s) ** 2)),
    "sigmoid -3": (
        SigmoidWeight(-3.0),
        lambda a, s, data, eps: torch.sigmoid(-3 - 2 * torch.log(a / s)) * eps,
    ),
    "P2": (P2(), lambda a, s, data, eps: eps / (1 + (a / s) ** 2)),
    "P2 0.5": (P2(2.0, 0.5), lambda a, s, data, eps: eps / (2 + (a / s) ** 2) ** 0.5),
    "EDM": (EDM(0.5), lambda a, s, data, eps: ((s / a) ** 2 + 0.25) / (s / a * 0.5) ** 2 * data),
}
papers = pytest.mark.parametrize("name", PAPERS)


def errors(schedule: Schedule) -> tuple[Tensor, ...]:
    """Levels, clock, and squared errors of x_0 and eps for one wrong estimate."""
    source = torch.Generator().manual_seed(0)
    x_0, noise, wrong = torch.randn(3, ROWS, generator=source, dtype=torch.float64)
    alpha, sigma, clock = schedule(torch.linspace(0.01, 0.99, ROWS, dtype=torch.float64))
    x_t = alpha * x_0 + sigma * noise
    said = (x_t - alpha * wrong) / sigma  # the eps that stands for the wrong x_0
    return alpha, sigma, clock, (wrong - x_0) ** 2, (said - noise) ** 2


@papers
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Karras()])
def test_weights_are_the_papers(name: str, schedule: Schedule) -> None:
    """W04, W07, P09: the loss in the paper's own space."""
    weight, formula = PAPERS[name]
    alpha, sigma, clock, data, eps = errors(schedule)
    expected = formula(alpha, sigma, data, eps)
    torch.testing.assert_close(weight(clock) * data, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_weights_in_the_space_of_velocities(schedule: Schedule) -> None:
    """With alpha^2 + sigma^2 = 1, |v - v'|^2 = |eps - eps'|^2 / alpha^2 = |x - x'|^2 / sigma^2."""
    alpha, sigma, clock, data, eps = errors(schedule)
    v = eps / alpha**2
    torch.testing.assert_close((SNR()(clock) + 1) * data, v, rtol=1e-7, atol=0)
    torch.testing.assert_close(EDM(1.0)(clock) * data, v, rtol=1e-7, atol=0)
    sigmoid = SigmoidWeight()(clock) * data  # sigma^2 on eps is alpha^2 sigma^2 on v
    torch.testing.assert_close(sigmoid, (alpha * sigma) ** 2 * v, rtol=1e-7, atol=0)


def test_sigma_squared_balances_the_levels() -> None:
    """W04, A04: with a score of 0 every level's weighted loss is that of eps, of mean 1."""
    source = torch.Generator().manual_seed(0)
    levels = Standard(Karras())(torch.linspace(0, 1, 10, dtype=torch.float64))
    means = []
    for alpha, sigma, clock in zip(*levels, strict=True):
        x_0, noise = torch.randn(2, 40_000, generator=source, dtype=torch.float64)
        x_t = alpha * x_0 + sigma * noise
        silent = x_t / alpha  # what a score of 0 stands for
        means.append(float((SNR()(clock) * (silent - x_0) ** 2).mean()))
    assert max(means) / min(means) < 1.1
    assert all(abs(mean - 1) < 5 * math.sqrt(2 / 40_000) for mean in means)


def test_p2_ends() -> None:
    """W07: gamma 0 is SNR; where SNR >> k the weight falls by SNR^-gamma beside it."""
    clock = torch.linspace(-8, 8, 65, dtype=torch.float64)
    torch.testing.assert_close(P2(3.0, 0.0)(clock), SNR()(clock))
    for gamma in (0.5, 1.0, 2.0):
        relative = P2(1.0, gamma)(clock) / SNR()(clock)
        assert relative[-1].item() == pytest.approx(math.exp(-16 * gamma), rel=1e-5)
        assert relative[0].item() == pytest.approx(1, rel=1e-5)


def test_scale_and_largest_weights() -> None:
    clock = torch.linspace(-6, 6, 25, dtype=torch.float64)
    torch.testing.assert_close(Uniform(2.5)(clock), torch.full_like(clock, 2.5))
    assert MinSNR()(clock).max() == 5
    assert MinSNR(3.0)(clock).max() == 3
    assert TruncatedSNR()(clock).min() == 1


@papers
def test_pure_noise_has_a_finite_weight(name: str) -> None:
    """And float32 up to the largest clock that networks and weights see."""
    weight = PAPERS[name][0]
    exact = weight(torch.tensor([-math.inf, -20, 0, 20]).double())
    assert bool(torch.isfinite(exact).all())
    single = weight(torch.tensor([-math.inf, -20.0, 0.0, 20.0]))
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: P2(k=0.0), "k must be positive, got 0.0"),
        (lambda: P2(gamma=-1.0), "gamma must be at least 0, got -1.0"),
    ],
)
def test_refusals(make: Callable[[], Weight], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
