"""Laws of every schedule, and the numbers of the papers."""

import math

import pytest
import torch
from mpmath import mp, mpf
from scipy.integrate import solve_ivp

from structdiff.schedules import (
    CLEAN,
    Cosine,
    Discrete,
    Exploding,
    Flow,
    Geometric,
    Karras,
    Linear,
    Schedule,
    Shifted,
    Sigmoid,
    SimpleLinear,
    Standard,
    SubVP,
    Survival,
    Window,
    ZeroTerminal,
    translate,
)


def float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The betas of an absorbing chain whose mask probability is t / T; the last is one.
FALLING = 1 / torch.arange(10, 0, -1, dtype=torch.float64)

SCHEDULES = {
    "linear": Linear(),
    "sub-vp": SubVP(),
    "cosine": Cosine(),
    "cosine without offset": Cosine(0.0),
    "geometric": Geometric(),
    "karras": Karras(),
    "karras rho 1": Karras(0.01, 10.0, rho=1.0),
    "flow": Flow(),
    "survival": Survival(Cosine()),
    "discrete ddpm": Discrete.ddpm(),
    "discrete cosine": Discrete.cosine(),
    "discrete to the end": Discrete(FALLING),
    "discrete of one step": Discrete(torch.tensor([0.5])),
    "window": Window(Cosine(), 0.25, 0.75),
    "simple linear": SimpleLinear(),
    "sigmoid": Sigmoid(),
    "sigmoid 0 to 3": Sigmoid(0.0, 3.0, tau=0.3),
    "sigmoid flat": Sigmoid(tau=1.1),
    "shifted cosine": Shifted(Cosine(), -1.4),
    "shifted flow": Shifted(Flow(), 0.7),
    "shifted karras": Shifted(Karras(), 0.7),
    "standard geometric": Standard(Geometric()),
    "standard flow": Standard(Flow()),
    "exploding linear": Exploding(Linear()),
    "zero terminal linear": ZeroTerminal(Linear()),
    "zero terminal ddpm": ZeroTerminal(Discrete.ddpm(), first=1e-3),
    "listed": translate(float64(80, 10, 3, 0.01, 0)),
    "called": translate(lambda t: (1 - t, t)),
}
PRESERVING = [
    "linear",
    "cosine",
    "cosine without offset",
    "discrete ddpm",
    "discrete cosine",
    "simple linear",
    "sigmoid",
    "sigmoid 0 to 3",
    "sigmoid flat",
    "shifted cosine",
    "standard geometric",
    "standard flow",
    "zero terminal linear",
    "zero terminal ddpm",
]
FLAT = ["window"]  # the clock stands still outside

schedules = pytest.mark.parametrize("name", SCHEDULES)


def interior(points: int = 97) -> torch.Tensor:
    return torch.linspace(0.003, 0.997, points, dtype=torch.float64)


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


def test_one_cosine_beta_is_clipped() -> None:
    """B03: exactly one; and alpha is flatter at the data than the linear schedule's."""
    survival = Discrete.cosine().log_survival
    betas = -torch.expm1(survival.diff())
    assert int(((betas - 0.999).abs() < 1e-12).sum()) == 1
    start = float64(0, 0.01)
    assert Cosine().alpha(start).diff().abs() < Linear().alpha(start).diff().abs() / 3


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


def test_discrete_steps_converge_to_the_integral() -> None:
    """A08: beta_i = beta(i / T) / T; the largest gap halves when T doubles."""
    gaps = []
    for steps in (250, 500, 1000, 2000):
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        discrete = Discrete((0.1 + 19.9 * t) / steps)
        gaps.append(float((discrete.alpha(t) - Linear().alpha(t)).abs().max()))
    for coarse, fine in zip(gaps, gaps[1:], strict=False):
        assert coarse / fine == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("steps", [1, 7, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_discrete_is_exact_on_its_grid(steps: int, dtype: torch.dtype) -> None:
    """A14: discrete to continuous."""
    betas = torch.linspace(1e-3, 0.3, steps, dtype=torch.float64)
    t = (torch.arange(1, steps + 1, dtype=torch.float64) / steps).to(dtype)
    level = Discrete(betas)(t)
    product = torch.cumprod(1 - betas, 0)
    exact = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(level.alpha, product.sqrt(), rtol=exact, atol=1e-14)
    torch.testing.assert_close(level.sigma, (1 - product).sqrt(), rtol=exact, atol=1e-14)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Discrete.ddpm(100)])
def test_a_grid_of_a_continuous_schedule_is_a_discrete_one(schedule: Schedule) -> None:
    """A14: continuous to discrete; betas read off a grid give back its levels."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    survival = schedule.alpha(t) ** 2
    level = Discrete(1 - survival[1:] / survival[:-1])(t)
    torch.testing.assert_close(level.alpha, schedule.alpha(t), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(level.sigma, schedule.sigma(t), rtol=1e-9, atol=1e-9)


def test_discrete_is_linear_in_log_snr_between_grid_points() -> None:
    schedule = Discrete(torch.linspace(0.1, 0.5, 10))
    clock = schedule(float64(0.3, 0.325, 0.35, 0.375, 0.4)).clock
    torch.testing.assert_close(clock.diff(), clock.diff().mean().expand(4))


def test_absorbing_betas_give_mask_probability_t_over_T() -> None:  # noqa: N802
    """D01(d): beta_t = 1 / (T - t + 1)."""
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    grid = torch.arange(11, dtype=torch.float64) / 10
    level = Survival(Discrete(FALLING))(grid)
    torch.testing.assert_close(level.sigma, grid, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(level.alpha, 1 - grid, rtol=1e-12, atol=1e-14)
    # Between grid points the product is interpolated in log-SNR: it stays close, and in order.
    assert float((Survival(Discrete(FALLING)).sigma(t) - t).abs().max()) < 0.01


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
