"""The formulas and the numbers of the papers, to all digits."""

import math

import pytest
import torch
from mpmath import mp, mpf
from scipy.integrate import solve_ivp

from structdiff.schedules import (
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Linear,
    Sigmoid,
    SimpleLinear,
    SubVP,
    Survival,
    Window,
)
from tests.schedules.every_schedule import PRESERVING, SCHEDULES, float64, interior


def test_numbers_of_the_papers() -> None:
    """B01, B03, A08."""
    one, half = float64(1.0), float64(0.5)
    assert Discrete.ddpm().alpha(one).item() ** 2 == pytest.approx(4.0358e-5, rel=2e-5)
    assert Cosine().alpha(half).item() ** 2 == pytest.approx(0.49384, abs=5e-6)
    assert Discrete.cosine().alpha(half).item() ** 2 == pytest.approx(0.49384, abs=5e-6)
    assert Linear().alpha(one).item() == pytest.approx(0.0065716, abs=5e-8)


def test_simple_linear_is_one_minus_t() -> None:
    """B02: alpha^2 = 1 - t at all t; the survival of its chain is the straight path."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    level = SimpleLinear()(t)
    torch.testing.assert_close(level.alpha**2, 1 - t, rtol=1e-15, atol=0)
    torch.testing.assert_close(level.sigma**2, t, rtol=1e-15, atol=0)
    chain, straight = Survival(SimpleLinear())(t), Flow()(t)
    torch.testing.assert_close(chain.clock, straight.clock, rtol=1e-14, atol=1e-14)


def test_geometric_ratios_are_constant() -> None:
    """B04."""
    sigma = Geometric(0.01, 50.0).sigma(torch.linspace(0, 1, 233, dtype=torch.float64))
    ratio = sigma[1:] / sigma[:-1]
    torch.testing.assert_close(ratio, ratio[:1].expand(232), rtol=1e-12, atol=0)
    assert ratio[0].item() == pytest.approx(5000 ** (1 / 232), rel=1e-12)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3, 3, 1.0), (0, 3, 0.7), (-3, 3, 0.1)])
def test_sigmoid_is_the_papers(start: float, end: float, tau: float) -> None:
    """B05: the formula of the paper, its ends, and one half in the middle of a symmetric cut."""

    def paper(t: float) -> float:
        s = [1 / (1 + math.exp(-u / tau)) for u in (start, t * (end - start) + start, end)]
        return (s[2] - s[1]) / (s[2] - s[0])

    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    survival = Sigmoid(start, end, tau).alpha(t) ** 2
    expected = float64(*(paper(u) for u in t.tolist()))
    torch.testing.assert_close(survival, expected, rtol=0, atol=1e-14)
    assert (survival[0], survival[-1]) == (1, 0)
    assert bool((survival.diff() < 0).all())
    if start == -end:
        assert survival[100].item() == pytest.approx(0.5, abs=1e-14)


def cut_sigmoid(t: mpf) -> mpf:
    low, middle, high = (1 / (1 + mp.exp(-u)) for u in (mpf(-3), 6 * t - 3, mpf(3)))
    return (high - middle) / (high - low)


def cosine_odds(t: mpf, offset: mpf) -> mpf:
    cosine = [mp.cos((u + offset) / (1 + offset) * mp.pi / 2) ** 2 for u in (t, mpf(0))]
    return cosine[0] / (cosine[1] - cosine[0])


def ended_linear(t: mpf) -> mpf:
    alpha, end = (mp.exp(-(u**2) * mpf(19.9) / 4 - u * mpf(0.1) / 2) for u in (t, mpf(1)))
    return ((alpha - end) / (1 - end)) ** 2


ODDS = {  # alpha^2 / sigma^2 in 60 digits
    "simple linear": lambda t: (1 - t) / t,
    "sigmoid": lambda t: cut_sigmoid(t) / (1 - cut_sigmoid(t)),
    "shifted cosine": lambda t: cosine_odds(t, mpf(0.008)) * mp.exp(2 * mpf(-1.4)),
    "shifted flow": lambda t: ((1 - t) / t * mp.exp(mpf(0.7))) ** 2,
    "standard flow": lambda t: ((1 - t) / t) ** 2,
    "standard geometric": lambda t: (mpf(0.01) * (mpf(50) / mpf(0.01)) ** t) ** -2,
    "zero terminal linear": lambda t: ended_linear(t) / (1 - ended_linear(t)),
}


@pytest.mark.parametrize("name", ODDS)
def test_no_digits_are_lost_at_the_ends(name: str) -> None:
    """Where 1 - alpha^2 or alpha^2 would be rounded away, against 60 digits."""
    near = [2.0**-k for k in (50, 40, 30, 20, 10, 1)]
    # Moving alpha takes a difference to alpha(1), which has as many digits as 1 - t.
    late = 2.0**-20 if name == "zero terminal linear" else 2.0**-50
    times = near + [1 - gap for gap in near if gap >= late]
    with mp.workdps(60):
        exact = [mp.log(ODDS[name](mpf(t))) for t in times]
        fraction = [1 / (1 + 1 / mp.exp(x)) for x in exact]
    level = SCHEDULES[name](float64(*times))
    expected = float64(*(float(x) for x in exact))
    loose = 2e-11 if name == "zero terminal linear" else 1e-13
    torch.testing.assert_close(2 * level.clock, expected, rtol=loose, atol=1e-13)
    if name in PRESERVING:
        alpha = float64(*(float(mp.sqrt(x)) for x in fraction))
        sigma = float64(*(float(mp.sqrt(1 / (1 + mp.exp(x)))) for x in exact))
        torch.testing.assert_close(level.alpha, alpha, rtol=max(20 * loose, 1e-12), atol=0)
        torch.testing.assert_close(level.sigma, sigma, rtol=max(20 * loose, 1e-12), atol=0)


# A07 to A10: dm/dt = f m, dv/dt = 2 f v + g^2 for dx = f x dt + g dw.


def rate(t: float) -> float:
    return 0.1 + 19.9 * t


def integral(t: float) -> float:
    return 0.1 * t + 19.9 * t**2 / 2


def exploding(t: float) -> float:
    return 2 * math.log(50 / 0.01) * (0.01 * (50 / 0.01) ** t) ** 2


SDES = {
    "linear": (lambda t: -rate(t) / 2, rate),
    "sub-vp": (lambda t: -rate(t) / 2, lambda t: rate(t) * (1 - math.exp(-2 * integral(t)))),
    "geometric": (lambda t: 0.0, exploding),
}


@pytest.mark.parametrize("name", SDES)
def test_levels_solve_the_moment_equations(name: str) -> None:
    drift, diffusion = SDES[name]
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    level = SCHEDULES[name](t)
    solution = solve_ivp(
        lambda s, y: [drift(s) * y[0], 2 * drift(s) * y[1] + diffusion(s)],
        (0, 1),
        [1.0, float(level.sigma[0] ** 2)],
        t_eval=t.numpy(),
        rtol=1e-11,
        atol=1e-13,
    )
    mean, variance = torch.from_numpy(solution.y)
    torch.testing.assert_close(level.alpha, mean, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(level.sigma**2, variance, rtol=1e-6, atol=1e-9)


def test_sub_vp_has_less_noise_than_vp() -> None:
    """A10: equality at t = 0 only."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    gap = Linear().sigma(t) - SubVP().sigma(t)
    assert gap[0] == 0
    assert bool((gap[1:] > 0).all())


def test_exploding_becomes_preserving_by_a_change_of_variables() -> None:
    """A09: x / sqrt(1 + sigma^2) has alpha^2 + sigma^2 = 1 and the same clock."""
    level = Geometric()(interior())
    scale = torch.rsqrt(1 + level.sigma**2)
    alpha, sigma = scale * level.alpha, scale * level.sigma
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    torch.testing.assert_close(torch.log(alpha / sigma), level.clock)


def test_survival_squares() -> None:
    t = interior()
    level, inner = Survival(Linear())(t), Linear()(t)
    torch.testing.assert_close(level.alpha, inner.alpha**2)
    torch.testing.assert_close(level.alpha + level.sigma, torch.ones_like(t))


def test_window_is_clean_before_and_noise_after() -> None:
    schedule = Window(Linear(), 0.25, 0.75)
    level = schedule(float64(0, 0.25, 0.5, 0.75, 1))
    inner = Linear()(float64(0, 0, 0.5, 1, 1))
    torch.testing.assert_close(level.clock, inner.clock)
