"""Chains of any generator: matrix exponentials in many digits, rank-one closed forms."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator, absorbing, marginal
from structdiff.processes import Estimate, RankOne, Rates, nearest_neighbour, ordinal, relaxed
from structdiff.processes.transitions import Generated, Jump
from structdiff.processes.transitions.reversal import jump_divergence, log_ratios, reverse_rates
from tests.processes.cases import FALLING, LAW, LOPSIDED, POINTS, filled, grid, time

TIMES = [1e-9, 1e-4, 0.03, 1.0, 6.0, 40.0]


def chain_rates(size: int) -> Tensor:
    """Up at 1, down at 0.7: reversible, far from symmetric."""
    up, down = torch.ones(size - 1).double(), torch.full((size - 1,), 0.7, dtype=torch.float64)
    return filled((torch.diag(up, 1) + torch.diag(down, -1)).tolist())


GENERATORS = {
    "lopsided": (LOPSIDED, 3),
    "falling": (FALLING, 3),
    "chain": (chain_rates(7), 7),
    "random": (filled(torch.rand(9, 9, generator=torch.Generator().manual_seed(0)).tolist()), 8),
}
each = pytest.mark.parametrize(("generator", "classes"), GENERATORS.values(), ids=GENERATORS)


def matrix(transition: Generated, tau: float) -> Tensor:
    """log Q, by columns."""
    symbols = torch.arange(transition.symbols)
    return transition.after(time(tau)).column(symbols).T


def float64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exactly(generator: Tensor, tau: float) -> list[list[mpmath.mpf]]:
    with mpmath.workdps(120):
        product = mpmath.expm(mpmath.matrix(generator.tolist()) * mpmath.mpf(tau), method="taylor")
        return product.tolist()


@each
def test_kernels_are_the_matrix_exponential(generator: Tensor, classes: int) -> None:
    """D01(a): and rows sum to one, at short and at long times."""
    chain = Rates(generator, classes)
    for tau in TIMES:
        ours = matrix(chain, tau).exp()
        expected = torch.from_numpy(scipy.linalg.expm(tau * generator.numpy()))
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(ours.sum(1), torch.ones(len(ours)).double(), rtol=0, atol=1e-14)
    eye = torch.eye(len(generator)).double()
    assert torch.equal(matrix(chain, 0.0).exp(), eye)
    assert torch.equal(matrix(chain, torch.inf).exp(), chain.stationary.expand_as(eye).log().exp())


@pytest.mark.parametrize("tau", [1e-3, 0.05, 0.7])
def test_small_entries_are_as_accurate_as_large_ones(tau: float) -> None:
    """To 1e-12 of themselves down to 1e-30, and rightly ordered beyond; at times by row too."""
    generator = chain_rates(20)
    chain, symbols = Rates(generator), torch.arange(20)
    ours = matrix(chain, tau)
    exact = exactly(generator, tau)
    log = float64([[float(mpmath.log(q)) for q in row] for row in exact])
    seen = log > np.log(1e-30)
    assert float(log.min()) < (np.log(1e-30) if tau < 0.1 else -10)
    torch.testing.assert_close(ours[seen], log[seen], rtol=0, atol=1e-12)
    by_row = chain.after(torch.full((20,), tau, dtype=torch.float64))
    torch.testing.assert_close(by_row.column(symbols).T[seen], log[seen], rtol=0, atol=1e-12)
    ends = torch.full((20, 20), -torch.inf).double().fill_diagonal_(0)
    torch.testing.assert_close(by_row.push(ends)[seen], log[seen], rtol=0, atol=1e-12)
    across = ours[symbols, symbols.flip(0)]
    torch.testing.assert_close(by_row.log_prob(symbols.flip(0), symbols), across)


def test_a_posterior_between_rare_ends() -> None:
    """A path from 0 to 15 in a short time, that Bayes' rule divides by 1e-44: D01(b)."""
    generator, tau = chain_rates(16), 2e-2
    process = Categorical(Flow(), Rates(generator)).bind(Batch.of(torch.tensor([15])))
    t = float(-np.expm1(-tau))
    s = float(-np.expm1(-tau / 2))
    with mpmath.workdps(120):
        half, whole = exactly(generator, tau / 2), exactly(generator, tau)
        assert whole[0][15] < mpmath.mpf(10) ** -37
        path = [float(half[0][j] * half[j][15] / whole[0][15]) for j in range(16)]
    x_t = torch.tensor([15])
    oracle = process.oracle(torch.tensor([0]), x_t, time(t))
    (step,) = process.plan(grid(t, s), 1.0)
    ours = process.log_kernel(oracle, x_t, step).exp()[0]
    torch.testing.assert_close(ours, float64(path), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_estimate_on_what_all_but_cannot_be(dtype: torch.dtype) -> None:
    """Far classes at t = 1e-6, of probability below any float64: laws, nothing undefined."""
    for transition in (ordinal(300, 0.5), Rates(chain_rates(100))):
        x_t = torch.tensor([0, 50])
        process = Categorical(Flow(), transition).bind(Batch.of(x_t))
        logits = torch.zeros(2, transition.classes, dtype=dtype)
        for t, s in ((1e-6, 5e-7), (1e-6, -1.0), (0.2, 1e-6), (1.0, 0.5)):
            estimate = process.decode(logits, x_t, time(t))
            (step,) = process.plan(grid(t, s), 1.0)
            law = process.log_kernel(estimate, x_t, step)
            assert law.dtype == dtype
            torch.testing.assert_close(law.exp().sum(-1), torch.ones(2, dtype=dtype))


@each
def test_times_by_row_are_times(generator: Tensor, classes: int) -> None:
    """Each row of a batch of times has the kernel of its own time; with an event too."""
    chain = Rates(generator, classes)
    taus = torch.tensor([0.0, 1e-3, 0.4, 5.0, torch.inf], dtype=torch.float64)
    x = torch.arange(10).reshape(5, 2) % 2
    random = torch.Generator().manual_seed(1)
    law = torch.rand(5, 2, chain.symbols, dtype=torch.float64, generator=random).log() * 30
    kernel = chain.after(taus[:, None])
    for i, tau in enumerate(taus):
        one = chain.after(tau)
        for ours, theirs in (
            (kernel.column(x)[i], one.column(x[i])),
            (kernel.push(law)[i], one.push(law[i])),
            (kernel.log_prob(x, x.flip(1))[i], one.log_prob(x[i], x[i].flip(0))),
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@each
def test_draws_are_the_kernel(generator: Tensor, classes: int) -> None:
    """By 20,000 quantiles, with a time that all rows share and with times by row."""
    chain, n = Rates(generator, classes), 20_000
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for start in range(classes):
        x = torch.full((n,), start)
        for tau in (time(0.3), torch.full((n,), 0.3, dtype=torch.float64)):
            drawn = chain.after(tau).draw(x, quantiles)
            frequency = torch.bincount(drawn, minlength=chain.symbols).double() / n
            expected = matrix(chain, 0.3).exp()[start]
            torch.testing.assert_close(frequency, expected, rtol=0, atol=2 / n)
        assert torch.equal(chain.after(torch.zeros(n).double()).draw(x, quantiles), x)


@each
def test_the_stationary_law(generator: Tensor, classes: int) -> None:
    """It is left as it is, is the null space's, and is reached."""
    chain = Rates(generator, classes)
    law = chain.stationary
    torch.testing.assert_close(law @ generator, torch.zeros_like(law), rtol=0, atol=1e-15)
    null = scipy.linalg.null_space(generator.numpy().T)
    torch.testing.assert_close(law, torch.from_numpy(null[:, 0] / null.sum()), rtol=0, atol=1e-13)
    late = matrix(chain, 60.0).exp()
    torch.testing.assert_close(late, law.expand_as(late), rtol=0, atol=1e-4)
    quantiles = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = torch.bincount(chain.redraw(quantiles), minlength=len(law)).double() / 10_000
    torch.testing.assert_close(drawn, law, rtol=0, atol=2e-4)


def test_a_stationary_law_of_tiny_numbers() -> None:
    """0.7^-n of a walk on 60 symbols, each right to its own rounding."""
    up = torch.arange(60).double() * np.log(1 / 0.7)
    expected = torch.softmax(up, 0)
    torch.testing.assert_close(Rates(chain_rates(60)).stationary, expected, rtol=1e-12, atol=0)


def test_what_cannot_be_is_barred() -> None:
    """0 becomes 1 becomes 2, and the mask takes all: an estimate respects it."""
    chain = Rates(FALLING, 3)
    process = Categorical(Flow(), chain).bind(Batch.of(torch.tensor([0, 1, 2, 3])))
    x_t = torch.tensor([0, 1, 2, 3])
    value = process.decode(torch.zeros(4, 3).double(), x_t, time(0.4)).value.exp()
    expected = [[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(value, torch.tensor(expected).double())
    settled = chain.settled(x_t)
    assert settled is not None
    assert settled.tolist() == [True, False, False, False]
    assert Rates(LOPSIDED).settled(x_t[:3]) is None
    assert Rates(LOPSIDED).barred(Flow(), time(0.4), x_t[:3]) is None


def test_an_estimate_on_what_cannot_be() -> None:
    """The step leaves such classes out; so do the ratios."""
    x_t = torch.tensor([1])
    process = Categorical(Flow(), Rates(FALLING, 3)).bind(Batch.of(x_t))
    sound, mixed = (Estimate(float64([p]).log()) for p in ([0.4, 0.6, 0], [0.2, 0.3, 0.5]))
    (step,) = process.plan(grid(0.6, 0.3), 1.0)
    laws = [process.log_kernel(estimate, x_t, step).exp() for estimate in (sound, mixed)]
    torch.testing.assert_close(laws[0].sum(), float64(1.0))
    torch.testing.assert_close(*laws)
    kernel = process.from_clean(time(0.6), x_t)
    twice = log_ratios(kernel, mixed.value, x_t).exp() * 2
    torch.testing.assert_close(log_ratios(kernel, sound.value, x_t).exp(), twice)


RANK_ONE = {"marginal": marginal(LAW), "absorbing": absorbing(3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("one", RANK_ONE.values(), ids=RANK_ONE)
def test_a_rank_one_generator_is_the_rank_one_chain(one: RankOne, dtype: torch.dtype) -> None:
    """Kernels, steps, rates and their divergence agree with the closed forms."""
    law = one.stationary
    dense = Rates(law.expand(len(law), -1) - torch.eye(len(law)).double(), one.classes)
    x_0 = torch.tensor([0, 1, 2, 1, 2, 0])
    ours, theirs = (Categorical(Flow(), q).bind(Batch.of(x_0)) for q in (dense, one))
    t = time(0.7)
    x_t = theirs.diffuse(x_0, t, Generator(3))
    assert bool((x_t != x_0).any())
    logits = Generator(4).normal((6, 3), torch.float64, "cpu").to(dtype)
    guess, other = ours.decode(logits, x_t, t), theirs.decode(logits, x_t, t)
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(guess.value, other.value, **close)
    torch.testing.assert_close(ours.log_prob(x_t, x_0, t), theirs.log_prob(x_t, x_0, t))
    for times in (grid(0.7, 0.3), grid(0.7, -1.0), grid(0.7, 0.699)):
        (mine,), (rank_one) = ours.plan(times, 1.0), theirs.plan(times, 1.0)[0]
        kernel, expected = (
            p.log_kernel(guess, x_t, step).exp() for p, step in ((ours, mine), (theirs, rank_one))
        )
        assert kernel.dtype == dtype
        torch.testing.assert_close(kernel, expected, **close)
    for method in ("rates", "divergence_rate"):
        arguments = (guess, x_t, t) if method == "rates" else (guess, x_0, x_t, t)
        mine, expected = (getattr(p, method)(*arguments) for p in (ours, theirs))
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, expected.to(dtype), **close)


def test_generic_rates_from_rank_one_kernels() -> None:
    """The shared formulas, given a rank-one chain's own kernel, are its closed forms."""
    one, t = marginal(LAW), time(0.4)
    x_0, x_t = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 0])
    kernel = one.kernel(Flow(), None, t, x_t)
    log_p = Generator(5).normal((4, 3), torch.float64, "cpu").log_softmax(-1)
    inflow = LAW[x_t][:, None].expand(4, 3).scatter(-1, x_t[:, None], 0.0)
    jump = Jump(t, 1 - t, t, 1 / (1 - t))
    beta = jump.beta
    torch.testing.assert_close(
        beta * reverse_rates(kernel, inflow, log_p, x_t), one.rates(log_p, x_t, jump)
    )
    torch.testing.assert_close(
        beta * jump_divergence(kernel, inflow, log_p, x_0, x_t),
        one.divergence_rate(log_p, x_0, x_t, jump),
    )
    ratios = log_ratios(kernel, log_p, x_t)
    torch.testing.assert_close(ratios.gather(-1, x_t[:, None]), torch.zeros(4, 1).double())


def test_densities_know_the_slope_of_time() -> None:
    """d log Q / d tau, against central differences, on both sides of a digit of time."""
    for chain in (Rates(LOPSIDED), ordinal(6, 1.0, 2)):
        for value in (0.04, 0.5, 3.0):
            tau = torch.full((3,), value, dtype=torch.float64, requires_grad=True)
            x, y = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0])
            (slope,) = torch.autograd.grad(chain.after(tau).log_prob(x, y).sum(), tau)
            with torch.no_grad():
                up, down = (chain.after(tau + h).log_prob(x, y) for h in (1e-6, -1e-6))
            torch.testing.assert_close(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-6)


def test_nearest_neighbours() -> None:
    """D01a: symmetric, doubly stochastic, the slowest mode decays as alpha, uniform in the end."""
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(2))
    chain = nearest_neighbour(points, 4)
    generator = chain.inflow(torch.arange(30)).T.clone()
    near = torch.cdist(points, points).fill_diagonal_(torch.inf).argsort(1)[:, :4]
    joined = torch.zeros(30, 30).scatter(1, near, 1.0)
    assert torch.equal(generator.fill_diagonal_(0) > 0, (joined + joined.T) > 0)
    even = torch.full((30,), 1 / 30, dtype=torch.float64)
    torch.testing.assert_close(chain.stationary, even, rtol=1e-14, atol=0)
    q = matrix(chain, 0.9).exp()
    torch.testing.assert_close(q, q.T, rtol=1e-12, atol=0)
    torch.testing.assert_close(q.sum(0), torch.ones(30).double(), rtol=0, atol=1e-13)
    second = torch.linalg.eigvalsh(q)[-2]
    torch.testing.assert_close(second, float64(-0.9).exp(), rtol=1e-12, atol=0)
    late = matrix(chain, -np.log(1e-5)).exp()
    torch.testing.assert_close(late, torch.full_like(late, 1 / 30), rtol=0, atol=1e-4)


