"""Guidance by functions of noisy records: identities with exact classifiers, in every space."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Linear,
    NetworkDenoiser,
    Product,
    UniformTime,
    absorbing,
    marginal,
    uniform,
)
from structdiff.guidance import ClassifierFree, Enumerated, Guided, Linearised
from structdiff.processes import Process
from structdiff.processes.leaf import Leaf
from structdiff.schedules import CLEAN
from structdiff.spaces import SO3, Sphere, Torus, ZeroCentre
from structdiff.testing import ExactDenoiser
from tests.guidance.labelled import Labelled, every, tokens
from tests.guidance.test_classifier_free import Mixture, gradient, labelled, matching, score
from tests.guidance.worlds import SIZES, Counted, Opinion, blank, everything

LAW = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
TRANSITIONS = {"uniform": uniform(3), "absorbing": absorbing(3), "marginal": marginal(LAW)}
transitions = pytest.mark.parametrize("transition", TRANSITIONS.values(), ids=TRANSITIONS)
scales = pytest.mark.parametrize("w", [-1.0, 0.5, 1.0, 3.0])
times = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def unconditional(denoiser: Labelled) -> ClassifierFree:
    return ClassifierFree(denoiser, 0.0)


def classify(batch: Batch, t: Any) -> Tensor:
    """log p(a | x_t) of the mixture on R^2."""
    world = Mixture()
    told, free = matching(batch, world.labels), torch.ones(1, 4, dtype=torch.bool)
    at = batch["x"], t["x"]
    return world.log_density(*at, told) - world.log_density(*at, free)


@times
@scales
def test_the_score_on_r_n(w, t):
    """G02 on FX8: s + w grad log p(y | x_t), against autograd of the mixture."""
    a = torch.tensor([0, 1, 0, 1, 1])
    guided = score(Guided(ClassifierFree(Mixture(), 0.0), classify, w), labelled({"a": a}), t)
    expected = gradient({(): 1 - w, ("a",): w}, t)
    torch.testing.assert_close(guided, expected, rtol=1e-6, atol=1e-6)


def records(process: Process, x: Tensor, layout: Layout | None = None) -> Labelled:
    layout = layout or Layout.regular(len(x))
    weights = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15])
    labels = torch.tensor([0, 1, 0, 1, 1])
    return Labelled(process, Batch({"x": x}, {"x": layout}), weights, labels)


def centred() -> Labelled:
    layout = Layout.ragged([3] * 5)
    leaf = Gaussian(Cosine(), event=(2,), space=ZeroCentre())
    x = Generator(5).normal((15, 2), torch.float64, "cpu")
    return records(Product({"x": leaf}), leaf.space.project(x, layout, None), layout)


def curved(manifold: Any) -> Labelled:
    leaf = Brownian(Geometric(0.05, 3.0), manifold)
    return records(Product({"x": leaf}), manifold.uniform(5, Generator(1), torch.float64, "cpu"))


def exploding() -> Labelled:
    leaf = Gaussian(Geometric(0.02, 10.0), event=(2,))
    return records(Product({"x": leaf}), Generator(6).normal((5, 2), torch.float64, "cpu"))


VECTORS = {
    "zero centre": centred,
    "torus": lambda: curved(Torus(2)),
    "so3": lambda: curved(SO3()),
    "variance exploding": exploding,
}


@pytest.mark.parametrize("make", VECTORS.values(), ids=VECTORS)
@pytest.mark.parametrize("t", [0.4, 0.7, 0.95])
def test_at_one_it_is_the_conditional_estimate(make, t):
    """G02: in a subspace and on manifolds, where the gradient is taken in the entries."""
    world = make()
    batch = world.data.with_condition({"c": torch.tensor([1, 0, 0, 1, 1])})
    at = {"x": torch.tensor(t)}
    noisy = world.process.bind(batch).diffuse(batch.leaves, at, Generator(2))
    batch = batch.with_leaves(noisy)
    told, free = world(batch, at)["x"].value, unconditional(world)(batch, at)["x"].value
    guided = Guided(unconditional(world), world.log_prob, 1.0)(batch, at)["x"].value
    torch.testing.assert_close(guided, told, rtol=1e-6, atol=1e-6)
    assert (told - free).abs().max() > 0.01


def grammar(transition: Any, length: int = 2, event: tuple[int, ...] = ()) -> Labelled:
    """All sequences of three symbols, weighted, and labelled by the parity of their sum."""
    data = tokens(every(3, length))
    if event:
        data = Batch.of({"token": data["token"].reshape(-1, *event)})
    source = torch.Generator().manual_seed(length)
    weights = torch.softmax(1.5 * torch.randn(3**length, generator=source), 0)
    labels = torch.tensor([sum(one) % 2 for one in every(3, length)])
    process = Product({"token": Categorical(Flow(), transition, event=event)})
    return Labelled(process, data, weights, labels)


def states(world: Labelled, length: int = 2) -> Batch:
    """All states with either label, without those that no record of the label leads to."""
    symbols = world.process["token"].symbols
    all_of_them = every(symbols, length) * 2
    label = torch.arange(2).repeat_interleave(symbols**length)
    batch = tokens(all_of_them).with_condition({"c": label})
    sound = world.log_prob(batch, {"token": torch.tensor(0.5)}) > -torch.inf
    return batch.select(sound.nonzero().squeeze(1))


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


def mixed() -> tuple[Labelled, Batch]:
    """Records of four spaces, with noisy ones."""
    process = Product(
        {
            "x": Gaussian(Linear(), event=(2,)),
            "z": Categorical(Flow(), uniform(3)),
            "mask": Categorical(Flow(), absorbing(2)),
            "angle": Brownian(Geometric(0.05, 4.0), Torus(1)),
        }
    )
    data = Batch.of(
        {
            "x": Generator(7).normal((5, 2), torch.float64, "cpu"),
            "z": torch.tensor([0, 1, 2, 2, 0]),
            "mask": torch.tensor([0, 1, 1, 0, 1]),
            "angle": torch.linspace(-3, 3, 5)[:, None],
        }
    )
    world = Labelled(
        process, data, torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15]), torch.tensor([0, 1, 0, 1, 1])
    )
    bound = process.bind(data)
    noisy = bound.diffuse(data.leaves, bound.times(torch.tensor(0.6)), Generator(3))
    batch = data.with_leaves({**noisy, "mask": torch.full((5,), 2)})
    return world, batch.with_condition({"c": torch.tensor([0, 1, 1, 0, 1])})


def test_a_product_is_guided_in_every_space_at_once():
    world, batch = mixed()
    bound = world.process.bind(batch)
    t = bound.times(torch.tensor(0.6))
    told = world(batch, t)
    guided = Guided(unconditional(world), world.log_prob, 1.0)(batch, t)
    for name in ("x", "angle"):
        torch.testing.assert_close(guided[name].value, told[name].value, rtol=1e-6, atol=1e-6)
    for name in ("z", "mask"):
        found, expected = (
            bound[name].rates(e[name], batch[name], t[name]) for e in (guided, told)
        )
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_guided_denoisers_compose():
    """Functions add up; classifier-free guidance of a guided one keeps its differences."""
    world, batch = mixed()
    bound = world.process.bind(batch)
    t = bound.times(torch.tensor(0.6))

    def other(batch: Batch, t: Any) -> Tensor:
        angle = torch.sin(batch["angle"]).sum(-1)
        return batch["x"].square().sum(-1) * (1 + batch["z"]) + batch["mask"] * angle

    def both(batch: Batch, t: Any) -> Tensor:
        return 2 * world.log_prob(batch, t) - 0.5 * other(batch, t)

    nested = Guided(Guided(unconditional(world), world.log_prob, 2.0), other, -0.5)(batch, t)
    flat = Guided(unconditional(world), both, 1.0)(batch, t)
    free = ClassifierFree(Guided(world, other, -0.5), 1.5)(batch, t)
    plain = Guided(ClassifierFree(world, 1.5), other, -0.5)(batch, t)
    for one, same in ((nested, flat), (free, plain)):
        for name, estimate in same.items():
            torch.testing.assert_close(one[name].value, estimate.value, rtol=1e-9, atol=1e-9)
            for extra, value in estimate.extras.items():
                torch.testing.assert_close(one[name].extras[extra], value, rtol=1e-9, atol=1e-9)
    assert set(flat["z"].extras) == {"tilt"}


def given(batch: Batch) -> Batch:
    every_other = {n: torch.arange(len(x)) % 2 == 0 for n, x in batch.leaves.items()}
    return batch.with_given(every_other)


def test_on_the_sphere_the_shift_is_tangent():
    """By tau times the part of the gradient along the sphere, whatever f does off it."""
    process = Product({"x": Brownian(Geometric(0.05, 4.0), Sphere(2))})
    x = Sphere(2).uniform(20, Generator(0), torch.float64, "cpu")
    batch, slope = Batch.of(x), torch.tensor([1.0, -2.0, 0.5])
    denoiser = ExactDenoiser(process, batch.select([0, 1]))
    t = process.bind(batch).times(torch.tensor(0.6))

    def log_prob(batch: Batch, t: Any) -> Tensor:
        return batch["x"] @ slope + 3 * batch["x"].square().sum(1)

    found = Guided(denoiser, log_prob, 2.0)(batch, t)["x"].value - denoiser(batch, t)["x"].value
    truth = slope - (x @ slope)[:, None] * x
    tau = 0.05**2 * (4.0 / 0.05) ** 1.2
    torch.testing.assert_close(found, 2 * tau * truth)


def test_given_entries_stay():
    """Not shifted, not tilted, in every space; and a guided walk returns them."""
    denoiser = NetworkDenoiser(Opinion(), everything())
    batch = blank(everything(), SIZES)
    batch = given(batch.with_leaves(everything().bind(batch).prior(Generator(1))))
    batch = batch.with_leaves({**batch.leaves, "kind": batch["kind"].clamp(max=2)})

    def log_prob(batch: Batch, t: Any) -> Tensor:
        per = [
            batch.layouts[n].sum(torch.sin(0.3 * x.double()).flatten(1).sum(1))
            for n, x in ((n, x[:, None]) for n, x in batch.leaves.items())
        ]
        return torch.stack(per).sum(0)

    bound = everything().bind(batch)
    t = bound.times(torch.tensor(0.6))
    plain, guided = denoiser(batch, t), Guided(denoiser, log_prob, 3.0)(batch, t)
    for name, estimate in guided.items():
        held, moved = batch.given[name], (estimate.value - plain[name].value).abs()
        change = estimate.extras.get("tilt", moved).abs().flatten(1).amax(1)
        assert change[held].max() == 0, name
        assert change[~held].max() > 1e-3, name
    drawn = DDPM(Guided(denoiser, log_prob, 3.0), UniformTime(3)).sample(batch, Generator(0))
    for name in ("field", "kind", "shades", "angle", "turn"):
        assert torch.equal(drawn[name][batch.given[name]], batch[name][batch.given[name]]), name


def test_scale_zero_asks_nothing():
    """G02: bit-identical to the unguided denoiser, and the function is not called."""
    denoiser = Counted(NetworkDenoiser(Opinion(), everything()))
    batch = blank(everything(), SIZES)
    batch = batch.with_leaves(everything().bind(batch).prior(Generator(1)))
    t = everything().bind(batch).times(torch.tensor(0.5))
    plain = denoiser(batch, t)
    found = Guided(denoiser, lambda batch, t: 1 / 0, 0.0)(batch, t)
    assert all(
        torch.equal(found[n].value, e.value) and not found[n].extras for n, e in plain.items()
    )
    assert denoiser.calls == 2


WORDS = {"the": 0, "a": 1, "cat": 2, "dog": 3, "sees": 4, "likes": 5}
SENTENCES = [
    [d, n, v, e, m] for d in (0, 1) for n in (2, 3) for v in (4, 5) for e in (0, 1) for m in (2, 3)
]
POSITIVE = torch.tensor([int(one[2] == 5 and one[1] != one[4]) for one in SENTENCES])
"""Who likes another kind: one sentence in four."""


def rate(positive: Any, walk: Any, blank: Batch) -> float:
    """Share of drawn sentences that have the attribute."""
    return float(positive(walk.sample(blank, Generator(3))).double().mean())


def test_gradient_control_raises_an_attribute_of_a_toy_grammar():
    """D11: embedded words under Gaussian noise, the gradient of log p(attribute | x_t)."""
    table = Generator(9).normal((6, 3), torch.float64, "cpu")
    layout = Layout.ragged([5] * 32)
    data = Batch({"x": table[torch.tensor(SENTENCES).flatten()]}, {"x": layout})
    process = Product({"x": Gaussian(Cosine(), event=(3,))})
    world = Labelled(process, data, torch.full((32,), 1 / 32), POSITIVE)
    many = Batch({"x": torch.zeros(300, 3)}, {"x": Layout.ragged([5] * 60)})
    many = many.with_condition({"c": torch.ones(60, dtype=torch.long)})

    def positive(drawn: Batch) -> Tensor:
        words = torch.cdist(drawn["x"], table).argmin(-1).reshape(-1, 5)
        return (words[:, 2] == 5) & (words[:, 1] != words[:, 4])

    rates = [
        rate(positive, DDPM(Guided(unconditional(world), world.log_prob, w), UniformTime(8)), many)
        for w in (0.0, 1.0)
    ]
    assert abs(rates[0] - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 60)
    assert rates[1] > 0.85


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


def test_refusals():
    with pytest.raises(ValueError, match="scale must be a finite number, got nan"):
        Guided(Mixture(), classify, math.nan)
    with pytest.raises(ValueError, match="chunk must be at least 1 changed sample, got 0"):
        Enumerated(chunk=0)

    class WalkOnly(Leaf, Process):
        """A leaf of which nothing is known."""

    WalkOnly.__abstractmethods__ = frozenset()
    denoiser = Mixture()
    denoiser.process = Product({"x": WalkOnly(Linear(), ())})
    with pytest.raises(ValueError, match="guidance by a function adds to log p_t: Product is not"):
        Guided(denoiser, classify, 1.0)
    batch, t = Batch.of(torch.zeros(3, 2)), {"x": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=r"log_prob must return one number a sample, \(3,\), got"):
        Guided(Mixture(), lambda batch, t: batch["x"], 1.0)(batch, t)
    chain = Product({"x": Categorical(Flow(), uniform(2))})
    word = Batch.of(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"log_prob must return one number a sample, \(4,\), got"):
        Guided(ExactDenoiser(chain, word), lambda b, t: b["x"].sum().double(), 1.0)(word, t)
