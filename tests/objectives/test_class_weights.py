"""Papers' losses on chains as weights of the cross-entropy, and reparameterised posteriors."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Categorical,
    Denoising,
    Flow,
    Generator,
    absorbing,
    marginal,
    uniform,
)
from structdiff.objectives import Alpha, ContinuousBound, InverseSigma, UniformTimes
from structdiff.objectives import Uniform as Constant
from structdiff.processes import Estimate, RankOne
from structdiff.schedules import UniformTime
from tests.enumerable import World
from tests.objectives.test_denoising import Only

WORLD = World.random(3, 2)
STEPS = 20


@pytest.mark.parametrize("low", [1e-4, 0.2])
def test_inverse_sigma_is_the_bound(low: float) -> None:
    """E01: draw by draw, MDLM's and MD4's loss is the continuous bound over the range of times."""
    times = UniformTimes(low, 0.95)
    denoiser = WORLD.denoiser(WORLD.process(Categorical(Flow(), absorbing(3))))
    batch = WORLD.data_batch.select(list(range(9)) * 10)
    weighted = Denoising(InverseSigma(), times)(denoiser, batch, Generator(3)).leaves["x"]
    bound = ContinuousBound(times)(denoiser, batch, Generator(3)).leaves["x"]
    assert weighted.max() > 0.1
    torch.testing.assert_close(weighted * (0.95 - low), bound)


def step_term(i: int) -> tuple[Tensor, Any]:
    """T times the KL of step i of D3PM's absorbing chain, and what it looked at."""
    process = WORLD.process(Categorical(Flow(), absorbing(3)))
    denoiser, times = WORLD.denoiser(process), UniformTime(STEPS).times()
    batch = WORLD.data_batch.select(list(range(9)) * 10)
    place = STEPS - i
    terms = Denoising(Constant(), Only(i / STEPS))(denoiser, batch, Generator(2))
    bound = process.bind(batch)
    random = Generator(2)
    random.uniform((1,), torch.float64, "cpu")
    t = bound.times(times[place])
    x_t = bound.diffuse(batch.leaves, bound.times({"x": t["x"].expand(180)}), random)
    estimate = denoiser(batch.with_leaves(x_t), t, None)
    oracle = bound.oracle(batch.leaves, x_t, t)
    (plan,) = bound.plan(times[place : place + 2], 1.0)
    rows = bound.divergence(oracle, estimate, x_t, plan)["x"]
    return STEPS * batch.layouts["x"].mean(rows), (terms.leaves["x"], batch, denoiser)


@pytest.mark.parametrize("i", [2, 7, 20])
def test_reweighted_bound_is_the_bound_times_its_factor(i: int) -> None:
    """D17: the weight (T - t + 1) / T in place of 1 / t is t (T - t + 1) / T of each step's KL.

    T KL is T / t times the cross-entropy of masked rows: in a step a masked row is shown with
    probability 1 / t.
    """
    bound, (entropy, batch, denoiser) = step_term(i)
    assert entropy.max() > 0.1
    torch.testing.assert_close(bound, entropy * STEPS / i)
    terms = Denoising(Alpha(STEPS), Only(i / STEPS))(denoiser, batch, Generator(2))
    torch.testing.assert_close(terms.leaves["x"], entropy * (STEPS - i + 1) / STEPS)
    factor = i * (STEPS - i + 1) / STEPS
    torch.testing.assert_close(terms.leaves["x"], bound * factor / STEPS)


def test_weights_of_alpha() -> None:
    alpha = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(Alpha()(torch.logit(alpha)), alpha)
    torch.testing.assert_close(Alpha(4)(torch.logit(alpha)), alpha + 0.25)
    torch.testing.assert_close(InverseSigma()(torch.logit(alpha)), 1 / (1 - alpha))
    for steps in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"steps must be at least 1, got {steps}"):
            Alpha(steps)


LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize(("s", "t"), [(0.3, 0.35), (0.1, 0.9), (0.0, 0.5)])
def test_routing_marginalises_to_the_posterior(name: str, s: float, t: float) -> None:
    """D05: with v ~ Bernoulli(lambda) of RDM, summed over v, is q(x_s | x_t, x_0).

    x_t = x_0: stay at x_t if v, else redraw from the noise. x_t != x_0: to x_0 if v, else from
    the noise around x_t, beta x_t + (1 - beta) pi.
    """
    transition: RankOne = TRANSITIONS[name]
    pi, symbols = transition.stationary, transition.symbols
    pairs = [(a, b) for a, b in product(range(3), range(symbols)) if a == b or float(pi[b]) > 0]
    x_0, x_t = torch.tensor(pairs).unbind(1)
    process: Any = Categorical(Flow(), transition).bind(Batch.of(x_0))
    (plan,) = process.plan(torch.tensor([t, s], dtype=torch.float64), 1.0)
    oracle = process.oracle(x_0, x_t, torch.tensor(t).double())
    posterior = process.log_kernel(oracle, x_t, plan).exp()

    alpha_t, alpha_s = 1 - t, 1 - s
    beta = alpha_t / alpha_s
    for (clean, noisy), found in zip(pairs, posterior, strict=True):
        here = torch.zeros(symbols, dtype=torch.float64)
        here[noisy] = 1
        if clean == noisy:
            noise = float(pi[noisy])
            chance = 1 - (1 - beta) * (1 - alpha_s) * noise / (alpha_t + (1 - alpha_t) * noise)
            routes = (here, pi)
            # What stays in v = 1 is x_t; the share of the noise that lands there is in v = 0.
            expected = chance * routes[0] + (1 - chance) * routes[1]
        else:
            chance = (alpha_s - alpha_t) / (1 - alpha_t)
            around = beta * here + (1 - beta) * pi
            expected = chance * torch.eye(symbols).double()[clean] + (1 - chance) * around
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("s", [0.0, 0.2, 0.45])
def test_multinomial_diffusion_is_the_uniform_chain(s: float) -> None:
    """D02: theta_post of Hoogeboom et al., eqs. 13-15, and its loss, to 1e-12.

    [alpha x_t + (1 - alpha) / K] [alphabar_s x_0 + (1 - alphabar_s) / K], normalised. A network's
    x_0 put in for the true one is the posterior of a prior guess: weights p_k over q(x_t | k).
    """
    t, classes = 0.5, 4
    pairs = torch.tensor(list(product(range(classes), range(classes))))
    x_0, x_t = pairs.unbind(1)
    process: Any = Categorical(Flow(), uniform(classes)).bind(Batch.of(x_0))
    one_hot, alpha = torch.eye(classes).double(), (1 - t) / (1 - s)

    def posterior(guess: Tensor) -> Tensor:
        now = alpha * one_hot[x_t] + (1 - alpha) / classes
        before = (1 - s) * guess + s / classes
        return now * before / (now * before).sum(-1, keepdim=True)

    (plan,) = process.plan(torch.tensor([t, s], dtype=torch.float64), 1.0)
    time = torch.tensor(t, dtype=torch.float64)
    oracle = process.oracle(x_0, x_t, time)
    truth = posterior(one_hot[x_0])
    torch.testing.assert_close(
        process.log_kernel(oracle, x_t, plan).exp(), truth, rtol=0, atol=1e-12
    )
    logits = Generator(0).normal((len(pairs), classes), torch.float64, "cpu")
    seen = process.from_clean(time, x_t).column(x_t)
    estimate = Estimate(torch.log_softmax(logits + seen, -1))
    guessed = posterior(torch.softmax(logits, -1))
    torch.testing.assert_close(
        process.log_kernel(estimate, x_t, plan).exp(), guessed, rtol=0, atol=1e-12
    )
    loss = (torch.xlogy(truth, truth) - torch.xlogy(truth, guessed)).sum(-1)
    torch.testing.assert_close(process.divergence(oracle, estimate, x_t, plan), loss)
