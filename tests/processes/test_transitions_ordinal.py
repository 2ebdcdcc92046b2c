"""The walk between two ends: against its own matrix exponential, its cosines, and its storage."""

from __future__ import annotations

import math

import mpmath
import pytest
import scipy.linalg
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator
from structdiff.processes import Ordinal, ordinal
from structdiff.processes.transitions.walk import Sites
from tests.processes.cases import grid, ordinal_rates, time

CHAINS = {
    "two": (2, 1.0, 1),
    "narrow": (12, 0.4, 1),
    "wide": (12, 1.5, 5),
    "as wide as can be": (6, 3.0, 5),
}
each = pytest.mark.parametrize(("classes", "width", "band"), CHAINS.values(), ids=CHAINS)


def matrix(chain: Ordinal, tau: float) -> Tensor:
    return chain.after(time(tau)).column(torch.arange(chain.classes)).T


@each
def test_kernels_are_the_matrix_exponential(classes: int, width: float, band: int) -> None:
    """D01a: symmetric, doubly stochastic, uniform in the end; the slowest mode decays as alpha."""
    chain, generator = ordinal(classes, width, band), ordinal_rates(classes, width, band)
    rates = chain.inflow(torch.arange(classes))
    torch.testing.assert_close(rates - torch.diag(rates.sum(1)), generator, rtol=1e-12, atol=1e-13)
    ones = torch.ones(classes, dtype=torch.float64)
    for tau in (0.0, 1e-6, 0.02, 0.8, 5.0):
        q = matrix(chain, tau).exp()
        expected = torch.from_numpy(scipy.linalg.expm(tau * generator.numpy()))
        torch.testing.assert_close(q, expected, rtol=0, atol=1e-13)
        torch.testing.assert_close(q, q.T, rtol=1e-12, atol=0)
        torch.testing.assert_close(q.sum(0), ones, rtol=0, atol=1e-13)
    late = matrix(chain, -math.log(1e-5)).exp()
    torch.testing.assert_close(late, torch.full_like(late, 1 / classes), rtol=0, atol=1e-4)
    ends = matrix(chain, math.inf).exp()
    torch.testing.assert_close(ends, torch.full_like(ends, 1 / classes), rtol=1e-15, atol=0)


@pytest.mark.parametrize("tau", [1e-4, 3e-3, 0.2])
def test_small_entries_are_as_accurate_as_large_ones(tau: float) -> None:
    generator, chain = ordinal_rates(18, 0.6, 3), ordinal(18, 0.6, 3)
    with mpmath.workdps(90):
        product = mpmath.expm(mpmath.matrix(generator.tolist()) * mpmath.mpf(tau), method="taylor")
        log = [[float(mpmath.log(q)) for q in row] for row in product.tolist()]
    expected = torch.tensor(log, dtype=torch.float64)
    seen = expected > math.log(1e-30)
    torch.testing.assert_close(matrix(chain, tau)[seen], expected[seen], rtol=0, atol=1e-11)


def test_modes_are_cosines() -> None:
    """Each cosine is an eigenvector, and decays as its formula says."""
    classes, weights = 9, torch.tensor([1.0, 0.3, 0.1]).double()
    chain = Ordinal(classes, weights)
    jumps, q = chain.sites.jumps, matrix(chain, 0.7).exp()
    for k in range(classes):
        angle = math.pi * k * (torch.arange(classes, dtype=torch.float64) + 0.5) / classes
        m = torch.arange(1, 4, dtype=torch.float64)
        decay = 2 * (jumps * (1 - torch.cos(math.pi * k * m / classes))).sum()
        torch.testing.assert_close(
            q @ angle.cos(), torch.exp(-0.7 * decay) * angle.cos(), rtol=0, atol=1e-13
        )


