"""Rates of time reversals, the ratios they follow from, and divergences per unit of time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    absorbing,
    marginal,
    uniform,
)
from structdiff.processes import Estimate
from structdiff.schedules import MaskCosine, Polynomial, Schedule, Survival
from tests.enumerable import World, records
from tests.processes.cases import CHAINS, GAUSSIANS, MANIFOLDS, Case, grid, said_by_a_network, time

LAW = torch.tensor([0.5, 0.3, 0.2])
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}
SCHEDULES: dict[str, Schedule] = {
    "flow": Flow(),
    "cosine": MaskCosine(),
    "square": Polynomial(2),
    "survival": Survival(Cosine()),
}
CONTINUOUS = {name: case for name, case in CHAINS.items() if case.generator is not None}
SMOOTH = GAUSSIANS | MANIFOLDS | CONTINUOUS
SEED = 0
"""A draw in which some rows are noise and some are not, at all times of these tests."""

WORLD = World.random(3, 2)


def looked_at(case: Case, t: Tensor) -> tuple[Any, Tensor, Tensor, Estimate]:
    """A bound process, clean rows, noisy ones, and an estimate that is a guess."""
    batch = case.batch()
    process: Any = case.process.bind(batch)
    x_0 = batch["x"]
    x_t = process.diffuse(x_0, t, Generator(SEED))
    return process, x_0, x_t, process.decode(said_by_a_network(process, x_t), x_t, t)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("at", [0.1, 0.6, 0.95])
def test_rates_are_the_limit_of_short_steps(name: str, at: float) -> None:
    """P(x_s = j | x_t) / h tends to the rate; two lengths extrapolate to none."""
    process, _, x_t, estimate = looked_at(CHAINS[name], time(at))
    slopes = []
    for h in (2e-5, 1e-5):
        (step,) = process.plan(grid(at, at - h), 1.0)
        kernel = process.log_kernel(estimate, x_t, step).exp()
        slopes.append(kernel.scatter(-1, x_t.unsqueeze(-1), 0.0) / h)
    rates = process.rates(estimate, x_t, time(at))
    torch.testing.assert_close(rates, 2 * slopes[1] - slopes[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("at", [0.3, 0.8])
def test_divergence_rate_is_the_limit_of_short_steps(name: str, at: float) -> None:
    process, x_0, x_t, estimate = looked_at(SMOOTH[name], time(at))
    oracle = process.oracle(x_0, x_t, time(at))
    slopes = []
    for h in (2e-5, 1e-5):
        (step,) = process.plan(grid(at, at - h), 1.0)
        slopes.append(process.divergence(oracle, estimate, x_t, step) / h)
    rate = process.divergence_rate(estimate, x_0, x_t, time(at))
    assert rate.max() > 0.01
    torch.testing.assert_close(rate.double(), 2 * slopes[1] - slopes[0], rtol=1e-4, atol=1e-5)


def laws(name: str, schedule: Schedule, at: float) -> tuple[Any, Tensor, Tensor]:
    """The process of a world, the law of x_t as a table, and all noisy records it allows."""
    process = WORLD.process(Categorical(schedule, TRANSITIONS[name]))
    law = WORLD.noisy(process, at)
    return process, law.reshape((process["x"].symbols,) * 2), records(process["x"].symbols, 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", TRANSITIONS)
def test_exact_estimates_give_the_enumerated_ratios_and_rates(name: str, schedule: str) -> None:
    """E02: p_t(y) / p_t(x) of all records y that differ in one row, and beta R times it.

    A row that noise cannot have made says nothing of ratios, and no rate needs them there.
    """
    process, law, states = laws(name, SCHEDULES[schedule], 0.4)
    said = WORLD.estimates(WORLD.denoiser(process), states, 0.4)["x"]
    leaf, x_t = process.bind(WORLD.batch(states))["x"], states.flatten()
    ratios = leaf.ratios(said, x_t, time(0.4)).exp().reshape(len(states), 2, -1)
    rates = leaf.rates(said, x_t, time(0.4)).reshape(len(states), 2, -1)
    point = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SCHEDULES[schedule](point).alpha.log(), point)
    for i, (a, b) in enumerate(states.tolist()):
        truth = torch.stack([law[:, b], law[a]]) / law[a, b]
        forward = -slope * leaf.stationary[[a, b]]
        noise = forward > 0
        torch.testing.assert_close(ratios[i][noise], truth[noise], rtol=1e-9, atol=1e-12)
        backward = forward.unsqueeze(1) * truth
        backward[0, a] = backward[1, b] = 0.0
        torch.testing.assert_close(rates[i], backward, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_divergence_rate_is_the_score_entropy(name: str, at: float) -> None:
    """E02: eq. 5 of Lou et al., weighted by the forward rates, entry by entry.

    sum_{y != x} Q(y, x) (s_y - r_y log s_y + r_y (log r_y - 1)), where s are the ratios at the
    estimate and r = q(y | x_0) / q(x | x_0).
    """
    process, x_0, x_t, estimate = looked_at(CHAINS[name], time(at))
    rates = process.jump(time(at), x_t).beta * CHAINS[name].generator
    s = process.ratios(estimate, x_t, time(at)).exp()
    symbols = torch.arange(process.symbols).expand(*x_t.shape, -1)
    kernel = process.from_clean(time(at), x_t)
    q = torch.stack([kernel.log_prob(y, x_0).exp() for y in symbols.unbind(-1)], -1)
    r = q / q.gather(-1, x_t.unsqueeze(-1))
    terms = s - torch.xlogy(r, s) + torch.xlogy(r, r) - r
    forward = rates.T[x_t]
    other = symbols != x_t.unsqueeze(-1)
    total = torch.where(other & (forward > 0), forward * terms, 0.0).sum(-1)
    rate = process.divergence_rate(estimate, x_0, x_t, time(at))
    torch.testing.assert_close(rate, total.flatten(1).sum(1) if total.ndim > 1 else total)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_absorbing_rate_is_a_weighted_cross_entropy(schedule: str) -> None:
    """E01: -alpha' / (1 - alpha) times -log p(x_0) at masked rows, eq. 10 of Sahoo et al."""
    process, x_0, x_t, estimate = looked_at(
        Case(Categorical(SCHEDULES[schedule], absorbing(3), event=(4,)), "classes"), time(0.4)
    )
    point = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    alpha = SCHEDULES[schedule](point).alpha
    (slope,) = torch.autograd.grad(alpha, point)
    entropy = -estimate.value.gather(-1, x_0.unsqueeze(-1)).squeeze(-1)
    expected = (-slope / (1 - alpha.detach()) * entropy * (x_t == 3)).sum(1)
    rate = process.divergence_rate(estimate, x_0, x_t, time(0.4))
    assert 0 < (x_t == 3).sum() < x_t.numel()
    torch.testing.assert_close(rate, expected)


