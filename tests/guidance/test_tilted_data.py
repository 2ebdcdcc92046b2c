"""Tilts p(x_0) e^(w r) of the data by their value function log E[e^(w r) | x_t]: exact everywhere.

`Rewarded` has r(E[x_0 | x_t]) in its place; how far that is off on the mixture is stated.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Product,
    absorbing,
    uniform,
)
from structdiff.guidance import Guided, Rewarded
from structdiff.spaces import SO3, Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.labelled import Labelled, grammar, states

MEANS = torch.tensor([[-1.0, 0.5], [0.3, -0.7], [1.2, 0.9]]).double()
STDS = torch.tensor([0.5, 0.8, 0.4]).double()
WEIGHTS = torch.tensor([0.2, 0.5, 0.3]).double()
SLOPE = torch.tensor([0.8, -0.6]).double()
LEAF = Gaussian(Cosine(), event=(2,))
scales = pytest.mark.parametrize("w", [-1.0, 0.5, 2.0])
times = pytest.mark.parametrize("t", [0.2, 0.5, 0.9])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(w: float = 0.0) -> NormalDenoiser:
    """The mixture times e^(w a.x), which is one of the same normals, moved and weighed."""
    lift = w * MEANS @ SLOPE + w**2 * STDS**2 * SLOPE.square().sum() / 2
    means = MEANS + w * STDS[:, None] ** 2 * SLOPE
    return NormalDenoiser(LEAF, means, STDS, WEIGHTS * lift.exp())


def value(w: float) -> Any:
    """log E[e^(w a.x_0) | x_t] from the posterior of each normal."""

    def of(batch: Batch, t: Any) -> Tensor:
        x = batch["x"]
        level = LEAF.level(t["x"], x)
        variance = (level.alpha * STDS) ** 2 + level.sigma**2
        gap = x[:, None] - level.alpha * MEANS
        share = torch.log_softmax(
            WEIGHTS.log() - gap.square().sum(-1) / (2 * variance) - variance.log(), 1
        )
        mean = MEANS + (level.alpha * STDS**2 / variance)[:, None] * gap
        left = (STDS * level.sigma) ** 2 / variance
        moments = w * mean @ SLOPE + w**2 * left * SLOPE.square().sum() / 2
        return torch.logsumexp(share + moments, 1)

    return of


@scales
@times
def test_the_value_function_of_the_mixture_gives_the_tilted_mixture(w, t):
    """FX8: the estimate of p(x_0) e^(w r) at every time, to 1e-6."""
    batch, at = Batch.of(Generator(0).normal((6, 2), torch.float64, "cpu")), {"x": torch.tensor(t)}
    found = Guided(mixture(), value(w), 1.0)(batch, at)["x"].value
    expected = mixture(w)(batch, at)["x"].value
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (expected - mixture()(batch, at)["x"].value).abs().max() > 1e-3


def test_the_reward_of_the_estimate_is_off_by_the_second_order_in_the_scale():
    """`Rewarded` leaves out w^2 Var / 2: its error falls fourfold where w is halved."""
    batch = Batch.of(Generator(0).normal((6, 2), torch.float64, "cpu"))
    at, errors = {"x": torch.tensor(0.5)}, []
    for w in (0.1, 0.05, 0.025):
        found = Rewarded(mixture(), lambda said, _: said["x"].value @ SLOPE, w)(batch, at)
        errors.append(float((found["x"].value - mixture(w)(batch, at)["x"].value).abs().max()))
    assert errors[0] < 0.01
    assert [a / b for a, b in zip(errors, errors[1:], strict=False)] == pytest.approx(
        [4, 4], rel=0.15
    )


def tilted(world: Labelled, worth: Tensor, w: float) -> tuple[Any, ExactDenoiser]:
    """log E[e^(w r) | x_t] of a finite data set, and the denoiser of p e^(w r)."""

    def of(batch: Batch, t: Any) -> Tensor:
        joint = world.joint(batch, t)
        return torch.logsumexp(joint + w * worth[:, None], 0) - torch.logsumexp(joint, 0)

    weights = world.weights * torch.exp(w * worth)
    return of, ExactDenoiser(world.process, world.data, weights)


@scales
@pytest.mark.parametrize("manifold", [Torus(2), SO3()], ids=["torus", "so3"])
def test_on_manifolds(manifold, w):
    points, x = (manifold.uniform(5, Generator(i), torch.float64, "cpu") for i in (1, 2))
    process = Product({"x": Brownian(Geometric(0.05, 3.0), manifold)})
    world = Labelled(process, Batch.of(points), torch.full((5,), 0.2), torch.zeros(5).long())
    f, other = tilted(world, torch.tensor([0.3, -1.0, 0.8, 0.1, -0.4]), w)
    for t in (0.6, 0.9):
        at = {"x": torch.tensor(t)}
        found = Guided(world.free, f, 1.0)(Batch.of(x), at)["x"].value
        expected = other(Batch.of(x), at)["x"].value
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@scales
@times
@pytest.mark.parametrize("transition", [uniform(3), absorbing(3)], ids=["uniform", "absorbing"])
def test_rates_on_classes(transition, w, t):
    """Of all rows of a sequence of two."""
    world = grammar(transition)
    batch, at = states(world), {"token": torch.tensor(t)}
    worth = Generator(4).normal((9,), torch.float64, "cpu")
    f, other = tilted(world, worth, w)
    leaf = world.process.bind(batch)["token"]
    guided = Guided(world.free, f, 1.0)(batch, at)["token"]
    found, expected = (
        leaf.rates(one, batch["token"], at["token"]) for one in (guided, other(batch, at)["token"])
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_mixed_record_is_tilted_in_all_its_leaves():
    """One reward of a place and a word together."""
    process = Product({"x": LEAF, "z": Categorical(Flow(), uniform(3))})
    data = Batch.of({"x": MEANS, "z": torch.tensor([2, 0, 1])})
    world = Labelled(process, data, WEIGHTS, torch.zeros(3).long())
    f, other = tilted(world, torch.tensor([0.5, -1.0, 0.3]), 1.5)
    batch = Batch.of({"x": 0.4 * MEANS, "z": torch.tensor([0, 0, 2])})
    t = {"x": torch.tensor(0.5), "z": torch.tensor(0.7)}
    guided, expected = Guided(world.free, f, 1.0)(batch, t), other(batch, t)
    torch.testing.assert_close(guided["x"].value, expected["x"].value, rtol=1e-6, atol=1e-6)
    leaf = process.bind(batch)["z"]
    rates = [leaf.rates(one["z"], batch["z"], t["z"]) for one in (guided, expected)]
    torch.testing.assert_close(rates[0], rates[1], rtol=1e-6, atol=1e-6)
