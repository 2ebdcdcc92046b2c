"""Laws of every schedule, its ends, and what is refused."""

import math

import pytest
import torch

from structdiff.schedules import (
    CLEAN,
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    Linear,
    Sigmoid,
    SubVP,
    Survival,
    Window,
)
from tests.schedules.every_schedule import (
    FLAT,
    PRESERVING,
    SCHEDULES,
    float64,
    interior,
    schedules,
)


@schedules
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clock_falls_strictly(name: str, dtype: torch.dtype) -> None:
    """B10: strict monotone signal-to-noise ratio."""
    clock = SCHEDULES[name](torch.linspace(0, 1, 100_000, dtype=dtype)).clock
    later, earlier = clock[1:], clock[:-1]
    assert bool((later <= earlier).all() if name in FLAT else (later < earlier).all())


@schedules
def test_levels_agree_with_their_clock(name: str) -> None:
    level = SCHEDULES[name](interior())
    torch.testing.assert_close(torch.log(level.alpha / level.sigma), level.clock)
    torch.testing.assert_close(SCHEDULES[name].log_snr(interior()), 2 * level.clock)
    torch.testing.assert_close(SCHEDULES[name].alpha(interior()), level.alpha)
    torch.testing.assert_close(SCHEDULES[name].sigma(interior()), level.sigma)


@schedules
def test_clean_is_the_data_itself(name: str) -> None:
    level = SCHEDULES[name](float64(CLEAN, 0.5, -0.001))
    assert level.alpha[[0, 2]].tolist() == [1, 1]
    assert level.sigma[[0, 2]].tolist() == [0, 0]
    assert level.clock[[0, 2]].tolist() == [math.inf, math.inf]
    assert 0 < level.sigma[1] < math.inf


@schedules
def test_time_inverts_clock(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(0.3, 0.7, 53, dtype=torch.float64) if name in FLAT else interior()
    torch.testing.assert_close(schedule.time(schedule(t).clock), t, rtol=0, atol=1e-10)
    ends = schedule.time(float64(math.inf, -math.inf))
    assert ends.tolist() == [0, 1]


@schedules
def test_gradient_in_time_is_the_finite_difference(name: str) -> None:
    schedule, h = SCHEDULES[name], 1e-6
    low, high = (0.26, 0.74) if name in FLAT else (0.003, 0.996)
    t = torch.linspace(low, high, 41, dtype=torch.float64) + 1.7e-4  # not at kinks
    t = t.requires_grad_()
    for value in (schedule.alpha, schedule.sigma, schedule.log_snr):
        (slope,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        with torch.no_grad():
            difference = (value(t + h) - value(t - h)) / (2 * h)
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    level = SCHEDULES[name](torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(
        level.alpha**2 + level.sigma**2, torch.ones(1001).double(), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "alpha", "sigma"),
    [
        ("linear", (1, math.exp(-5.025)), (0, math.sqrt(1 - math.exp(-10.05)))),
        ("sub-vp", (1, math.exp(-5.025)), (0, 1 - math.exp(-10.05))),
        ("cosine", (1, 0), (0, 1)),
        ("geometric", (1, 1), (0.01, 50)),
        ("karras", (1, 1), (0.002, 80)),
        ("flow", (1, 0), (0, 1)),
        ("survival", (1, 0), (0, 1)),
        ("discrete to the end", (1, 0), (0, 1)),
        ("window", (1, 0), (0, 1)),
        ("simple linear", (1, 0), (0, 1)),
        ("sigmoid", (1, 0), (0, 1)),
        ("sigmoid 0 to 3", (1, 0), (0, 1)),
        ("shifted cosine", (1, 0), (0, 1)),
        ("shifted flow", (1, 0), (0, 1)),
        ("standard flow", (1, 0), (0, 1)),
        ("exploding linear", (1, 1), (0, math.sqrt(math.expm1(10.05)))),
        ("zero terminal linear", (1, 0), (0, 1)),
        ("zero terminal ddpm", (1, 0), (0, 1)),
        ("listed", (1, 1), (0.01, 80)),
        ("called", (1, 0), (0, 1)),
    ],
)
def test_ends(name: str, alpha: tuple[float, float], sigma: tuple[float, float]) -> None:
    level = SCHEDULES[name](float64(0, 1))
    torch.testing.assert_close(level.alpha, float64(*alpha), rtol=1e-13, atol=1e-16)
    torch.testing.assert_close(level.sigma, float64(*sigma), rtol=1e-13, atol=1e-16)


@schedules
def test_levels_solve_the_equations_of_their_own_rates(name: str) -> None:
    """m' = f m, v' = 2 f v + 2 sigma^2 slope, by a method of Gauss that sees no kink of a grid."""
    schedule, h = SCHEDULES[name], 1 / 3000
    low, high = (780, 2220) if name in FLAT else (60, 2940)
    start = h * torch.arange(low, high, dtype=torch.float64)
    t = torch.stack([start + h * (0.5 - 3**0.5 / 6), start + h * (0.5 + 3**0.5 / 6)], 1)
    f, noise = schedule.decay(t), 2 * schedule.sigma(t) ** 2 * schedule.slope(t)
    stages = h * float64(0.25, 0.25 - 3**0.5 / 6, 0.25 + 3**0.5 / 6, 0.25).reshape(2, 2)

    def solve(rate: torch.Tensor, source: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(2) - rate[..., None] * stages
        keep, add = (h * torch.linalg.solve(matrix, side).mean(1) for side in (rate, source))
        for one, other in zip(keep, add, strict=True):
            y = y + one * y + other
        return y

    first, last = schedule(float64(h * low)), schedule(float64(h * high))
    mean = solve(f, torch.zeros_like(f), first.alpha)
    variance = solve(2 * f, noise, first.sigma**2)
    torch.testing.assert_close(mean, last.alpha, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, last.sigma**2, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Linear(0.0, 1.0), "0 < beta_min <= beta_max, got 0.0 and 1.0"),
        (lambda: SubVP(2.0, 1.0), "0 < beta_min <= beta_max, got 2.0 and 1.0"),
        (lambda: Cosine(1.0), r"offset must be in \[0, 1\), got 1.0"),
        (lambda: Geometric(1.0, 1.0), "0 < sigma_min < sigma_max, got 1.0 and 1.0"),
        (lambda: Karras(0.0, 1.0), "0 < sigma_min < sigma_max, got 0.0 and 1.0"),
        (lambda: Karras(rho=0.0), "rho must be positive, got 0.0"),
        (lambda: Discrete(torch.zeros(3)), r"in \(0, 1\], got 0 to 0"),
        (lambda: Discrete.ddpm(10), r"in \(0, 1\], got 0.01 to 2"),
        (lambda: Discrete(torch.ones(2, 2) / 2), r"a vector, not empty, got shape \(2, 2\)"),
        (lambda: Discrete(torch.ones(0)), r"got shape \(0,\)"),
        (lambda: Discrete(torch.tensor([1.0, 0.5])), "only the last beta may be 1"),
        (lambda: Survival(Flow()), "must preserve the variance .* Flow does not"),
        (lambda: Sigmoid(1.0, 1.0), "start < end, got 1.0 and 1.0"),
        (lambda: Sigmoid(tau=0.0), "tau must be positive, got 0.0"),
        (lambda: Window(Flow(), 0.5, 0.5), "0 <= start < end <= 1, got 0.5 and 0.5"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
