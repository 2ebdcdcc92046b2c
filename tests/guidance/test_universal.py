"""Rewards of the clean record: forward, backward, repeated, by Langevin steps."""

from __future__ import annotations

import math
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
    Product,
    UniformTime,
    absorbing,
    uniform,
)
from structdiff.guidance import Guided, RePaint, Rewarded
from structdiff.guidance.refined import Refined
from structdiff.samplers.langevin import AnnealedLangevin
from structdiff.spaces import SO3, Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.mixtures import Mixture, world
from tests.guidance.worlds import Counted

LEAF = Gaussian(Cosine(), event=(2,))

SLOPE = torch.tensor([0.5, -2.0], dtype=torch.float64)

times = pytest.mark.parametrize("t", [0.2, 0.5, 0.8])


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear(said: Any, batch: Batch) -> Tensor:
    return said["x"].value @ SLOPE


def points(seed: int = 0) -> Batch:
    return Batch.of(Generator(seed).normal((5, 2), torch.float64, "cpu"))


@pytest.mark.parametrize("make", [DDIM, DDPM])
def test_a_linear_energy_is_the_dps_step(make):
    """G07: the plain step, less zeta times the gradient of the energy through the denoiser."""
    sampler = make(Rewarded(Mixture(), linear, 1.3), UniformTime(7))
    guided, plain = (
        s.bind(points(), Generator(3)) for s in (sampler, make(Mixture(), UniformTime(7)))
    )
    carry = plain.start()
    for i in range(4):
        x = carry.x["x"].clone().requires_grad_()
        t = plain.leaf_times[i]
        energy = -(Mixture()(Batch.of(x), t)["x"].value @ SLOPE).sum()
        (gradient,) = torch.autograd.grad(energy, x)
        states = [Generator(i) for _ in range(2)]
        found, step = (
            w.process.step(carry.x, w.denoise(carry.x, i, None), w.coefficients[i], random)["x"]
            for w, random in zip((guided, plain), states, strict=True)
        )
        level = LEAF.level(t["x"], x)
        zeta = 1.3 * plain.coefficients[i]["x"].data * level.sigma**2 / level.alpha
        # At pure noise alpha is lost in rounding and nothing is shifted.
        expected = step - (zeta * gradient if i else 0.0)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        carry = plain.step(carry, i)
    assert (zeta * gradient).abs().max() > 1e-3


@times
def test_backward_steps_on_a_linear_reward_add_up(t):
    """The mean moves by m rate a; no steps are no guidance, and the network is asked once."""
    denoiser, at = Counted(Mixture()), {"x": torch.tensor(t)}
    found = Refined(denoiser, linear, 0.2, steps=5)(points(), at)["x"].value
    assert denoiser.calls == 1
    plain = Mixture()(points(), at)["x"].value
    torch.testing.assert_close(found, plain + SLOPE, rtol=1e-12, atol=1e-12)
    nothing = Refined(denoiser, lambda said, batch: 1 / 0, 0.2, steps=0)(points(), at)
    assert torch.equal(nothing["x"].value, plain)


