"""Schedules of chains: laws of all, and the numbers of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from structdiff import Categorical, absorbing, uniform
from structdiff.processes import Product
from structdiff.schedules import (
    CLEAN,
    Cosine,
    Flow,
    LogLinear,
    MaskCosine,
    MutualInformation,
    Polynomial,
    Schedule,
    Survival,
)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def law(classes: int, spread: float, seed: int = 0) -> Tensor:
    """A random law, the more uneven the larger its spread."""
    random = torch.Generator().manual_seed(seed)
    return torch.softmax(spread * torch.randn(classes, dtype=torch.float64, generator=random), 0)


LAWS = {  # of a row in the data, and of a redrawn one
    "fair bit": (float64(0.5, 0.5), float64(0.5, 0.5)),
    "uniform": (law(10, 1.0), torch.full((10,), 0.1).double()),
    "marginal": (law(8, 3.0), law(8, 3.0)),
    "masked": (law(5, 1.0), torch.eye(6)[5].double()),
    "mask or redraw": (law(4, 1.0), float64(0.1, 0.1, 0.0, 0.2, 0.6)),
    "many": (law(300, 2.0), torch.full((300,), 1 / 300).double()),
    "rare class": (float64(1 - 1e-6, 1e-6), float64(0.5, 0.5)),
    "class that never occurs": (float64(0.3, 0.7, 0.0), float64(0.25, 0.25, 0.5)),
}
CHAINS = {
    "log-linear": LogLinear(),
    "log-linear 0.2": LogLinear(0.2),
    "mask cosine": MaskCosine(),
    "polynomial 3": Polynomial(3),
    "polynomial one half": Polynomial(0.5),
    **{f"information {name}": MutualInformation(*laws) for name, laws in LAWS.items()},
}
schedules = pytest.mark.parametrize("schedule", CHAINS.values(), ids=CHAINS.keys())


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_survival_and_redrawing_sum_to_one(schedule: Schedule, dtype: torch.dtype) -> None:
    level = schedule(torch.linspace(0, 1, 1001, dtype=dtype))
    torch.testing.assert_close(level.alpha + level.sigma, torch.ones(1001).double())
    torch.testing.assert_close(torch.log(level.alpha / level.sigma)[1:], level.clock[1:])
    assert (level.alpha[0], level.sigma[0]) == (1, 0)


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clock_falls_strictly(schedule: Schedule, dtype: torch.dtype) -> None:
    """B10: also at times so close that alpha itself does not change."""
    clock = schedule(torch.linspace(0, 1, 100_000, dtype=dtype)).clock
    assert bool((clock[1:] < clock[:-1]).all())


@schedules
def test_time_inverts_clock(schedule: Schedule) -> None:
    t = torch.linspace(0.003, 0.997, 97, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule(t).clock), t, rtol=0, atol=1e-10)


@schedules
def test_slope_is_the_difference(schedule: Schedule) -> None:
    """On the side of the data, where a table has a kink."""
    t, h = torch.linspace(0.01, 0.99, 99, dtype=torch.float64), 1e-8
    difference = (schedule(t - h).clock - schedule(t).clock) / h
    torch.testing.assert_close(schedule.slope(t), difference, rtol=2e-2, atol=0)
    close = (schedule.slope(t) / difference - 1).abs() < 1e-5
    assert int(close.sum()) >= 95  # no kink between t - h and t


@schedules
def test_a_chain_takes_it(schedule: Schedule) -> None:
    """Its clean time is the data, and rows survive with probability alpha."""
    assert schedule.alpha(torch.tensor(CLEAN)).item() == 1
    process = Categorical(schedule, absorbing(2))
    assert isinstance(Product({"x": process}), Product)


def test_total_noise_of_log_linear() -> None:
    """Lou et al.: -log(1 - (1 - eps) t), with the rest eps of the data at t = 1."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = LogLinear(1e-3)(t)
    torch.testing.assert_close(-torch.log(level.alpha), -torch.log1p(-(1 - 1e-3) * t))
    torch.testing.assert_close(level.alpha[-1].item(), 1e-3)
    rate = (1 - 1e-3) / (1 - (1 - 1e-3) * t)  # of redrawing: slope of the total noise
    torch.testing.assert_close(LogLinear(1e-3).slope(t[1:]) * level.sigma[1:], rate[1:])


