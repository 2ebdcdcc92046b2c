"""The Jacobi diffusion: quadrature, closed moments, Chapman-Kolmogorov, autograd, mpmath."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from structdiff import Batch, Generator, Geometric, Layout, Linear, Product
from structdiff.processes.jacobi import Jacobi, break_sticks, join_sticks
from structdiff.processes.jacobi_kernel import JacobiKernel
from structdiff.samplers import DDIM, DDPM
from structdiff.schedules import CLEAN, UniformTime
from structdiff.testing import ExactDenoiser
from structdiff.testing.noise import Silent
from tests.processes.cases import grid, time

A = torch.tensor([1.0, 1.0, 2.0, 1.5])
B = torch.tensor([3.0, 1.0, 0.8, 1.5])
KERNEL = JacobiKernel(A, B, 0.02)
ANGLES = ((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * math.pi)[:, None]
NODES = torch.sin(ANGLES / 2).square().expand(-1, 4)
CELL = math.pi / 4000 * (NODES * (1 - NODES)).sqrt()
times = pytest.mark.parametrize("tau", [0.02, 0.1, 0.7, 3.0])


def density(start: float, tau: float) -> Tensor:
    """q_tau(x | start) at the nodes, `(nodes, columns)`."""
    y = torch.full_like(NODES, start)
    return KERNEL.log_prob(y, NODES, torch.tensor(tau, dtype=torch.float64)).exp()


def mean_and_second(start: float, tau: float) -> tuple[Tensor, Tensor]:
    """E x and E x^2 by the equations of moments: dm/dtau = [a - (a + b) m] / 2 and so on."""
    a, total = A.double(), (A + B).double()
    mean = a / total + (start - a / total) * torch.exp(-total * tau / 2)
    # d(m2)/dtau = (a + 1) m - (a + b + 1) m2.
    rate, decay = total + 1, total / 2
    level, slope = a / total, start - a / total
    constant, wave = (a + 1) * level / rate, (a + 1) * slope / (rate - decay)
    rest = start**2 - constant - wave
    second = constant + wave * torch.exp(-decay * tau) + rest * torch.exp(-rate * tau)
    return mean, second


@times
@pytest.mark.parametrize("start", [0.0, 0.3, 0.95])
def test_density_integrates_to_one_and_has_the_moments(start: float, tau: float) -> None:
    """K05."""
    weight = density(start, tau) * CELL
    mean, second = mean_and_second(start, tau)
    assert float(weight.min()) >= 0
    torch.testing.assert_close(weight.sum(0), torch.ones(4).double(), atol=2e-6, rtol=0)
    torch.testing.assert_close((weight * NODES).sum(0), mean, atol=2e-6, rtol=0)
    torch.testing.assert_close((weight * NODES.square()).sum(0), second, atol=2e-6, rtol=0)


def test_density_tends_to_beta() -> None:
    expected = torch.distributions.Beta(A.double(), B.double()).log_prob(NODES[1::7])
    late = torch.tensor(60.0).double()
    got = KERNEL.log_prob(torch.full_like(NODES[1::7], 0.9), NODES[1::7], late)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(KERNEL.stationary_log_prob(NODES[1::7]), expected)


def test_semigroup() -> None:
    """Chapman-Kolmogorov by quadrature, for one end point a column."""
    y, x = (torch.tensor([[v]]).double().expand(1, 4) for v in (0.2, 0.7))
    half, whole = (torch.tensor(tau).double() for tau in (0.15, 0.3))
    onward = KERNEL.log_prob(NODES, x.expand_as(NODES), half).exp()
    through = (density(0.2, 0.15) * onward * CELL).sum(0)
    direct = KERNEL.log_prob(y, x, whole).exp()[0]
    torch.testing.assert_close(through, direct, rtol=1e-6, atol=0)


def test_reversible() -> None:
    """w(y) q(x | y) = w(x) q(y | x)."""
    y, x = torch.rand(2, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tau = torch.tensor(0.4).double()
    there = KERNEL.log_prob(y, x, tau) + KERNEL.stationary_log_prob(y)
    back = KERNEL.log_prob(x, y, tau) + KERNEL.stationary_log_prob(x)
    torch.testing.assert_close(there, back)


def test_against_polynomials_of_mpmath() -> None:
    """The series with 60 digits, and the polynomials by their hypergeometric form."""
    a, b, y, x, tau = 2.0, 0.8, 0.15, 0.6, 0.05
    with mpmath.workdps(60):
        alpha, beta = mpmath.mpf(b) - 1, mpmath.mpf(a) - 1
        total = mpmath.mpf(0)
        for n in range(70):
            norm = (
                (
                    mpmath.beta(a, b)
                    * (2 * n + alpha + beta + 1)
                    * mpmath.factorial(n)
                    * mpmath.gamma(n + alpha + beta + 1)
                    / mpmath.gamma(n + alpha + 1)
                    / mpmath.gamma(n + beta + 1)
                )
                if n
                else mpmath.mpf(1)
            )
            product = mpmath.jacobi(n, alpha, beta, 2 * y - 1) * mpmath.jacobi(
                n, alpha, beta, 2 * x - 1
            )
            total += mpmath.exp(-n * (n - 1 + a + b) * tau / 2) * norm * product
        expected = float(mpmath.log(total))
    column = JacobiKernel(torch.tensor([2.0]), torch.tensor([0.8]), 0.05)
    got = column.log_ratio(
        torch.tensor([[y]]).double(), torch.tensor([[x]]).double(), torch.tensor(tau).double()
    )
    # The parameter 0.8 is the float32 one.
    assert float(got) == pytest.approx(expected, abs=1e-6)


@times
def test_score_is_the_derivative_of_the_log_density(tau: float) -> None:
    """K05: to 1e-4 of autograd through the expansion, wherever draws are."""
    y = torch.rand(400, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    time = torch.tensor(tau).double()
    x = KERNEL.draw(y, time, Generator(2)).clamp(1e-6, 1 - 1e-6).requires_grad_()
    (slope,) = torch.autograd.grad(KERNEL.log_prob(y, x, time).sum(), x)
    score = KERNEL.score(y, x.detach(), time)
    assert float(((score - slope).abs() / (1 + slope.abs())).max()) < 1e-4
    single = KERNEL.score(y.float(), x.detach().float(), time)
    assert single.dtype == torch.float32


@times
@pytest.mark.parametrize("start", [0.0, 0.3, 1.0])
def test_draws_have_the_distribution_of_the_density(start: float, tau: float) -> None:
    """The probability of each is uniform (Kolmogorov's distance); none leaves [0, 1]."""
    rows = 4000
    y = torch.full((rows, 4), start, dtype=torch.float64)
    x = KERNEL.draw(y, torch.tensor(tau).double(), Generator(3))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    mass = (density(start, tau) * CELL).cumsum(0)
    for k in range(4):
        place = torch.searchsorted(NODES[:, k].contiguous(), x[:, k].sort().values)
        u = mass[place.clamp(max=len(mass) - 1), k]
        even = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        assert float((u - even).abs().max()) < 1.95 / math.sqrt(rows) + 0.01


def test_rows_have_their_own_times_and_zero_stays() -> None:
    y = torch.tensor([[0.2] * 4, [0.9] * 4]).repeat(3000, 1).double()
    tau = torch.tensor([0.0, 0.5]).repeat(3000).double()
    x = KERNEL.draw(y, tau, Generator(0))
    assert torch.equal(x[::2], y[::2])
    mean, second = mean_and_second(0.9, 0.5)
    error = (second - mean.square()).sqrt() / math.sqrt(3000)
    assert bool(((x[1::2].mean(0) - mean).abs() < 4.5 * error).all())
    late = KERNEL.stationary(6000, Generator(1), y)
    law = torch.distributions.Beta(A.double(), B.double())
    assert bool(((late.mean(0) - law.mean).abs() < 4.5 * law.stddev / math.sqrt(6000)).all())
    assert bool(((late.var(0) / law.variance - 1).abs() < 0.15).all())


@pytest.mark.parametrize(
    ("a", "b", "shortest", "message"),
    [
        ([1.0], [0.0], 0.1, "must be positive vectors of one length"),
        ([1.0, 2.0], [1.0], 0.1, "must be positive vectors of one length"),
        ([1.0], [1.0], 0.0, "shortest must be positive and finite, got 0"),
    ],
)
def test_refusals(a, b, shortest, message) -> None:
    with pytest.raises(ValueError, match=message):
        JacobiKernel(torch.tensor(a), torch.tensor(b), shortest)


C = torch.tensor([1.0, 1.5, 0.8], dtype=torch.float64)
NOISE = Geometric(0.2, 3.0)


def simplex(x: Tensor) -> Jacobi:
    return Jacobi(NOISE, x.shape[1], C if x.shape[1] == 3 else None).bind(Batch.of(x))


class TestProcess:
    """On the simplex."""

    def test_sticks(self) -> None:
        p = torch.distributions.Dirichlet(C.double()).sample((500,))
        sticks = break_sticks(p)
        torch.testing.assert_close(join_sticks(sticks.share), p)
        assert bool(sticks.known.all())
        corner = break_sticks(torch.eye(3))
        assert corner.share.tolist() == [[1.0, 0.5], [0.0, 1.0], [0.0, 0.0]]
        assert corner.known.tolist() == [[True, False], [True, True], [True, True]]

    def test_prior_is_dirichlet(self) -> None:
        law = torch.distributions.Dirichlet(C.double())
        process = simplex(torch.zeros(8000, 3).double())
        x = process.prior(Generator(0))
        torch.testing.assert_close(process.prior_log_prob(x), law.log_prob(x))
        assert bool(((x.mean(0) - law.mean).abs() < 4.5 * x.std(0) / math.sqrt(8000)).all())
        assert bool(((x.var(0) / law.variance - 1).abs() < 0.05).all())

    @pytest.mark.parametrize("start", [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    def test_diffusion_forgets_by_steps(self, start: list[float]) -> None:
        """K05: on the simplex, with the means of shares; corrupt goes on where it was."""
        x_0 = torch.tensor([start]).double().expand(8000, 3)
        process = simplex(x_0)
        x_s = process.diffuse(x_0, time(0.4), Generator(0))
        x_t = process.corrupt(x_s, time(0.4), time(0.7), Generator(1))
        sticks = break_sticks(x_0[:1])
        a, b = process.kernel.a, process.kernel.b
        for x, t in ((x_s, 0.4), (x_t, 0.7)):
            tau = float(NOISE.sigma(time(t)) ** 2)
            level = a / (a + b)
            share = level + (sticks.share[0] - level) * torch.exp(-(a + b) * tau / 2)
            share = torch.where(sticks.known[0], share, level)
            expected = join_sticks(share[None])[0]
            assert float(x.min()) > 0
            torch.testing.assert_close(x.sum(1), torch.ones(8000).double())
            assert bool(((x.mean(0) - expected).abs() < 4.5 * x.std(0) / math.sqrt(8000)).all())
        assert torch.equal(process.diffuse(x_0, time(CLEAN), Generator(0)), x_0)

    @pytest.mark.parametrize("start", [[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    def test_density_integrates_to_one(self, start: list[float]) -> None:
        """Over the triangle of the first two probabilities, by the angles of the shares."""
        angle = (torch.arange(250, dtype=torch.float64) + 0.5) / 250 * math.pi
        v = torch.cartesian_prod(torch.sin(angle / 2).square(), torch.sin(angle / 2).square())
        x = join_sticks(v)
        cell = (math.pi / 250) ** 2 * (v * (1 - v)).sqrt().prod(1) * (1 - v[:, 0])
        x_0 = torch.tensor([start]).double().expand_as(x)
        mass = (simplex(x).log_prob(x, x_0, time(0.4)).exp() * cell).sum()
        assert float(mass) == pytest.approx(1, abs=1e-3)

    def test_oracle_is_the_score_less_that_of_the_law(self) -> None:
        x_0 = torch.tensor([[0.2, 0.5, 0.3]]).double().expand(50, 3)
        process = simplex(x_0)
        x = process.diffuse(x_0, time(0.4), Generator(0))
        v = break_sticks(x).share.requires_grad_()
        gap = process.log_prob(join_sticks(v), x_0, time(0.4)) - process.prior_log_prob(
            join_sticks(v)
        )
        (slope,) = torch.autograd.grad(gap.sum(), v)
        tau = float(NOISE.sigma(time(0.4)) ** 2)
        expected = (tau * v * (1 - v) * slope).detach()
        torch.testing.assert_close(process.oracle(x_0, x, time(0.4)).value, expected)
        clean = process.log_prob(x_0, x, time(CLEAN))
        assert bool(clean.isneginf().all())
        assert not process.log_prob(x, x, time(CLEAN)).any()

    @pytest.mark.parametrize(("eta", "rows"), [(1.0, 8000), (0.0, 8000)])
    def test_error_of_undoing_falls_with_the_step(self, eta: float, rows: int) -> None:
        """Oracle steps from t to s: the mean and the spread of the shares at s."""
        x_0 = torch.tensor([[0.2, 0.5, 0.3]]).double().expand(rows, 3)
        process = simplex(x_0)
        truth = process.diffuse(x_0, time(0.3), Generator(0))
        errors = []
        for steps in (2, 16):
            x = process.diffuse(x_0, time(0.7), Generator(1))
            times = torch.linspace(0.7, 0.3, steps + 1, dtype=torch.float64)
            for t, step in zip(times, process.plan(times, eta), strict=False):
                x = process.step(x, process.oracle(x_0, x, t), step, Generator(int(1e4 * t)))
            assert float(x.min()) > 0
            gap = torch.stack([x.mean(0) - truth.mean(0), x.std(0) - truth.std(0)])
            errors.append(float(gap.abs().max()))
        assert errors[1] < 0.012
        assert errors[1] < errors[0]

    @pytest.mark.parametrize("sampler", [DDPM, DDIM])
    def test_exact_denoiser_returns_the_corners_in_proportion(self, sampler) -> None:
        """Classes as corners of the simplex; no violations."""
        weights = torch.tensor([0.5, 0.2, 0.3])
        process = Product({"x": Jacobi(NOISE, 3, C)})
        denoiser = ExactDenoiser(process, Batch.of(torch.eye(3)), weights)
        rows = 600
        drawn = sampler(denoiser, UniformTime(40)).sample(
            Batch.of(process.empty({"x": rows})), Generator(0)
        )["x"]
        assert float(drawn.min()) >= 0
        torch.testing.assert_close(drawn.sum(1), torch.ones(rows))
        assert float((drawn.amax(1) > 0.9).double().mean()) > 0.97
        share = torch.bincount(drawn.argmax(1), minlength=3) / rows
        assert bool(
            ((share - weights).abs() < 4 * (weights * (1 - weights) / rows).sqrt() + 0.02).all()
        )

    def test_given_rows_stay(self) -> None:
        x = torch.distributions.Dirichlet(C).sample((4,))
        held = torch.tensor([True, False, True, False])
        batch = Batch({"x": x}, {"x": Layout.regular(4)}, given={"x": held})
        process = Jacobi(NOISE, 3, C).bind(batch)
        t = process.times(time(0.6))
        x_t = process.diffuse(x, t, Generator(0))
        assert (x_t == x).all(1).tolist() == held.tolist()
        assert torch.equal(process.prior(Generator(1))[held], x[held])
        oracle = process.oracle(x, x_t, t)
        assert not oracle.value[held].any()
        (step,) = process.plan(grid(0.6, 0.4), 0.0)
        assert torch.equal(process.step(x_t, oracle, step, Silent())[held], x[held])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((NOISE, 1), "classes must be at least 2, got 1"),
            ((Linear(), 3), "alpha = 1"),
            ((NOISE, 3, torch.ones(2)), "concentration must be .3,. and positive"),
        ],
    )
    def test_refusals(self, arguments, message) -> None:
        with pytest.raises(ValueError, match=message):
            Jacobi(*arguments)
