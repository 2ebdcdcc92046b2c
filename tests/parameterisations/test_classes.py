"""What a network may predict on classes: logistic laws against scipy, ratios against worlds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from structdiff import Batch, Categorical, Flow, Generator, Product, absorbing, marginal, uniform
from structdiff.parameterisations import Joint, Logistic, Ratios, TruncatedLogistic
from structdiff.processes import RankOne
from structdiff.testing import ExactDenoiser
from tests.processes.cases import LAW, time

HALF = torch.tensor(0.5)
OUTPUTS = torch.tensor([[0.0, 0.0], [0.3, 1.5], [-1.2, -2.0], [4.0, 5.0]], dtype=torch.float64)
SYMBOLS = torch.tensor([0, 3, 7, 8])
"""Of 8 classes; the last one is a mask."""


def expected(truncated: bool) -> Tensor:
    """By scipy's distribution function."""
    rows = []
    for (mean, scale), x in zip(OUTPUTS.tolist(), SYMBOLS.tolist(), strict=True):
        here = 2 * x / 7 - 1 if x < 8 else 0.0
        law = stats.logistic(math.tanh(here + mean), math.exp(scale - 2))
        edges = [(2 * k - 1) / 7 - 1 for k in range(9)]
        cdf = [float(law.cdf(edge)) for edge in edges]
        if not truncated:
            cdf[0], cdf[-1] = 0.0, 1.0
        p = [(b - a) / (cdf[-1] - cdf[0]) for a, b in zip(cdf[:-1], cdf[1:], strict=True)]
        rows.append(p)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("truncated", [True, False])
def test_the_logistic_law(truncated: bool) -> None:
    """D01: D3PM's A.8 (renormalised), and with the tails on the ends."""
    choice = (TruncatedLogistic if truncated else Logistic)(8)
    logits = choice.decode(OUTPUTS, SYMBOLS, HALF, HALF)
    torch.testing.assert_close(logits.softmax(-1), expected(truncated), rtol=1e-9, atol=1e-12)
    if not truncated:
        total = logits.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-13)
    low = choice.decode(OUTPUTS.float(), SYMBOLS, HALF, HALF)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), logits, rtol=1e-4, atol=1e-4)
    assert choice.decode(OUTPUTS.bfloat16(), SYMBOLS, HALF, HALF).dtype == torch.float32


@pytest.mark.parametrize("choice", [TruncatedLogistic(256), Logistic(256)])
def test_far_tails_in_float32(choice: Any) -> None:
    """Scales from e^-8 to e^8: finite logits and slopes, where a difference of CDFs gives 0."""
    output = torch.tensor([[0.5, -6.0], [-3.0, 10.0], [0.0, 0.0]], requires_grad=True)
    logits = choice.decode(output, torch.tensor([0, 128, 255]), HALF, HALF)
    assert bool(logits.isfinite().all())
    loss = -logits.log_softmax(-1)[:, 77].sum()
    (slope,) = torch.autograd.grad(loss, output)
    assert bool(slope.isfinite().all())
    wide = output.detach().double().requires_grad_()
    other = choice.decode(wide, torch.tensor([0, 128, 255]), HALF, HALF)
    (reference,) = torch.autograd.grad(-other.log_softmax(-1)[:, 77].sum(), wide)
    torch.testing.assert_close(slope.double(), reference, rtol=1e-3, atol=1e-3)


def test_a_chain_of_logistic_estimates() -> None:
    """The process decodes two numbers per entry, events included."""
    process = Categorical(Flow(), uniform(8), TruncatedLogistic(8), event=(2,))
    x = SYMBOLS[:2].repeat(2, 1)
    value = process.bind(Batch.of(x)).decode(OUTPUTS[:2].repeat(2, 1, 1), x, time(0.5)).value
    torch.testing.assert_close(value[0].exp(), expected(True)[:2], rtol=1e-6, atol=1e-6)


TRANSITIONS = {
    "absorbing": absorbing(3),
    "uniform": uniform(3),
    "marginal": marginal(LAW),
    "with a gap": marginal(torch.tensor([0.4, 0.0, 0.6])),
    "inside and out": RankOne(3, torch.tensor([0.2, 0.1, 0.3, 0.4])),
}
WEIGHTS = torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64)


@pytest.mark.parametrize("t", [0.01, 0.5, 0.95])
@pytest.mark.parametrize("transition", TRANSITIONS.values(), ids=TRANSITIONS)
def test_ratios_of_a_world_decode_to_its_posterior(transition: RankOne, t: float) -> None:
    """E02: p_t(j) / p_t(i), enumerated, gives p(x_0 | x_t); and the estimate gives them back."""
    said = Ratios(transition.stationary, 3)
    process = Categorical(Flow(), transition, said)
    q = (1 - t) * torch.eye(transition.symbols).double()[:3] + t * transition.stationary
    law = WEIGHTS @ q
    x_t = torch.nonzero(law)[:, 0]
    ratios = torch.log(law) - torch.log(law[x_t])[:, None]
    bound = process.bind(Batch.of(x_t))
    estimate = bound.decode(ratios, x_t, time(t))
    posterior = (WEIGHTS[:, None] * q)[:, x_t] / law[x_t]
    torch.testing.assert_close(estimate.value.exp(), posterior.T, rtol=1e-9, atol=1e-12)
    data = Batch.of(torch.arange(3))
    exact = ExactDenoiser(Product({"x": process}), data, WEIGHTS)(Batch.of(x_t), {"x": time(t)})
    torch.testing.assert_close(estimate.value.exp(), exact["x"].value.exp(), rtol=0, atol=1e-9)
    back = bound.ratios(estimate, x_t, time(t))
    sure = law > 0
    uncertain = transition.stationary[x_t] > 0
    torch.testing.assert_close(back[uncertain][:, sure], ratios[uncertain][:, sure])


