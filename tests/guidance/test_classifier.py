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
    uniform,
)
from structdiff.guidance import ClassifierFree, Enumerated, Guided
from structdiff.processes import Process
from structdiff.processes.leaf import Leaf
from structdiff.spaces import SO3, Sphere, Torus, ZeroCentre
from structdiff.testing import ExactDenoiser
from tests.guidance.labelled import (
    Labelled,
    mixed,
    unconditional,
)
from tests.guidance.mixtures import Mixture, gradient, labelled, matching, score
from tests.guidance.worlds import SIZES, Counted, Opinion, blank, everything

scales = pytest.mark.parametrize("w", [-1.0, 0.5, 1.0, 3.0])

times = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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


def test_a_function_of_some_leaves_guides_those_alone():
    """Of the classes of a mixed record: the other leaves have no slope."""
    world, batch = mixed()
    t = world.process.bind(batch).times(torch.tensor(0.6))

    def many_ones(batch: Batch, t: Any) -> Tensor:
        return batch.layouts["z"].sum(
            (batch["z"] == 1).double().reshape(len(batch["z"]), -1).sum(1)
        )

    plain = unconditional(world)(batch, t)
    guided = Guided(unconditional(world), many_ones, 1.0)(batch, t)
    for name in ("x", "angle"):
        assert torch.equal(guided[name].value, plain[name].value)
    bound = world.process.bind(batch)["z"]
    rates, before = (bound.rates(e["z"], batch["z"], t["z"]) for e in (guided, plain))
    ones = batch["z"] == 1
    torch.testing.assert_close(rates[~ones][..., 1], math.e * before[~ones][..., 1])


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
    with pytest.raises(ValueError, match="log_prob has no gradient in the record: it is"):
        Guided(Mixture(), lambda batch, t: torch.ones(3), 1.0)(batch, t)
    chain = Product({"x": Categorical(Flow(), uniform(2))})
    word = Batch.of(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"log_prob must return one number a sample, \(4,\), got"):
        Guided(ExactDenoiser(chain, word), lambda b, t: b["x"].sum().double(), 1.0)(word, t)