def test_gaussian_rate_is_that_of_variational_diffusion() -> None:
    """-SNR' |x_0 - estimate|^2 / 2, eq. 15 of Kingma et al., by automatic differentiation."""
    x_0 = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
    process: Any = Gaussian(Cosine(), event=(2,)).bind(Batch.of(x_0))
    t = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.exp(Cosine().log_snr(t)).sum(), t)
    estimate = Estimate(x_0 + torch.tensor([[0.1, 0.2], [-0.4, 0.0]], dtype=torch.float64))
    rate = process.divergence_rate(estimate, x_0, torch.zeros_like(x_0), t.detach())
    torch.testing.assert_close(rate, -slope / 2 * torch.tensor([0.05, 0.16]).double())


@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradients_of_the_divergence_rate(name: str) -> None:
    """Its backward pass is written by hand: against finite differences, through the decoder."""
    process, x_0, x_t, _ = looked_at(CHAINS[name], time(0.5))
    output = said_by_a_network(process, x_t).requires_grad_()

    def rate(logits: Tensor) -> Tensor:
        estimate = process.decode(logits, x_t, time(0.5))
        value: Tensor = process.divergence_rate(estimate, x_0, x_t, time(0.5))
        return value

    assert torch.autograd.gradcheck(rate, (output,))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_divergence_rate_vanishes_at_the_truth_alone(name: str) -> None:
    process, x_0, x_t, _ = looked_at(CHAINS[name], time(0.5))
    oracle = process.oracle(x_0, x_t, time(0.5))
    rate = process.divergence_rate(oracle, x_0, x_t, time(0.5))
    torch.testing.assert_close(rate, torch.zeros_like(rate), rtol=0, atol=1e-12)
    for seed in range(5):
        said = said_by_a_network(process, x_t, seed)
        estimate = process.decode(said, x_t, time(0.5))
        assert (process.divergence_rate(estimate, x_0, x_t, time(0.5)) >= 0).all()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_frozen_rates_leave_an_error_of_second_order(name: str) -> None:
    """One tau-leaping step against the exact one: halving the length divides the error by four."""
    process, _, x_t, estimate = looked_at(CHAINS[name], time(0.5))
    errors = []
    for h in (4e-3, 2e-3):
        (leap,), (exact,) = process.leap(grid(0.5, 0.5 - h)), process.plan(grid(0.5, 0.5 - h), 1.0)
        frozen = process.log_kernel(estimate, x_t, leap).exp()
        torch.testing.assert_close(frozen.sum(-1), torch.ones_like(x_t, dtype=frozen.dtype))
        gap = frozen - process.log_kernel(estimate, x_t, exact).exp()
        errors.append(float(gap.abs().max()))
    assert errors[0] > 1e-6
    assert 3.8 < errors[0] / errors[1] < 4.2