def test_cosine_of_masks() -> None:
    """MD4's alpha; MaskGIT's share cos(pi r / 2) after the part r of the calls; not D02's."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    level = MaskCosine()(t)
    torch.testing.assert_close(level.alpha, 1 - torch.cos(math.pi / 2 * (1 - t)))
    torch.testing.assert_close(level.sigma, torch.cos(math.pi / 2 * (1 - t)))
    other = Survival(Cosine(0.0)).alpha(t)
    torch.testing.assert_close(other, torch.cos(math.pi / 2 * t) ** 2)
    assert float((other - level.alpha)[50]) == pytest.approx(0.5 - (1 - 0.5**0.5), abs=1e-12)


@pytest.mark.parametrize("power", [0.5, 1, 2, 5])
def test_polynomial(power: float) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(Polynomial(power).alpha(t), 1 - t**power)
    torch.testing.assert_close(Polynomial(power).sigma(t), t**power)
    slope = power / (t * (1 - t**power))  # of log((1 - t^k) / t^k)
    torch.testing.assert_close(Polynomial(power).slope(t[1:-1]), slope[1:-1])


ALPHA = {  # in 60 digits
    "log-linear": lambda t: 1 - (1 - mpf(1e-3)) * t,
    "mask cosine": lambda t: 1 - mp.cos(mp.pi / 2 * (1 - t)),
    "polynomial 3": lambda t: 1 - t**3,
    "polynomial one half": lambda t: 1 - t ** mpf(0.5),
}


@pytest.mark.parametrize("name", ALPHA)
def test_no_digits_are_lost_at_the_ends(name: str) -> None:
    near = [2.0**-k for k in (50, 40, 30, 20, 10, 1)]
    times = near + [1 - gap for gap in near]
    with mp.workdps(60):
        alpha = [ALPHA[name](mpf(t)) for t in times]
        exact = [[float(a), float(1 - a), float(mp.log(a / (1 - a)))] for a in alpha]
    level = CHAINS[name](float64(*times))
    for ours, expected in zip(level, torch.tensor(exact, dtype=torch.float64).T, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def information(alpha: Tensor, p: Tensor, pi: Tensor) -> Tensor:
    """I(x_t; x_0) as the divergence of the joint law from the product, by K x S tables."""
    values = []
    for a in alpha.tolist():
        kernel = a * torch.eye(len(p), len(pi)).double() + (1 - a) * pi
        joint = p[:, None] * kernel
        product = p[:, None] * (p @ kernel)
        values.append(torch.xlogy(joint, joint) - torch.xlogy(joint, product))
    return torch.stack([value.sum() for value in values])


@pytest.mark.parametrize("name", LAWS)
def test_mutual_information_falls_linearly(name: str) -> None:
    """D01b: within 1e-3 of its start, between the points of the table as well."""
    p, pi = LAWS[name]
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    start = -torch.xlogy(p, p).sum()
    share = information(MutualInformation(p, pi).alpha(t), p, pi) / start
    torch.testing.assert_close(share, 1 - t, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 5, 50])
def test_mutual_information_of_the_absorbing_chain_is_the_straight_line(classes: int) -> None:
    """D01: alpha = 1 - t, whatever the data."""
    schedule = MutualInformation(law(classes, 2.0), absorbing(classes).stationary)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t), 1 - t, rtol=0, atol=1e-13)
    torch.testing.assert_close(schedule.sigma(t), t, rtol=0, atol=1e-13)
    inside = t[10:-10]
    torch.testing.assert_close(schedule.slope(inside), Flow().slope(inside), rtol=1e-9, atol=0)


def test_mutual_information_of_a_fair_bit_is_that_of_a_symmetric_channel() -> None:
    """1 - h2(sigma / 2) in bits: at t = 1/2 the flip probability 0.11003 of half a bit."""
    schedule = MutualInformation(float64(0.5, 0.5), uniform(2).stationary)
    assert schedule.sigma(float64(0.5)).item() / 2 == pytest.approx(0.1100278644, abs=1e-6)


def test_slope_is_that_of_the_inverse_function() -> None:
    """d alpha / dt = -H / I'(alpha), with I from tables of K x S."""
    p, pi = LAWS["marginal"]
    schedule, t = MutualInformation(p, pi), torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    alpha, h = schedule.alpha(t), 1e-6
    rise = (information(alpha + h, p, pi) - information(alpha - h, p, pi)) / (2 * h)
    fall = -torch.xlogy(p, p).sum() / rise
    torch.testing.assert_close(schedule.slope(t), fall / (alpha * (1 - alpha)), rtol=1e-2, atol=0)


HALF = torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LogLinear(0.0), r"left must be in \(0, 1\), got 0.0; .* Flow\(\)"),
        (lambda: LogLinear(1.0), r"left must be in \(0, 1\), got 1.0"),
        (lambda: Polynomial(0.0), "power must be positive and finite, got 0.0"),
        (lambda: Polynomial(math.inf), "power must be positive and finite, got inf"),
        (lambda: MutualInformation(HALF, HALF[:1] * 2), "at least the 2 classes .* got 1"),
        (lambda: MutualInformation(HALF * 1.1, HALF), "frequencies must .* its sum is 1.1"),
        (lambda: MutualInformation(HALF, HALF * 0.9), "stationary must .* its sum is 0.9"),
        (lambda: MutualInformation(HALF, torch.tensor([-1.0, 2.0])), "stationary must be non-neg"),
        (lambda: MutualInformation(HALF, torch.tensor([math.nan, 1.0])), "stationary must be non"),
        (lambda: MutualInformation(HALF[None], HALF), r"a vector, .* got shape \(1, 2\)"),
        (lambda: MutualInformation(torch.tensor([1.0, 0.0]), HALF), "got an entropy of 0: use"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
