"""Guidance by functions of noisy classes: rates, steps and leaps by enumeration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Flow,
    Generator,
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.guidance import Enumerated, Guided, Linearised
from structdiff.schedules import CLEAN
from tests.guidance.labelled import (
    TRANSITIONS,
    Labelled,
    grammar,
    states,
    tokens,
    transitions,
    unconditional,
)

times = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rate(positive: Any, walk: Any, blank: Batch) -> float:
    """Share of drawn sentences that have the attribute."""
    return float(positive(walk.sample(blank, Generator(3))).double().mean())


@transitions
@times
def test_rates_of_all_rows_are_the_conditional_ones(transition, t):
    """Exact classifier and denoiser: R(j | y) = R(j) p(y | j) / p(y | x_t), by enumeration."""
    world = grammar(transition)
    batch, at = states(world), {"token": torch.tensor(t)}
    leaf = world.process.bind(batch)["token"]
    told, free = world(batch, at)["token"], unconditional(world)(batch, at)["token"]
    guided = Guided(unconditional(world), world.log_prob, 1.0)(batch, at)["token"]
    x, time = batch["token"], at["token"]
    expected = leaf.rates(told, x, time)
    torch.testing.assert_close(leaf.rates(guided, x, time), expected, rtol=1e-6, atol=1e-6)
    assert (leaf.rates(free, x, time) - expected).abs().max() > 0.1
    unsettled = slice(None) if transition.symbols == 3 else x == 3
    found, reached = (leaf.ratios(e, x, time).exp()[unsettled] for e in (guided, told))
    torch.testing.assert_close(found, reached, rtol=1e-6, atol=1e-6)


def kernels(world: Labelled, asked: float, t: float, s: float) -> tuple[Tensor, Tensor]:
    """A step of one row guided by differences at a time, and the conditional one."""
    batch = states(world, 1)
    leaf = world.process.bind(batch)["token"]
    (step,) = leaf.plan(torch.tensor([t, s]), 1.0)
    at = {"token": torch.tensor(t)}
    guided = Guided(
        unconditional(world),
        lambda seen, _: world.log_prob(seen, {"token": torch.tensor(asked)}),
        1.0,
    )(batch, at)["token"]
    told = world(batch, at)["token"]
    return tuple(leaf.log_kernel(one, batch["token"], step).exp() for one in (guided, told))


@transitions
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.2), (0.5, 0.4), (0.7, 0.0)])
def test_a_finite_step_of_one_row_is_exact_with_differences_at_its_end(transition, t, s):
    found, expected = kernels(grammar(transition, 1), s, t, s)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("t", "s"), [(0.9, 0.2), (0.99, 0.5), (0.7, CLEAN)])
def test_of_the_absorbing_chain_with_differences_at_its_start(t, s):
    found, expected = kernels(grammar(absorbing(3), 1), t, t, s)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["uniform", "marginal"])
def test_of_other_chains_it_is_right_to_first_order(name):
    """The kernel's error is of second order in the step."""
    world = grammar(TRANSITIONS[name], 1)
    errors = []
    for step in (0.02, 0.01, 0.005):
        found, expected = kernels(world, 0.6, 0.6, 0.6 - step)
        errors.append(float((found - expected).abs().max()))
    assert errors[0] > 1e-4
    assert [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx(
        [2, 2], abs=0.15
    )


@transitions
def test_tau_leaping_takes_the_tilt_to_first_order(transition):
    """Against a leap at the conditional rates themselves."""
    world, t = grammar(transition), 0.6
    batch, at = states(world), {"token": torch.tensor(t)}
    leaf = world.process.bind(batch)["token"]
    guided = Guided(unconditional(world), world.log_prob, 1.0)(batch, at)["token"]
    errors = []
    for step in (0.04, 0.02, 0.01):
        (leap,) = leaf.leap(torch.tensor([t, t - step]))
        found, expected = (
            leaf.log_kernel(one, batch["token"], leap).exp()
            for one in (guided, world(batch, at)["token"])
        )
        errors.append(float((found - expected).abs().max()))
    assert errors[0] < 0.03
    if transition is not TRANSITIONS["absorbing"]:
        assert [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)] == (
            pytest.approx([2, 2], abs=0.2)
        )