def test_relaxed_decays_as_alpha() -> None:
    scaled = relaxed(LOPSIDED)
    q = torch.linalg.matrix_exp(scaled * 2)
    second = torch.linalg.eigvals(q).abs().sort(descending=True).values[1]
    torch.testing.assert_close(second, float64(-2.0).exp())


APART = filled([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
UNSEEN = filled([[0, 1, 0], [1, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Rates(torch.zeros(2, 3)), r"square matrix of at least 2 x 2, got \(2, 3\)"),
        (lambda: Rates(torch.tensor([[-1, 1], [2, 1.0]])), "row 1 of generator must sum to 0"),
        (lambda: Rates(torch.tensor([[1, -1], [1, -1.0]])), "row 0 of generator: rates to other"),
        (lambda: Rates(torch.zeros(2, 2)), "must have a positive rate"),
        (lambda: Rates(LOPSIDED, 4), "classes must be in 1 to 3"),
        (lambda: Rates(APART), "symbols 0 and 2 end in places of their own: join them"),
        (lambda: Rates(UNSEEN, 2), "no class can become symbol 2: leave it out"),
        (lambda: relaxed(APART), "must have one stationary law"),
        (lambda: nearest_neighbour(POINTS, 5), "neighbours must be in 1 to K - 1 = 4, got 5"),
        (lambda: nearest_neighbour(POINTS[0], 1), r"of shape \(K, D\), got \(2,\)"),
        (
            lambda: nearest_neighbour(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 1),
            "neighbours = 1 is too few, class 2 cannot be reached from class 0",
        ),
        (
            lambda: Rates(LOPSIDED).reverse(Flow(), grid(0.5, 0.2), 0.0, torch.zeros(1).long()),
            "eta must be 1, got 0: a Rates transition has the step of Bayes' rule alone",
        ),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
