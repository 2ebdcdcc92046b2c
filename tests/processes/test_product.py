"""A product of processes is a process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Generator, Layout, Product
from structdiff.processes import Estimate, Markov, Process, Tractable
from structdiff.processes.leaf import Leaf
from structdiff.schedules import CLEAN, Flow
from tests.processes.cases import CASES, Case, Fixed, grid, said_by_a_network, time

LEAVES = {name: case for name, case in CASES.items() if not case.ragged}


def batch_of(cases: dict[str, Case]) -> Batch:
    parts = {name: case.batch() for name, case in cases.items()}
    return Batch(
        {name: part["x"] for name, part in parts.items()},
        {name: part.layouts["x"] for name, part in parts.items()},
    )


def product_of(cases: dict[str, Case]) -> Product:
    return Product({name: case.process for name, case in cases.items()})


def same(a: Any, b: Any) -> None:
    a, b = (x.value if isinstance(x, Estimate) else x for x in (a, b))
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def outputs(cases: dict[str, Case], x_t: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: said_by_a_network(case.process, x_t[name]) for name, case in cases.items()}


def test_what_it_does_is_what_its_leaves_do() -> None:
    """K01: every method, leaf by leaf, on R^n, classes, torus and SO(3) with ragged rows too."""
    batch = batch_of(CASES)
    product: Any = product_of(CASES).bind(batch)
    leaves = {name: case.process.bind(case.batch()) for name, case in CASES.items()}
    random: Any = Generator(0)
    t, s = product.times(time(0.6)), product.times(time(0.3))
    x_t = product.diffuse(batch.leaves, t, random)
    x_s = product.diffuse(batch.leaves, s, random)
    estimate = product.decode(outputs(CASES, x_t), x_t, t)
    oracle = product.oracle(batch.leaves, x_t, t)
    (plan,) = product.plan(grid(0.6, 0.3), 1.0)
    (weights,) = product.weights(lambda c: torch.ones(len(c) - 1, 1).double(), grid(0.6, 0.3))
    whole = {
        "clock": product.clock(t),
        "encode": product.encode(x_t, t),
        "loss": product.loss(estimate, batch.leaves, x_t, t),
        "combine": product.combine([(x_t, estimate)], weights, x_t),
        "log_prob": product.log_prob(x_t, batch.leaves, t),
        "prior_log_prob": product.prior_log_prob(x_t),
        "divergence": product.divergence(oracle, estimate, x_t, plan),
        "prior_divergence": product.prior_divergence(batch.leaves),
        "reconstruction": product.reconstruction(estimate, batch.leaves, x_t, t),
        "reverse_log_prob": product.reverse_log_prob(x_s, x_t, estimate, plan),
    }
    for name, leaf in leaves.items():
        x, y, x_0 = x_t[name], x_s[name], batch[name]
        said, true, part = estimate[name], oracle[name], plan[name]
        parts = {
            "clock": leaf.clock(time(0.6)),
            "encode": leaf.encode(x, time(0.6)),
            "loss": leaf.loss(said, x_0, x, time(0.6)),
            "combine": said,
            "log_prob": leaf.log_prob(x, x_0, time(0.6)),
            "prior_log_prob": leaf.prior_log_prob(x),
            "divergence": leaf.divergence(true, said, x, part),
            "prior_divergence": leaf.prior_divergence(x_0),
            "reconstruction": leaf.reconstruction(said, x_0, x, time(0.6)),
            "reverse_log_prob": leaf.reverse_log_prob(y, x, said, part),
        }
        for method, value in parts.items():
            same(whole[method][name], value)


@pytest.mark.parametrize("name", LEAVES)
def test_draws_are_those_of_the_leaves(name: str) -> None:
    case = LEAVES[name]
    batch = Batch({name: case.batch()["x"]}, {name: Layout.regular(3)})
    product: Any = Product({name: case.process}).bind(batch)
    leaf = case.process.bind(case.batch())
    x_0, t = batch[name], {name: time(0.6)}
    same(product.prior(Generator(1))[name], leaf.prior(Generator(1)))
    x_t = product.diffuse(batch.leaves, t, Generator(1))
    same(x_t[name], leaf.diffuse(x_0, time(0.6), Generator(1)))
    moved = product.corrupt(x_t, t, {name: time(0.8)}, Generator(1))[name]
    same(moved, leaf.corrupt(x_t[name], time(0.6), time(0.8), Generator(1)))
    estimate = product.oracle(batch.leaves, x_t, t)
    (plan,) = product.plan(grid(0.6, 0.2), 1.0)
    moved = product.step(x_t, estimate, plan, Generator(1))[name]
    same(moved, leaf.step(x_t[name], estimate[name], plan[name], Generator(1)))


def test_each_leaf_may_have_its_own_time_and_grid() -> None:
    """K02, N10: a leaf at CLEAN stays; a mapping of grids makes a plan per leaf."""
    cases = {name: CASES[name] for name in ("gaussian linear", "absorbing")}
    batch = batch_of(cases)
    product: Any = product_of(cases).bind(batch)
    t = product.times({"gaussian linear": time(0.5), "absorbing": time(CLEAN)})
    x_t = product.diffuse(batch.leaves, t, Generator(0))
    assert torch.equal(x_t["absorbing"], batch["absorbing"])
    assert not torch.equal(x_t["gaussian linear"], batch["gaussian linear"])
    grids = {"gaussian linear": grid(1.0, 0.5, CLEAN), "absorbing": grid(0.8, 0.2, CLEAN)}
    plans = product.plan(grids, 1.0)
    assert len(plans) == 2
    assert plans[0]["absorbing"].alpha_t == Flow().alpha(time(0.8)).item()
    assert torch.equal(
        product.weights(lambda c: torch.isfinite(c[:-1, None]).double(), grids)[0]["absorbing"][0],
        torch.tensor(1.0),
    )


def test_given_leaves_and_rows_are_held() -> None:
    cases = {name: CASES[name] for name in ("gaussian linear", "absorbing")}
    plain = batch_of(cases)
    batch = plain.with_given({"absorbing": torch.tensor([True, False, True])})
    product: Any = product_of(cases).bind(batch)
    t = product.times(time(0.9))
    assert t["absorbing"].tolist() == [CLEAN, 0.9, CLEAN]
    assert t["gaussian linear"] == 0.9
    drawn = product.prior(Generator(0))["absorbing"]
    assert drawn[[0, 2]].equal(plain["absorbing"][[0, 2]])
    assert drawn[1] == 3


class Blur(Leaf):
    """A process that is no more than one: cold degradation to zero."""

    def state_dtype(self) -> torch.dtype:
        return torch.get_default_dtype()

    def prior(self, random: Any, t: float = 1.0) -> Tensor:
        return torch.zeros_like(self.known)

    def prior_log_prob(self, x_1: Tensor, t: float = 1.0) -> Tensor:
        return torch.zeros(len(x_1))

    def diffuse(self, x_0: Tensor, t: Tensor, random: Any) -> Tensor:
        return self.level(t, x_0).alpha * x_0

    def encode(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t

    def decode(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        return Estimate(output)

    def loss(self, estimate: Estimate, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return (estimate.value - x_0).square()

    def leap(self, times: Tensor) -> list[Tensor]:
        return self.plan(times, 1.0)

    def plan(self, times: Tensor, eta: float) -> list[Tensor]:
        return list(self.schedule.alpha(times[1:]).float().unbind())

    def move(self, x_t: Tensor, estimate: Estimate, coefficients: Tensor, random: Any) -> Tensor:
        return coefficients * estimate.value

    def combine(self, history: Any, weights: Any, x_t: Tensor) -> Estimate:
        return history[0][1]

    def tilt(self, estimates: Any, weights: Any) -> Estimate:
        return estimates[0]

    def standard(self) -> Process:
        return self

    def from_standard(self, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t


class Walk(Blur, Markov):
    """A process with a forward kernel and no densities."""

    def corrupt(self, x_s: Tensor, s: Tensor, t: Tensor, random: Any) -> Tensor:
        return self.level(t, x_s).alpha / self.level(s, x_s).alpha * x_s

    def graft(self, x_t: Tensor, known: Tensor, held: Tensor) -> Tensor:
        return torch.where(held, known, x_t)


@pytest.mark.parametrize(
    ("weakest", "offered"),
    [
        ({}, {Process: True, Markov: True, Tractable: True}),
        ({"w": Walk(Flow(), ())}, {Process: True, Markov: True, Tractable: False}),
        ({"b": Blur(Flow(), ())}, {Process: True, Markov: False, Tractable: False}),
        (
            {"w": Walk(Flow(), ()), "b": Blur(Flow(), ())},
            {Process: True, Markov: False, Tractable: False},
        ),
    ],
)
def test_it_offers_what_all_its_leaves_offer(
    weakest: dict[str, Process], offered: dict[type, bool]
) -> None:
    product = Product({"x": CASES["gaussian cosine scalar"].process, **weakest})
    nested = Product({"record": product})
    for contract, expected in offered.items():
        assert product.offers(contract) is expected
        assert isinstance(product, contract) is expected
        assert nested.offers(contract) is expected


def test_weak_leaves_diffuse_and_step() -> None:
    x = torch.tensor([1.0, 2.0])
    batch = Batch.of({"w": x, "b": -x})
    product: Any = Product({"w": Walk(Flow(), ()), "b": Blur(Flow(), ())}).bind(batch)
    t = product.times(torch.tensor(0.5))
    x_t = product.diffuse(batch.leaves, t, Generator(0))
    assert x_t["b"].tolist() == [-0.5, -1.0]
    (plan,) = product.plan(grid(0.5, 0.25), 0.0)
    estimate = product.decode(batch.leaves, x_t, t)
    assert product.step(x_t, estimate, plan, Generator(0))["w"].tolist() == [0.75, 1.5]
    walk: Any = Product({"w": Walk(Flow(), ())}).bind(Batch.of({"w": x}))
    moved = walk.corrupt({"w": x}, {"w": time(0.0)}, {"w": time(0.5)}, Generator(0))
    assert moved["w"].tolist() == [0.5, 1.0]


def test_noise_is_asked_for_by_leaf_ids_and_layout() -> None:
    cases = {name: CASES[name] for name in ("gaussian linear", "gaussian centred")}
    batch = batch_of(cases)
    product: Any = product_of(cases).bind(batch)
    asked = []

    zeros = {"gaussian linear": 3, "gaussian centred": 6}

    class Zero(Fixed):
        def normal(self, shape: Any, dtype: torch.dtype, device: Any) -> Tensor:
            return torch.zeros(*shape, dtype=dtype)

        def scoped(self, **address: Any) -> Fixed:
            asked.append((address["leaf"], address["ids"].tolist(), address["layout"].rows))
            return self

    product.prior(Zero(torch.zeros(())))
    assert asked == [(name, [0, 1, 2], rows) for name, rows in zeros.items()]


def test_names_that_modules_have_are_fine() -> None:
    scalar = CASES["gaussian cosine scalar"].process
    product = Product({"type": scalar, "a.b": scalar, "forward": scalar})
    rows = product.empty(2)
    assert list(rows) == ["type", "a.b", "forward"]
    assert product.empty({"type": 1, "a.b": 2, "forward": 3})["forward"].shape == (3,)


@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))]
)
def test_copies_and_pickles(how: Any) -> None:
    product: Any = product_of(CASES)
    other = how(product)
    assert other.offers(Tractable)
    batch = batch_of(CASES)
    a, b = (p.bind(batch).prior(Generator(0)) for p in (product, other))
    for name in CASES:
        same(a[name], b[name])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: Product({}), "a product needs at least one leaf"),
        (
            lambda p: p.bind(Batch.of(torch.zeros(2))),
            r"has leaves \['a', 'b'\], the batch \['x'\]",
        ),
        (
            lambda p: p.decode({"a": torch.zeros(2)}, {}, {}),
            r"the network returned \['a'\], but the process also needs \['b'\]",
        ),
    ],
)
def test_refusals(call: Any, match: str) -> None:
    scalar = CASES["gaussian cosine scalar"].process
    with pytest.raises(ValueError, match=match):
        call(Product({"a": scalar, "b": scalar}))