def test_absorbing_ratios_are_logits() -> None:
    """At a masked row, whatever the network says; what it says of the mask itself is no matter."""
    output = Generator(0).normal((5, 4), torch.float64, "cpu")
    x_t, t = torch.full((5,), 3), time(0.3)
    said = Ratios(absorbing(3).stationary, 3)
    process = Categorical(Flow(), absorbing(3), said).bind(Batch.of(x_t))
    value = process.decode(output, x_t, t).value
    torch.testing.assert_close(value, output[:, :3].log_softmax(-1))


def test_ratios_below_the_floor() -> None:
    """A class whose ratio is below sigma times the mean has all but no probability, not none."""
    said = Ratios(uniform(3).stationary)
    x_t = torch.tensor([0])
    process = Categorical(Flow(), uniform(3), said).bind(Batch.of(x_t))
    output = torch.tensor([[9.0, math.log(0.01), math.log(0.8)]], requires_grad=True)
    value = process.decode(output, x_t, time(0.6)).value
    p = value.exp()[0].tolist()
    assert 0 < p[1] < 1e-6
    # floor 0.6 (1 + 0.01 + 0.8) / 3 = 0.362; the rest times Q_t(j, 0) = 0.6 or 0.2
    odds = (0.8 - 0.362) * 0.2 / ((1 - 0.362) * 0.6)
    assert math.isclose(p[2] / p[0], odds, rel_tol=1e-5)
    (slope,) = torch.autograd.grad(-value[0, 1], output)
    assert bool(slope.isfinite().all())


def test_ratios_by_row_and_in_float32() -> None:
    """Times by row, with an event; float32 agrees."""
    said = Ratios(marginal(LAW).stationary)
    x_t = torch.tensor([[0, 1], [2, 0]])
    output = Generator(1).normal((2, 2, 3), torch.float64, "cpu") * 0.1
    process = Categorical(Flow(), marginal(LAW), said, event=(2,)).bind(Batch.of(x_t))
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    whole = process.decode(output, x_t, t).value
    for row in range(2):
        alone = process.decode(output, x_t, t[row]).value[row]
        torch.testing.assert_close(whole[row], alone)
    low = process.decode(output.float(), x_t, t.float()).value
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double().exp(), whole.exp(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TruncatedLogistic(1), "classes must be at least 2 to be in an order, got 1"),
        (lambda: Logistic(0), "classes must be at least 2"),
        (
            lambda: Logistic(4).decode(torch.zeros(3, 4), torch.zeros(3).long(), HALF, HALF),
            r"two numbers per entry, its mean and log-scale, got shape \(3, 4\)",
        ),
        (lambda: Ratios(torch.ones(2, 2)), r"stationary must be a vector .* got shape \(2, 2\)"),
        (lambda: Ratios(torch.ones(2), 3), "at least classes = 3 >= 1 symbols"),
        (
            lambda: Ratios(torch.ones(2) / 2).decode(
                torch.zeros(3, 4), torch.zeros(3).long(), HALF, HALF
            ),
            r"a ratio for each of the 2 symbols, got shape \(3, 4\)",
        ),
    ],
)
def test_refusals(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("make", [uniform, absorbing], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_the_joint_form_is_that_of_d3pm(make: Any, t: float) -> None:
    """p(x_s | x_t) proportional to sum_k q(x_s, x_t | k) p~(k), by enumeration of eq. 4."""
    transition = make(3)
    states = torch.arange(transition.symbols)
    process = Categorical(Flow(), transition, Joint(transition.stationary))
    process = process.bind(Batch.of(states))
    time = torch.tensor(t, dtype=torch.float64)
    logits = torch.tensor([[0.3, -1.0, 0.8]], dtype=torch.float64).expand(len(states), -1)
    estimate = process.decode(logits, states, time)
    (plan,) = process.plan(torch.tensor([t, t / 2], dtype=torch.float64), 1.0)
    alpha_t, alpha_s = 1 - t, 1 - t / 2
    eye, law = torch.eye(transition.symbols).double(), transition.stationary
    start = (alpha_s * eye + (1 - alpha_s) * law)[:3]  # q(x_s | x_0)
    a = alpha_t / alpha_s
    between = a * eye + (1 - a) * law  # q(x_t | x_s)
    joint = torch.einsum("k,ks,si->is", logits[0].softmax(-1), start, between)
    reachable = joint.sum(1) > 0
    expected = joint / joint.sum(1, keepdim=True)
    found = process.log_kernel(estimate, states, plan).exp()
    torch.testing.assert_close(found[reachable], expected[reachable], rtol=0, atol=1e-12)
