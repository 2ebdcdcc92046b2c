"""Chains given by their one-step matrices, and the published ones among them."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator
from structdiff.processes import Grid, Rates, discretised_gaussian, vq_diffusion
from structdiff.schedules import CLEAN
from tests.processes.cases import LOPSIDED, grid, time


def random_grid(steps: int = 10, symbols: int = 4) -> Grid:
    logits = torch.randn(
        steps, symbols, symbols, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return Grid(logits.softmax(-1))


def product(chain: Grid, start: int, end: int) -> Tensor:
    eye = torch.eye(chain.symbols, dtype=torch.float64)
    return functools.reduce(torch.matmul, chain.matrices[start:end], eye)


def test_kernels_are_products() -> None:
    """From the data and between any two steps, for all rows at once and by row."""
    chain = random_grid()
    x, y = torch.arange(4).repeat(4), torch.arange(4).repeat_interleave(4)
    for s, t in ((None, 0.3), (0.0, 1.0), (0.2, 0.2), (0.4, 0.9), (CLEAN, 0.1)):
        start, end = round(max(s or 0, 0) * 10), round(t * 10)
        expected = product(chain, start, end)
        for shape in ((), (16,)):
            first = None if s is None else torch.full(shape, s, dtype=torch.float64)
            last = torch.full(shape, t, dtype=torch.float64)
            kernel = chain.kernel(Flow(), first, last, x)
            close = {"rtol": 1e-12, "atol": 1e-15}
            torch.testing.assert_close(kernel.log_prob(x, y).exp(), expected[y, x], **close)
            torch.testing.assert_close(kernel.column(x).exp(), expected.T[x], **close)
            law = Generator(1).normal((16, 4), torch.float64, "cpu") * 9
            torch.testing.assert_close(kernel.push(law).exp(), law.exp() @ expected, **close)


def test_each_row_has_its_own_time() -> None:
    """And an event shares its row's; x_s is taken on to each t."""
    chain = random_grid()
    s, t = (torch.tensor(u, dtype=torch.float64) for u in ([0.0, 0.3, 0.5], [0.4, 0.3, 1.0]))
    x, y = torch.tensor([[0, 1], [2, 2], [3, 0]]), torch.tensor([[1, 1], [2, 3], [0, 2]])
    between, whole = chain.kernel(Flow(), s, t, x), chain.kernel(Flow(), None, t, x)
    for row, (start, end) in enumerate(((0, 4), (3, 3), (5, 10))):
        expected = product(chain, start, end)[x[row], y[row]]
        torch.testing.assert_close(between.log_prob(y, x)[row].exp(), expected)
        expected = product(chain, 0, end)[x[row], y[row]]
        torch.testing.assert_close(whole.log_prob(y, x)[row].exp(), expected)


def test_draws_are_the_kernel() -> None:
    chain, n = random_grid(), 20_000
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for s, t in ((None, 0.3), (0.2, 0.6)):
        expected = product(chain, round((s or 0) * 10), round(t * 10))
        for shape in ((), (n,)):
            first = None if s is None else torch.full(shape, s, dtype=torch.float64)
            x = torch.full((n,), 2)
            kernel = chain.kernel(Flow(), first, torch.full(shape, t, dtype=torch.float64), x)
            frequency = torch.bincount(kernel.draw(x, quantiles), minlength=4).double() / n
            torch.testing.assert_close(frequency, expected[2], rtol=0, atol=2 / n)


def test_a_step_may_leave_out_steps_of_the_grid() -> None:
    """Bayes' rule from t = 0.9 to 0.4, by enumeration, to 1e-12."""
    chain = random_grid()
    x_t = torch.arange(4).repeat(4)
    x_0 = torch.arange(4).repeat_interleave(4)
    process = Categorical(Flow(), chain).bind(Batch.of(x_t))
    (step,) = process.plan(grid(0.9, 0.4), 1.0)
    ours = process.log_kernel(process.oracle(x_0, x_t, time(0.9)), x_t, step).exp()
    joint = product(chain, 0, 4)[x_0] * product(chain, 4, 9)[:, x_t].T
    torch.testing.assert_close(ours, joint / joint.sum(1, keepdim=True), rtol=0, atol=1e-12)


def test_the_stationary_law() -> None:
    """That of the last matrix, and it may be absorbing."""
    chain = random_grid()
    torch.testing.assert_close(chain.stationary @ chain.matrices[-1], chain.stationary)
    eye = torch.eye(3, dtype=torch.float64)
    fall = torch.stack([0.5 * eye + 0.5 * eye[2]])
    assert Grid(fall, 2).stationary.tolist() == [0, 0, 1]


def test_what_cannot_be_is_barred() -> None:
    """0 -> 1 -> 2 -> 2, one class a step: at t = 1/2 a 1 was a 0."""
    shift = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 1]]).double()
    x_t = torch.tensor([1, 2])
    process = Categorical(Flow(), Grid(torch.stack([shift, shift]))).bind(Batch.of(x_t))
    value = process.decode(torch.zeros(2, 3).double(), x_t, time(0.5)).value.exp()
    torch.testing.assert_close(value, torch.tensor([[1, 0, 0], [0, 0.5, 0.5]]).double())