def test_the_shape_of_rows_and_the_chunk_do_not_matter():
    ragged, event = grammar(uniform(3)), grammar(uniform(3), event=(2,))
    rows = states(ragged)
    whole = Batch.of({"token": rows["token"].reshape(-1, 2)}).with_condition(rows.condition)
    at = {"token": torch.tensor(0.4)}
    args = [(w, w.process.bind(b), b) for w, b in ((ragged, rows), (event, whole))]
    one, other = (Enumerated().around(w.log_prob, p, b, at)["token"] for w, p, b in args)
    torch.testing.assert_close(one.reshape(-1, 2, 3), other, rtol=1e-12, atol=1e-12)
    pieces = Enumerated(chunk=7).around(ragged.log_prob, args[0][1], rows, at)["token"]
    torch.testing.assert_close(pieces, one, rtol=1e-12, atol=1e-12)


def test_the_number_of_evaluations():
    """S for each entry that is not given, in calls of at most `chunk`."""
    seen = []

    def log_prob(batch: Batch, t: Any) -> Tensor:
        seen.append(batch.samples)
        return torch.zeros(batch.samples)

    batch = tokens([[0, 1, 2], [1]]).with_given({"token": torch.tensor([1, 0, 0, 0]).bool()})
    process = Product({"token": Categorical(Flow(), absorbing(3))}).bind(batch)
    Enumerated(chunk=5).around(log_prob, process, batch, {"token": torch.tensor(0.5)})
    assert seen == [5, 5, 2]


class TestLinearised:
    """First order: exact for functions that are linear in each entry's vector."""

    batch = tokens([[0, 2], [1], [2, 1, 1]])
    t = {"token": torch.tensor(0.5)}
    weight = torch.tensor([0.3, -1.0, 2.0]).double()
    curve = torch.tensor([[1.0, 0.4, -0.2], [0.4, -2.0, 0.7], [-0.2, 0.7, 0.5]]).double()

    def differences(self, function: Any) -> tuple[Tensor, Tensor]:
        """By gradient, and by evaluation of the same function at one-hot vectors."""
        process: Any = Product({"token": Categorical(Flow(), uniform(3))}).bind(self.batch)

        def of_symbols(batch: Batch, t: Any) -> Tensor:
            vectors = torch.nn.functional.one_hot(batch["token"], 3).double()
            return function(batch.with_leaves({"token": vectors}), t)

        found = Linearised().around(function, process, self.batch, self.t)["token"]
        return found, Enumerated().around(of_symbols, process, self.batch, self.t)["token"]

    def test_a_linear_function(self):
        found, exact = self.differences(
            lambda batch, t: batch.layouts["token"].sum(batch["token"] @ self.weight)
        )
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)

    def test_a_quadratic_one_errs_by_half_the_second_difference(self):
        def function(batch: Batch, t: Any) -> Tensor:
            e, layout = batch["token"], batch.layouts["token"]
            return layout.sum(e @ self.weight + 0.5 * ((e @ self.curve) * e).sum(-1))

        found, exact = self.differences(function)
        change = torch.eye(3) - torch.eye(3)[self.batch["token"]][:, None]
        missed = 0.5 * torch.einsum("rji,ik,rjk->rj", change, self.curve, change)
        torch.testing.assert_close(exact - found, missed, rtol=1e-12, atol=1e-12)
        assert missed.abs().max() > 1


@transitions
def test_control_of_the_same_grammar_on_classes(transition):
    """The same with chains of two words, by all changes of one word."""
    world = grammar(transition)
    many = tokens([[0, 0]] * 60).with_condition({"c": torch.ones(60, dtype=torch.long)})

    def odd(drawn: Batch) -> Tensor:
        return drawn["token"].reshape(-1, 2).sum(1) % 2 == 1

    base = float(world.weights[world.labels == 1].sum())
    free, guided = (
        rate(odd, DDPM(Guided(unconditional(world), world.log_prob, w), UniformTime(10)), many)
        for w in (0.0, 1.0)
    )
    assert abs(free - base) < 3 * math.sqrt(base * (1 - base) / 60)
    assert guided > 0.8