def test_backward_steps_reach_the_minimum_of_a_loss():
    """Of |x_0 - y|^2 the limit is y whatever the denoiser says, at a known rate."""
    y = torch.tensor([0.3, 0.7])
    refined = Refined(
        Mixture(), lambda said, batch: -(said["x"].value - y).square().sum(1), 0.1, steps=100
    )
    found = refined(points(), {"x": torch.tensor(0.5)})["x"].value
    plain = Mixture()(points(), {"x": torch.tensor(0.5)})["x"].value
    torch.testing.assert_close(found, y + 0.8**100 * (plain - y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transition", [uniform(3), absorbing(3)], ids=["uniform", "absorbing"])
def test_backward_steps_on_classes_tilt_the_law(transition):
    """For one row and a linear reward that is p(x_0 | x_t) e^(m rate r), as `Rewarded`."""
    process, worth = (
        Product({"x": Categorical(Flow(), transition)}),
        torch.tensor([0.7, -1.0, 0.4]),
    )
    p = torch.tensor([0.5, 0.2, 0.3])
    denoiser = ExactDenoiser(process, Batch.of(torch.arange(3)), p)
    batch, t = Batch.of(torch.arange(transition.symbols)), {"x": torch.tensor(0.8)}

    def reward(said: Any, batch: Batch) -> Tensor:
        return said["x"].value.exp() @ worth

    found = Refined(denoiser, reward, 0.5, steps=4)(batch, t)["x"].value.exp()
    tilted = ExactDenoiser(process, Batch.of(torch.arange(3)), p * torch.exp(2 * worth))
    expected = tilted(batch, t)["x"].value.exp()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    rewarded = Rewarded(denoiser, reward, 2.0)(batch, t)["x"].value.exp()
    torch.testing.assert_close(found, rewarded, rtol=0, atol=1e-9)


@pytest.mark.parametrize("manifold", [Torus(2), SO3()], ids=["torus", "so3"])
def test_backward_steps_on_manifolds_lead_the_clean_point_to_the_goal(manifold):
    """-dist^2 / 2 of the clean point climbs to the goal, in a tangent vector."""
    process = Product({"x": Brownian(Geometric(0.1, 3.0), manifold)})
    clean, x, goal = (manifold.uniform(4, Generator(i), torch.float64, "cpu") for i in (1, 2, 3))
    goal = manifold.exp(x, 0.5 * manifold.log(x, goal))
    denoiser = ExactDenoiser(process, Batch.of(clean))

    def reward(said: Any, batch: Batch) -> Tensor:
        reached = manifold.exp(batch["x"], said["x"].value)
        return -0.5 * manifold.norm2(manifold.log(reached, goal))

    refined = Refined(denoiser, reward, 0.4, steps=80)(Batch.of(x), {"x": torch.tensor(0.6)})
    reached = manifold.exp(x, refined["x"].value)
    assert manifold.norm2(manifold.log(reached, goal)).max() < 1e-6
    plain = denoiser(Batch.of(x), {"x": torch.tensor(0.6)})["x"].value
    assert (refined["x"].value - plain).abs().max() > 0.1


def test_backward_steps_leave_given_entries():
    process = Product({"x": LEAF, "z": Categorical(Flow(), uniform(3))})
    data = Batch.of({"x": points()["x"], "z": torch.tensor([0, 1, 2, 2, 0])})
    held = torch.tensor([True, False, False, True, False])
    batch = data.with_given({"x": held, "z": held})
    t = process.bind(batch).times(torch.tensor(0.5))
    denoiser = ExactDenoiser(process, data)

    def reward(said: Any, batch: Batch) -> Tensor:
        return linear(said, batch) + said["z"].value.exp() @ torch.tensor([1.0, 0.0, 2.0])

    plain, found = denoiser(batch, t), Refined(denoiser, reward, 0.5, steps=2)(batch, t)
    for name in ("x", "z"):
        assert torch.equal(found[name].value[held], plain[name].value[held])
        assert not torch.equal(found[name].value[~held], plain[name].value[~held])


@pytest.mark.parametrize("repeats", [1, 3])
def test_universal_guidance_counts_its_calls(repeats):
    """G07: forward, backward, and each step k times with noise in between; rewards are free."""
    denoiser = Counted(Mixture())
    universal = Refined(Rewarded(denoiser, linear, 0.3), linear, 0.05, steps=2)
    batch = points()
    walk = RePaint(DDPM(universal, UniformTime(6)), batch, jump=1, repeats=repeats)
    walk.sample(batch, Generator(1))
    assert denoiser.calls == repeats * 5 + 1


def test_travelling_back_in_time_keeps_the_law():
    """Of exact steps, to first order in their length: noise back up, and the step once more."""
    denoiser = NormalDenoiser(LEAF, torch.tensor([[0.4, -0.3]]), torch.tensor([0.8]))
    blank, gaps = Batch.of(torch.zeros(4000, 2)), []
    for steps in (15, 60):
        walk = RePaint(DDPM(denoiser, UniformTime(steps)), blank, jump=1, repeats=3)
        drawn = walk.sample(blank, Generator(1))["x"]
        error = 0.8 / math.sqrt(4000)
        assert (drawn.mean(0) - torch.tensor([0.4, -0.3])).abs().max() < 4 * error
        gaps.append(float((drawn.std(0) / 0.8 - 1).abs().max()))
    assert gaps[1] < gaps[0] / 2
    assert gaps[1] < 4 / 60 + 4 / math.sqrt(8000)


def test_guides_are_functions_that_add_up():
    """G08: nested guides are their sum, in every space."""
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))

    def one(batch: Batch, t: Any) -> Tensor:
        return batch["x"].square().sum(1) * (1 + batch["z"])

    def other(batch: Batch, t: Any) -> Tensor:
        return torch.sin(batch["angle"]).sum(1) - 0.3 * batch["z"]

    nested = Guided(Guided(denoiser, one, 2.0), other, -0.5)(batch, t)
    total = Guided(denoiser, lambda b, t: 2 * one(b, t) - 0.5 * other(b, t), 1.0)(batch, t)
    for name, estimate in total.items():
        torch.testing.assert_close(nested[name].value, estimate.value, rtol=1e-9, atol=1e-9)
    tilts = nested["z"].extras["tilt"], total["z"].extras["tilt"]
    torch.testing.assert_close(*tilts, rtol=1e-9, atol=1e-9)


def test_langevin_steps_with_a_guide_are_those_of_the_conditional_law():
    """G08a: the exact classifier of two normals; the same noise gives the same walk."""
    means, std = torch.tensor([[-1.0, 0.3], [1.2, -0.4]]), torch.tensor([0.5, 0.7])
    both = NormalDenoiser(LEAF, means, std)
    one = NormalDenoiser(LEAF, means[1:], std[1:])

    def classify(batch: Batch, t: Any) -> Tensor:
        x = batch["x"]
        level = LEAF.level(t["x"], x)
        variance = (level.alpha * std) ** 2 + level.sigma**2
        gap = ((x[:, None] - level.alpha * means) ** 2).sum(-1)
        return torch.log_softmax(-gap / (2 * variance) - variance.log(), 1)[:, 1]

    blank = Batch.of(torch.zeros(50, 2))
    drawn = [
        AnnealedLangevin(denoiser, UniformTime(8), rounds=3, snr=0.3).sample(blank, Generator(0))
        for denoiser in (Guided(both, classify, 1.0), one, both)
    ]
    torch.testing.assert_close(drawn[0]["x"], drawn[1]["x"], rtol=1e-6, atol=1e-6)
    assert (drawn[0]["x"] - drawn[2]["x"]).abs().max() > 0.5


def test_refusals():
    for rate, steps in ((math.nan, 1), (0.1, -1)):
        with pytest.raises(ValueError, match="rate must be finite and steps at least 0"):
            Refined(Mixture(), linear, rate, steps=steps)
    with pytest.raises(ValueError, match=r"reward must return one number a sample, \(5,\), got"):
        Refined(Mixture(), lambda said, b: said["x"].value, 1.0)(
            points(), {"x": torch.tensor(0.5)}
        )