def test_the_discretised_gaussian() -> None:
    """D01a: eq. 8 entry by entry; symmetric, doubly stochastic, uniform in the end."""
    k, betas = 7, torch.linspace(0.05, 2.0, 60, dtype=torch.float64)
    chain = discretised_gaussian(k, betas)
    for i in (0, 30):
        total = sum(
            math.exp(-4 * n**2 / ((k - 1) ** 2 * float(betas[i]))) for n in range(1 - k, k)
        )
        for a in range(k):
            for b in range(k):
                if a != b:
                    q = math.exp(-4 * (a - b) ** 2 / ((k - 1) ** 2 * float(betas[i]))) / total
                    assert math.isclose(float(chain.matrices[i, a, b]), q, rel_tol=1e-12)
    ones = torch.ones(61, k, dtype=torch.float64)
    torch.testing.assert_close(chain.products.sum(1), ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(chain.products.sum(2), ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(chain.matrices, chain.matrices.mT, rtol=1e-14, atol=0)
    end = chain.products[-1]
    torch.testing.assert_close(end, torch.full_like(end, 1 / k), rtol=0, atol=1e-4)


def test_an_image_of_256_levels() -> None:
    """The paper's betas, which leave most entries at zero: every step is a law."""
    chain = discretised_gaussian(256, torch.linspace(1e-4, 0.02, 20))
    x_0 = torch.tensor([0, 3, 128, 255])
    process = Categorical(Flow(), chain).bind(Batch.of(x_0))
    for t, s in ((0.05, CLEAN), (0.5, 0.45), (1.0, 0.5)):
        x_t = process.diffuse(x_0, time(t), Generator(0))
        estimate = process.decode(torch.zeros(4, 256), x_t, time(t))
        assert bool((estimate.value.gather(1, x_0[:, None]) > -torch.inf).all())
        (step,) = process.plan(grid(t, s), 1.0)
        law = process.log_kernel(estimate, x_t, step).exp()
        torch.testing.assert_close(law.sum(1), torch.ones(4), rtol=0, atol=1e-5)


def test_vq_diffusion() -> None:
    """D15: the closed form is the product of the matrices, K = 5, T = 20; betas by the paper."""
    k, steps = 5, 20
    chain = vq_diffusion(k, steps)
    for i in range(1, steps + 1):
        share = (i - 1) / (steps - 1)
        alpha = 0.99999 + share * (9e-6 - 0.99999)
        gamma = 9e-6 + share * (0.99999 - 9e-6)
        beta = (1 - alpha - gamma) / k
        for v in range(k):
            law = torch.full((k + 1,), beta, dtype=torch.float64)
            law[v] += alpha
            law[k] += gamma - beta
            ours = product(chain, 0, i)[v]
            torch.testing.assert_close(ours, law, rtol=0, atol=1e-12)
        assert product(chain, 0, i)[k].tolist() == [0] * k + [1]
    end = chain.products[-1, :k]
    torch.testing.assert_close(end, chain.stationary.expand(k, -1), rtol=0, atol=1e-5)


def test_vq_diffusion_never_says_that_data_are_masked() -> None:
    """D15: at every step of the way the last law over x_0 has nothing on the mask."""
    chain = vq_diffusion(5, 20)
    x_t = torch.arange(6)
    process = Categorical(Flow(), chain).bind(Batch.of(x_t))
    said = Generator(2).normal((6, 5), torch.float64, "cpu")
    for t in (0.05, 0.5, 1.0):
        estimate = process.decode(said, x_t, time(t))
        assert estimate.value.shape == (6, 5)
        (step,) = process.plan(grid(t, CLEAN), 1.0)
        law = process.log_kernel(estimate, x_t, step).exp()
        torch.testing.assert_close(law[:, :5], said.softmax(-1))
        assert law[:, 5].tolist() == [0.0] * 6


def process() -> Any:
    return Categorical(Flow(), random_grid()).bind(Batch.of(torch.tensor([0, 1])))


def asked(method: str) -> object:
    bound, x = process(), torch.tensor([0, 1])
    estimate = bound.decode(torch.zeros(2, 4).double(), x, time(0.5))
    if method == "rates":
        return bound.rates(estimate, x, time(0.5))
    return bound.divergence_rate(estimate, x, x, time(0.5))


ROWS = torch.tensor([[0.5, 0.5], [0.3, 0.6]])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (
            lambda: process().plan(grid(0.55, 0.5), 1.0),
            "times must be i / 10 on this chain, got 0.55 after 5/10: take UniformTime",
        ),
        (lambda: process().diffuse(torch.tensor([0, 1]), time(0.32), Generator(0)), "got 0.32"),
        (lambda: process().plan(grid(0.5, 0.4), 0.0), "eta must be 1, got 0: a Grid transition"),
        (lambda: process().leap(grid(0.5, 0.4)), "given on a grid and has no rates"),
        (lambda: asked("rates"), "has no generator, so no rates: use plan and divergence"),
        (lambda: asked("divergence_rate"), "has no generator, so no rates"),
        (lambda: Grid(torch.eye(2)), r"matrices must have shape \(T, S, S\), got \(2, 2\)"),
        (lambda: Grid(ROWS[None]), r"row 1 of matrices\[0\] must be non-negative and sum to 1"),
        (lambda: Grid(torch.eye(2)[None]), "the last of matrices must have one stationary law"),
        (lambda: Grid(torch.full((1, 2, 2), 0.5), 3), "classes must be in 1 to 2"),
        (
            lambda: Grid(torch.full((1, 2, 2), 0.5), 2, torch.full((3,), 1 / 3)),
            "stationary must have 2 numbers, as the matrices, got 3",
        ),
        (lambda: discretised_gaussian(1, torch.ones(2)), "classes must be at least 2, got 1"),
        (lambda: discretised_gaussian(4, torch.zeros(2)), "a vector of positive numbers"),
        (lambda: vq_diffusion(4, 1), "steps at least 2, got 4 and 1"),
        (lambda: vq_diffusion(4, 9, left=0.5, masked=0.6), "and their sum below 1, got 0.5"),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_only_a_grid_is_not_continuous() -> None:
    assert not random_grid().continuous
    assert Rates(LOPSIDED).continuous