@each
def test_draws_are_the_kernel(classes: int, width: float, band: int) -> None:
    chain, n = ordinal(classes, width, band), 20_000
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for start in (0, classes - 1, classes // 2):
        x = torch.full((n,), start)
        for tau in (time(0.15), torch.full((n,), 0.15, dtype=torch.float64)):
            drawn = chain.after(tau).draw(x, quantiles)
            frequency = torch.bincount(drawn, minlength=classes).double() / n
            expected = matrix(chain, 0.15).exp()[start]
            torch.testing.assert_close(frequency, expected, rtol=0, atol=2 / n)
        assert torch.equal(chain.after(time(0.0)).draw(x, quantiles), x)


@each
def test_times_by_row_are_times(classes: int, width: float, band: int) -> None:
    chain = ordinal(classes, width, band)
    taus = torch.tensor([0.0, 1e-3, 0.4, 5.0, torch.inf], dtype=torch.float64)
    x = torch.arange(10).reshape(5, 2) % classes
    law = Generator(1).normal((5, 2, classes), torch.float64, "cpu") * 20
    kernel = chain.after(taus[:, None])
    for i, tau in enumerate(taus):
        one = chain.after(tau)
        close = {"rtol": 0, "atol": 1e-11}
        torch.testing.assert_close(kernel.column(x)[i], one.column(x[i]), **close)
        torch.testing.assert_close(kernel.push(law)[i], one.push(law[i]), **close)
        torch.testing.assert_close(
            kernel.log_prob(x, x.flip(1))[i], one.log_prob(x[i], x[i].flip(0)), **close
        )


def test_the_quick_walk_is_the_exact_one() -> None:
    sites = Sites(40, torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64))
    taus = torch.tensor([0.0, 1e-3, 0.3, 20.0], dtype=torch.float64)
    torch.testing.assert_close(sites.quick(taus), sites.walk(taus), rtol=0, atol=1e-15)


def test_a_thousand_classes() -> None:
    """No K x K matrix is stored; a step between rare ends is a law, in float32 too."""
    chain = ordinal(1024, 2.0)
    assert sum(buffer.numel() for buffer in chain.buffers()) < 1024 * 1024 / 8
    x_0 = torch.tensor([0, 500, 1023])
    process = Categorical(Flow(), chain).bind(Batch.of(x_0))
    t = torch.tensor([0.001, 0.3, 0.9], dtype=torch.float64)
    x_t = process.diffuse(x_0, t, Generator(0))
    spread = (x_t - x_0).abs().tolist()
    assert spread[0] < spread[1] < 1023
    estimate = process.decode(torch.zeros(3, 1024), x_t, time(0.5))
    (step,) = process.plan(grid(0.5, 0.4999), 1.0)
    law = process.log_kernel(estimate, x_t, step).exp()
    assert law.dtype == torch.float32
    torch.testing.assert_close(law.sum(1), torch.ones(3), rtol=0, atol=1e-5)
    # A step of t is worth (t - s) / (1 - t) of tau, and 2 c of variance a unit of it.
    jumps = chain.sites.jumps
    m = torch.arange(1, len(jumps) + 1)
    variance = float(2 * (jumps * m**2).sum() * math.log(0.5001 / 0.5))
    place = torch.arange(1024)
    middle = process.decode(torch.zeros(1, 1024), torch.tensor([500]), time(0.5))
    got = process.log_kernel(middle, torch.tensor([500]), step).exp()[0]
    spread_of = float((got * (place - 500) ** 2).sum())
    assert abs(spread_of / variance - 1) < 0.01


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Ordinal(3, torch.ones(3)), r"1 to classes - 1 numbers, got shape \(3,\)"),
        (lambda: Ordinal(1, torch.ones(1)), "classes = 1 at least 2"),
        (lambda: Ordinal(3, torch.tensor([0.0, 1.0])), "that of a jump by 1 positive"),
        (lambda: Ordinal(3, torch.tensor([1.0, -1.0])), "finite and not negative"),
        (lambda: ordinal(8, width=0.0), "width must be positive and finite, got 0.0"),
        (lambda: ordinal(8, band=8), "band must be in 1 to classes - 1, got 8 of 8"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
