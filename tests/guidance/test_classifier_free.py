"""Classifier-free guidance: identities of scores with exact conditional denoisers.

The laws of whole guided walks have no closed form and are not tested.
"""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Flow,
    Generator,
    Geometric,
    Product,
    absorbing,
    marginal,
    uniform,
)
from structdiff.guidance import ClassifierFree
from structdiff.processes.transitions import mask_and_replace, ordinal
from structdiff.schedules import CLEAN
from structdiff.spaces import SO3, Torus
from tests.guidance.mixtures import (
    LABELS,
    WEIGHTS,
    A,
    B,
    Mixture,
    Records,
    gradient,
    labelled,
    score,
)

SCALES = [-1.0, 0.0, 0.5, 1.0, 1.5, 4.0]

scales = pytest.mark.parametrize("w", SCALES)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


times = pytest.mark.parametrize("t", [0.1, 0.4, 0.7, 0.95])


@times
@scales
def test_the_guided_score_on_r_n(w, t):
    """G03: s_w = grad log [p^(1-w) p(. | c)^w]."""
    guided = score(ClassifierFree(Mixture(), w), labelled({"a": A}), t)
    torch.testing.assert_close(guided, gradient({(): 1 - w, ("a",): w}, t), rtol=1e-6, atol=1e-6)
    both = score(ClassifierFree(Mixture(), w), labelled({"a": A, "b": B}), t)
    expected = gradient({(): 1 - w, ("a", "b"): w}, t)
    torch.testing.assert_close(both, expected, rtol=1e-6, atol=1e-6)


def test_the_other_convention():
    """(1 + w') s(x | c) - w' s(x), with w = 1 + w'."""
    batch, t, other = labelled({"a": A}), 0.5, 0.7
    hidden = batch.with_present({"a": torch.zeros(5, dtype=torch.bool)})
    with_it, without = score(Mixture(), batch, t), score(Mixture(), hidden, t)
    guided = score(ClassifierFree(Mixture(), 1 + other), batch, t)
    expected = (1 + other) * with_it - other * without
    torch.testing.assert_close(guided, expected, rtol=1e-10, atol=1e-10)


@times
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.5, 0.7), (2.0, -1.0), (-0.5, -0.5)])
def test_conditions_compose(a, b, t):
    """K09: and, and not: p(x) prod_i (p(x | c_i) / p(x))^w_i."""
    guided = score(ClassifierFree(Mixture(), {"a": a, "b": b}), labelled({"a": A, "b": B}), t)
    expected = gradient({(): 1 - a - b, ("a",): a, ("b",): b}, t)
    torch.testing.assert_close(guided, expected, rtol=1e-6, atol=1e-6)


@scales
def test_one_named_condition_is_the_scale(w):
    """K09: and conditions that are not named are absent."""
    alone = score(ClassifierFree(Mixture(), w), labelled({"a": A}), 0.4)
    named = score(ClassifierFree(Mixture(), {"a": w}), labelled({"a": A}), 0.4)
    assert torch.equal(named, alone)
    beside = score(ClassifierFree(Mixture(), {"a": w}), labelled({"a": A, "b": B}), 0.4)
    assert torch.equal(beside, alone)


def test_samples_whose_condition_is_absent_are_not_guided():
    present = torch.tensor([True, False, True, False, True])
    batch = labelled({"a": A})
    some = score(ClassifierFree(Mixture(), 3.0), batch.with_present({"a": present}), 0.4)
    guided = score(ClassifierFree(Mixture(), 3.0), batch, 0.4)
    plain = score(ClassifierFree(Mixture(), 0.0), batch, 0.4)
    assert torch.equal(some[present], guided[present])
    torch.testing.assert_close(some[~present], plain[~present], rtol=1e-12, atol=1e-12)
    assert (guided - plain).abs().min() > 1e-3


def test_of_several_named_conditions_each_sample_has_its_own():
    present = torch.tensor([True, False, True, False, True])
    batch = labelled({"a": A, "b": B})
    both, other = (ClassifierFree(Mixture(), w) for w in ({"a": 3.0, "b": 0.5}, {"b": 0.5}))
    some = score(both, batch.with_present({"a": present}), 0.4)
    assert torch.equal(some[present], score(both, batch, 0.4)[present])
    expected = score(other, batch, 0.4)[~present]
    torch.testing.assert_close(some[~present], expected, rtol=1e-12, atol=1e-12)


CHAINS = {
    "uniform": uniform(4),
    "absorbing": absorbing(4),
    "marginal": marginal(torch.tensor([0.1, 0.4, 0.3, 0.2])),
    "mask and replace": mask_and_replace(4),
    "rates": ordinal(4),
}

chains = pytest.mark.parametrize("transition", CHAINS.values(), ids=CHAINS)


