"""Classifier-free guidance: identities of scores with exact conditional denoisers.

The laws of whole guided walks have no closed form and are not tested.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Multistep,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import ClassifierFree
from structdiff.processes import Estimate, Process
from structdiff.processes.transitions import mask_and_replace, ordinal
from structdiff.schedules import CLEAN
from structdiff.spaces import SO3, Torus
from structdiff.testing import ExactDenoiser
from tests.guidance.worlds import Counted

SCALES = [-1.0, 0.0, 0.5, 1.0, 1.5, 4.0]
scales = pytest.mark.parametrize("w", SCALES)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def matching(batch: Batch, labels: Mapping[str, Tensor]) -> Tensor:
    """Which components have the labels that a sample is given, `(samples, components)`."""
    match = torch.ones(batch.samples, len(next(iter(labels.values()))), dtype=torch.bool)
    for name, value in batch.condition.items():
        known = batch.present.get(name, torch.ones(batch.samples, dtype=torch.bool))
        match &= ~known[:, None] | (value[:, None] == labels[name])
    return match


class Mixture(Denoiser):
    """The exact denoiser of labelled normals on R^2, given any of their labels."""

    labels = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([0, 1, 0, 1])}
    means = torch.tensor([[-1.0, 0.5], [0.3, -0.7], [1.2, 0.9], [-0.4, -1.5]]).double()
    stds = torch.tensor([0.5, 0.8, 0.4, 0.6]).double()
    weights = torch.tensor([0.1, 0.4, 0.3, 0.2]).double()

    def __init__(self) -> None:
        super().__init__()
        self.leaf = Gaussian(Cosine(), event=(2,))
        self.process = Product({"x": self.leaf})

    def components(self, x: Tensor, t: Tensor, match: Tensor) -> Tensor:
        """log w_k + log N(x; alpha m_k, alpha^2 s_k^2 + sigma^2) up to a constant."""
        level = self.leaf.level(t, x)
        variance = (level.alpha * self.stds) ** 2 + level.sigma**2
        gap = ((x[:, None] - level.alpha * self.means) ** 2).sum(-1)
        log_p = self.weights.log() - gap / (2 * variance) - torch.log(variance)
        return torch.where(match, log_p, -torch.inf)

    def log_density(self, x: Tensor, t: Tensor, match: Tensor) -> Tensor:
        """log p_t(x given the labels), up to a constant."""
        return torch.logsumexp(self.components(x, t, match), -1)

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> dict[str, Estimate]:
        x = batch["x"]
        level = self.leaf.level(t["x"], x)
        share = torch.softmax(self.components(x, t["x"], matching(batch, self.labels)), -1)
        keep = level.alpha * self.stds**2 / ((level.alpha * self.stds) ** 2 + level.sigma**2)
        each = self.means + keep[:, None] * (x[:, None] - level.alpha * self.means)
        return {"x": Estimate((share[..., None] * each).sum(1))}


POINTS = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
A, B = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1, 1, 0, 0, 1])


def labelled(conditions: Mapping[str, Tensor]) -> Batch:
    return Batch.of(POINTS).with_condition(dict(conditions))


def score(denoiser: Denoiser, batch: Batch, t: float) -> Tensor:
    """(alpha estimate - x) / sigma^2."""
    time = torch.tensor(t)
    level = Mixture().leaf.level(time, POINTS)
    estimate = denoiser(batch, {"x": time})["x"].value
    return (level.alpha * estimate - batch["x"]) / level.sigma**2


def gradient(powers: Mapping[tuple[str, ...], float], t: float) -> Tensor:
    """grad log of the product of p_t(x given these conditions) to these powers, by autograd."""
    world, x = Mixture(), POINTS.clone().requires_grad_()
    total = torch.zeros(())
    for names, power in powers.items():
        chosen = labelled({name: {"a": A, "b": B}[name] for name in names})
        log_p = world.log_density(x, torch.tensor(t), matching(chosen, world.labels))
        total = total + power * log_p.sum()
    (slope,) = torch.autograd.grad(total, x)
    return slope


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


class Records(Denoiser):
    """The exact denoiser of records that have a label `c`, given it or not."""

    def __init__(self, process: Process, data: Batch, weights: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.process, self.data, self.weights = process, data, weights
        self.labels = {"c": labels}

    def forward(
        self, batch: Batch, t: Any, previous: Mapping[str, Estimate] | None = None
    ) -> dict[str, Estimate]:
        patterns, pattern = torch.unique(matching(batch, self.labels), dim=0, return_inverse=True)
        order, found = pattern.argsort(stable=True), []
        for k, match in enumerate(patterns):
            chosen = match.nonzero().squeeze(1)
            law = ExactDenoiser(self.process, self.data.select(chosen), self.weights[chosen])
            found.append(law(batch.select((pattern == k).nonzero().squeeze(1)), t))
        joined = {n: torch.cat([one[n].value for one in found]) for n in batch.leaves}
        return {n: Estimate(value[order.argsort()]) for n, value in joined.items()}


WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15]).double()
LABELS = torch.tensor([0, 1, 0, 1, 0])


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


def world() -> tuple[Counted, Batch]:
    """Records of three leaves and their labels, beside noisy ones."""
    process = Product(
        {
            "x": Gaussian(Cosine(), event=(2,)),
            "z": Categorical(Flow(), uniform(3)),
            "angle": Brownian(Geometric(0.05, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {
            "x": POINTS,
            "z": torch.tensor([0, 1, 2, 2, 0]),
            "angle": torch.linspace(-3, 3, 5)[:, None],
        }
    )
    noisy = Batch.of(process.bind(data).prior(Generator(3)))
    denoiser = Counted(Records(process, data, WEIGHTS, LABELS))
    return denoiser, noisy.with_condition({"c": torch.tensor([0, 1, 1, 0, 1])})


def absent(batch: Batch) -> Batch:
    return batch.with_present({"c": torch.zeros(batch.samples, dtype=torch.bool)})


def same(one: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> bool:
    return all(torch.equal(e.value, other[name].value) for name, e in one.items())


def test_a_product_is_guided_leaf_by_leaf():
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    free, told = denoiser(absent(batch), t), denoiser(batch, t)
    guided = ClassifierFree(denoiser, 2.5)(batch, t)
    for name in ("x", "angle"):
        expected = 2.5 * told[name].value - 1.5 * free[name].value
        torch.testing.assert_close(guided[name].value, expected, rtol=1e-12, atol=1e-12)
    process = denoiser.process.bind(batch)
    expected = process.tilt([free, told], [-1.5, 2.5])["z"].value
    torch.testing.assert_close(guided["z"].value, expected, rtol=1e-12, atol=1e-12)
    assert not same(free, told)


@pytest.mark.parametrize(
    ("scale", "calls"),
    [(0.0, 1), (1.0, 1), (2.0, 2), (-1.0, 2), ({"c": 0.0}, 1), ({"c": 1.0}, 1), ({"c": 3.0}, 2)],
)
def test_the_number_of_calls(scale, calls):
    """G03: bit-identical to the unconditional denoiser at 0, to the conditional one at 1."""
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    guided = ClassifierFree(denoiser, scale)(batch, t)
    assert denoiser.calls == calls
    w = scale if isinstance(scale, float) else scale["c"]
    assert same(guided, denoiser.denoiser(absent(batch), t)) == (w == 0)
    assert same(guided, denoiser.denoiser(batch, t)) == (w == 1)


@pytest.mark.parametrize(
    ("scale", "calls"),
    [
        ({"a": 1.5, "b": 2.0}, 3),
        ({"a": 0.3, "b": 0.7}, 2),
        ({"a": 1.0, "b": 0.0}, 1),
        ({"a": 0.0, "b": 0.0}, 1),
        ({"b": 2.0}, 2),
        (2.0, 2),
    ],
)
def test_the_number_of_calls_with_two_conditions(scale, calls):
    denoiser = Counted(Mixture())
    ClassifierFree(denoiser, scale)(labelled({"a": A, "b": B}), {"x": torch.tensor(0.5)})
    assert denoiser.calls == calls


SAMPLERS = {
    "DDIM": DDIM,
    "DDPM": DDPM,
    "Heun": Heun,
    "Multistep2": lambda d, g: Multistep(d, g, order=2),
    "Multistep3": lambda d, g: Multistep(d, g, order=3),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_every_sampler_without_condition_is_the_unconditional_one(make):
    """A23: bit for bit; and with w = 1 it is the conditional one."""
    denoiser, batch = world()
    plain = ExactDenoiser(denoiser.process, denoiser.denoiser.data, WEIGHTS)
    bare = Batch(batch.leaves, batch.layouts)
    runs = {
        "plain": (plain, bare),
        "no condition": (denoiser, bare),
        "absent": (denoiser, absent(batch)),
        "w = 0": (ClassifierFree(denoiser, 0.0), batch),
        "w = 0, no condition": (ClassifierFree(denoiser, 0.0), bare),
        "conditional": (denoiser, batch),
        "w = 1": (ClassifierFree(denoiser, 1.0), batch),
    }
    drawn = {
        name: make(one, UniformTime(5)).sample(start, Generator(2)).leaves
        for name, (one, start) in runs.items()
    }

    def equal(one: str, other: str) -> bool:
        return all(torch.equal(x, drawn[other][leaf]) for leaf, x in drawn[one].items())

    assert equal("w = 1", "conditional")
    assert not equal("plain", "conditional")
    for name in ("no condition", "absent", "w = 0", "w = 0, no condition"):
        assert equal(name, "plain"), name


def test_conditional_walks_fall_in_their_mode():
    """G01: at w = 1 with an exact denoiser; of 300 samples 95 % have the right sign."""
    data = Batch.of(torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]))
    process = Product({"x": Gaussian(Cosine(), event=(1,))})
    labels = torch.tensor([0, 0, 1, 1])
    denoiser = Records(process, data, torch.full((4,), 0.25), labels)
    batch = Batch.of(torch.zeros(300, 1)).with_condition({"c": torch.arange(300) % 2})
    for w in (1.0, 2.0):
        drawn = DDPM(ClassifierFree(denoiser, w), UniformTime(8)).sample(batch, Generator(0))["x"]
        assert ((drawn[:, 0] > 0) == (batch.condition["c"] == 1)).double().mean() >= 0.95


def test_what_does_not_fit_is_refused():
    t = {"x": torch.tensor(0.5)}
    for scale in (math.nan, math.inf, {}, {"a": math.nan}):
        with pytest.raises(ValueError, match="scale must be a finite number, or one per cond"):
            ClassifierFree(Mixture(), scale)
    with pytest.raises(ValueError, match="guidance needs a condition, the batch has none"):
        ClassifierFree(Mixture(), 2.0)(labelled({}), t)
    with pytest.raises(ValueError, match=r"scale names \['c'\], but the batch has .*\['a'\]"):
        ClassifierFree(Mixture(), {"a": 1.0, "c": 1.0})(labelled({"a": A}), t)
