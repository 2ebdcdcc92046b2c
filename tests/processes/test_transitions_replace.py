"""Mask and replace in continuous time: against its matrix exponential."""

from __future__ import annotations

import math

import pytest
import scipy.linalg
import torch
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator, absorbing
from structdiff.processes import Estimate, MaskAndReplace, mask_and_replace
from tests.processes.cases import grid, replacing, time

SHARES = [0.05, 0.5, 0.95]
share = pytest.mark.parametrize("share", SHARES)


def matrix(chain: MaskAndReplace, tau: float) -> Tensor:
    return chain.after(time(tau)).column(torch.arange(chain.symbols)).T.exp()


@share
def test_kernels_are_the_matrix_exponential(share: float) -> None:
    chain, generator = mask_and_replace(4, share), replacing(4, share)
    rates = chain.inflow(torch.arange(5)).T
    torch.testing.assert_close(rates - torch.diag(rates.sum(1)), generator)
    for tau in (0.0, 1e-12, 1e-3, 0.4, 3.0, 50.0):
        expected = torch.from_numpy(scipy.linalg.expm(tau * generator.numpy()))
        ours = matrix(chain, tau)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(ours.sum(1), torch.ones(5).double(), rtol=0, atol=1e-15)
    end = matrix(chain, math.inf)
    assert torch.equal(end, chain.stationary.expand(5, -1))


def test_the_closed_form_of_the_paper() -> None:
    """D15: Qbar v = alphabar v + (gammabar - betabar) m + betabar, for a class v, at all times."""
    chain, k = mask_and_replace(5, 0.2), 5
    for tau in (0.1, 1.0, 4.0):
        alpha = math.exp(-tau)
        gamma = 1 - math.exp(-0.8 * tau)
        beta = (1 - alpha - gamma) / k
        for v in range(k):
            law = torch.full((k + 1,), beta, dtype=torch.float64)
            law[v] += alpha
            law[k] += gamma - beta
            torch.testing.assert_close(matrix(chain, tau)[v], law, rtol=0, atol=1e-15)


@share
def test_few_replacements_are_the_absorbing_chain(share: float) -> None:
    """The share of masked rows at t is that of an absorbing chain with the clock of masking."""
    masked = matrix(mask_and_replace(3, share), 0.7)[0, 3]
    clock = 1 - math.exp(-0.7 * (1 - share))
    other = absorbing(3).kernel(Flow(), None, time(clock), torch.tensor([3]))
    expected = other.log_prob(torch.tensor([3]), torch.tensor([0])).exp()[0]
    torch.testing.assert_close(masked, expected.double())


@share
def test_draws_are_the_kernel(share: float) -> None:
    chain, n = mask_and_replace(3, share), 20_000
    quantiles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    for start in range(4):
        x = torch.full((n,), start)
        for tau in (0.0, 0.3, 2.0, math.inf):
            expected = matrix(chain, tau)[start]
            for times in (time(tau), torch.full((n,), tau, dtype=torch.float64)):
                drawn = chain.after(times).draw(x, quantiles)
                frequency = torch.bincount(drawn, minlength=4).double() / n
                torch.testing.assert_close(frequency, expected, rtol=0, atol=2 / n)


def test_times_by_row_are_times() -> None:
    chain = mask_and_replace(3, 0.3)
    taus = torch.tensor([0.0, 0.4, 5.0, torch.inf], dtype=torch.float64)
    x = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2]])
    law = Generator(1).normal((4, 2, 4), torch.float64, "cpu") * 5
    kernel = chain.after(taus[:, None])
    for i, tau in enumerate(taus):
        one = matrix(chain, float(tau))
        torch.testing.assert_close(kernel.column(x)[i].exp(), one.T[x[i]])
        torch.testing.assert_close(kernel.push(law)[i].exp(), law[i].exp() @ one)
        torch.testing.assert_close(kernel.log_prob(x, x.flip(1))[i].exp(), one[x[i].flip(0), x[i]])


def test_the_mask_is_no_clean_class() -> None:
    """D15: an estimate has K numbers, and the step to the data never draws the mask."""
    process = Categorical(Flow(), mask_and_replace(3, 0.3)).bind(Batch.of(torch.arange(4)))
    x_t, t = torch.arange(4), time(0.6)
    said = Generator(2).normal((4, 3), torch.float64, "cpu")
    estimate = process.decode(said, x_t, t)
    torch.testing.assert_close(estimate.value, said.log_softmax(-1))
    (to_clean,) = process.plan(grid(0.6, -1.0), 1.0)
    law = process.log_kernel(estimate, x_t, to_clean).exp()
    torch.testing.assert_close(law[:, :3], estimate.value.exp())
    assert law[:, 3].tolist() == [0.0] * 4
    (step,) = process.plan(grid(0.6, 0.3), 1.0)
    masked = process.log_kernel(Estimate(estimate.value), x_t, step).exp()[:, 3]
    assert masked[:3].tolist() == [0.0] * 3  # nothing is masked on the way to the data
    assert float(masked[3]) > 0.1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: mask_and_replace(1), "classes must be at least 2, got 1: use absorbing"),
        (lambda: mask_and_replace(3, 0.0), r"replace must be in \(0, 1\), got 0.0: its ends are"),
        (lambda: mask_and_replace(3, 1.0), r"replace must be in \(0, 1\), got 1.0"),
    ],
)
def test_refusals(make: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()  # type: ignore[operator]
