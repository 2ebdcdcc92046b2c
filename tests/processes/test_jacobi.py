"""The Jacobi diffusion: quadrature, closed moments, Chapman-Kolmogorov, autograd, mpmath."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from torch import Tensor

from structdiff import Generator
from structdiff.processes.jacobi_kernel import JacobiKernel

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