@chains
@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("s", [0.25, CLEAN])
def test_one_guided_step_of_one_row(transition, w, s):
    """D16: Bayes' step of the normalised law p(x_0 | x_t)^(1-w) p(x_0 | x_t, c)^w, enumerated."""
    process = Product({"z": Categorical(Flow(), transition)})
    data, symbols = Batch.of({"z": torch.tensor([0, 1, 2, 1, 3])}), transition.symbols
    states = torch.arange(symbols)
    batch, t = Batch.of({"z": states}), torch.tensor(0.6)
    leaf = process.bind(batch)["z"]

    def matrix(start, end):
        """Q(j, i), rows from."""
        return leaf.kernel(torch.tensor(start), end, states).column(states).exp().T

    joint = torch.zeros(2, 4).index_put_((LABELS, data["z"]), WEIGHTS, accumulate=True)
    free, told = joint.sum(0), joint[1] / joint[1].sum()
    q = matrix(CLEAN, t)[:4]
    sound = (told @ q) > 0
    batch = batch.select(sound.nonzero().squeeze(1))
    batch = batch.with_condition({"c": torch.ones(batch.samples, dtype=torch.long)})
    laws = [(law[:, None] * q / (law @ q)).T[sound] for law in (free, told)]
    law = torch.where(laws[1] > 0, laws[0] ** (1 - w) * laws[1] ** w, laws[0] * (w == 0))
    law = law / law.sum(1, keepdim=True)
    past = torch.eye(4, symbols) if s == CLEAN else matrix(CLEAN, torch.tensor(s))[:4]
    move = q if s == CLEAN else matrix(s, t)
    move = torch.nn.functional.pad(move, (0, 0, 0, symbols - len(move)))
    clean = torch.where(q.T[sound] > 0, law / q.T[sound], 0.0)
    expected = (clean @ past) * move.T[sound]
    (step,) = leaf.plan(torch.tensor([0.6, s]), 1.0)
    estimate = ClassifierFree(Records(process, data, WEIGHTS, LABELS), w)(batch, {"z": t})["z"]
    found = leaf.log_kernel(estimate, batch["z"], step).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)), rtol=0, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@scales
@chains
def test_the_guided_classes(transition, w):
    """p(x_0 | x_t)^(1-w) p(x_0 | x_t, c)^w by enumeration; class 3 has one label only."""
    process = Product({"z": Categorical(Flow(), transition)})
    data = Batch.of({"z": torch.tensor([0, 1, 2, 2, 0])})
    symbols = torch.arange(transition.symbols).repeat(2)
    label = torch.arange(2).repeat_interleave(transition.symbols)
    t = 0.6
    joint = torch.zeros(2, 4)
    for record, weight in enumerate(WEIGHTS):
        joint[LABELS[record], data["z"][record]] += weight
    laws = torch.stack([joint.sum(0), joint[0] / joint[0].sum(), joint[1] / joint[1].sum()])
    states = torch.arange(transition.symbols)
    q = process["z"].from_clean(torch.tensor(t), states).column(states).exp().T[:4]
    # A symbol that no record with this label can have led to is no state of the world.
    seen = (laws[1 + label] @ q)[torch.arange(len(symbols)), symbols] > 0
    symbols, label = symbols[seen], label[seen]
    batch = Batch.of({"z": symbols}).with_condition({"c": label})
    guided = ClassifierFree(Records(process, data, WEIGHTS, LABELS), w)
    found = guided(batch, {"z": torch.tensor(t)})["z"].value.exp()
    for i, (x_t, c) in enumerate(zip(symbols.tolist(), label.tolist(), strict=True)):
        free, told = (law * q[:, x_t] / (law * q[:, x_t]).sum() for law in (laws[0], laws[1 + c]))
        powers = torch.where(told > 0, free ** (1 - w) * told**w, 0.0 if w > 0 else free)
        if w < 0:  # what the condition excludes has an infinite ratio
            lost = (told == 0) & (free > 0)
            powers = torch.where(lost, free ** (1 - w), 0.0) if bool(lost.any()) else powers
        torch.testing.assert_close(found[i], powers / powers.sum(), rtol=0, atol=1e-6)


@scales
@pytest.mark.parametrize("manifold", [Torus(2), SO3()], ids=["torus", "so3"])
def test_the_guided_score_on_manifolds(manifold, w):
    """The gradient of the log of products of kernel mixtures, by autograd through exp."""
    leaf = Brownian(Geometric(0.05, 3.0), manifold)
    process = Product({"x": leaf})
    points = manifold.uniform(5, Generator(1), torch.float64, "cpu")
    x = manifold.uniform(4, Generator(2), torch.float64, "cpu")
    label = torch.tensor([0, 1, 1, 0])
    guided = ClassifierFree(Records(process, Batch.of({"x": points}), WEIGHTS, LABELS), w)
    batch = Batch.of({"x": x}).with_condition({"c": label})
    for t in (0.5, 0.7, 0.9):
        time = torch.tensor(t)
        tau = leaf.tau(time, x)
        v = torch.zeros(4, *manifold.tangent, requires_grad=True)
        at = manifold.exp(x, v)
        kernels = [manifold.log_kernel(y.expand_as(x), at, tau) for y in points]
        log_p = torch.stack(kernels, 1) + WEIGHTS.log()
        told = torch.where(label[:, None] == LABELS, log_p, -torch.inf)
        total = (1 - w) * torch.logsumexp(log_p, 1) + w * torch.logsumexp(told, 1)
        (slope,) = torch.autograd.grad(total.sum(), v)
        found = guided(batch, {"x": time})["x"].value
        torch.testing.assert_close(found, tau * slope, rtol=1e-6, atol=1e-6)
