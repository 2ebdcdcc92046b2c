"""Tilts towards and away from other denoisers: composition, autoguidance, degraded branches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
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
from structdiff.guidance import ClassifierFree
from structdiff.guidance.degraded import Degraded, extrapolated
from structdiff.guidance.strengths import Interval
from structdiff.guidance.tilted import Conditioned, Tilted
from structdiff.spaces import SO3, Sphere, Torus
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.mixtures import Mixture, labelled, same, world
from tests.guidance.worlds import Counted

times = pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
LEAF = Gaussian(Cosine(), event=(2,))


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normals() -> list[tuple[Tensor, float]]:
    """Means and standard deviations of p and of three class conditionals."""
    means = torch.tensor([[0.1, -0.2], [1.0, 0.4], [-0.7, 0.9], [0.2, -1.3]])
    return list(zip(means, [1.5, 0.6, 0.9, 0.4], strict=True))


@times
@pytest.mark.parametrize(
    "scales", [(1.0, 1.0, 1.0), (2.5, -1.0, 0.0), (0.3, 0.3, 0.4), (-1.0, -0.5, 2.0)]
)
def test_gaussian_class_conditionals_compose(scales, t):
    """K09: grad log [p prod_i (p(. | c_i) / p)^w_i] by autograd; w < 0 is negation."""
    laws = [NormalDenoiser(LEAF, m[None], torch.tensor([s])) for m, s in normals()]
    counted = [Counted(law) for law in laws]
    composed = Tilted(counted[0], list(zip(scales, counted[1:], strict=True)))
    x = Generator(0).normal((6, 2), torch.float64, "cpu").requires_grad_()
    level = LEAF.level(torch.tensor(t), x)
    log_p = [
        -((x - level.alpha * m) ** 2).sum(-1) / (2 * ((level.alpha * s) ** 2 + level.sigma**2))
        for m, s in normals()
    ]
    total = log_p[0] + sum(w * (one - log_p[0]) for w, one in zip(scales, log_p[1:], strict=True))
    (expected,) = torch.autograd.grad(total.sum(), x)
    x = x.detach()
    estimate = composed(Batch.of(x), {"x": torch.tensor(t)})["x"].value
    found = (level.alpha * estimate - x) / level.sigma**2
    torch.testing.assert_close(found, expected.detach(), rtol=1e-6, atol=1e-6)
    weights = [1 - math.fsum(scales), *scales]
    assert [one.calls for one in counted] == [int(w != 0) for w in weights]


@times
def test_values_of_one_condition_compose(t):
    """ "a = 0 and not b = 1" in the list form is that by names, at every walk's batch."""
    batch = labelled({"a": torch.zeros(5).long(), "b": torch.ones(5).long()})
    zero = Conditioned(Mixture(), {"a": torch.tensor(0)})
    one = Conditioned(Mixture(), {"b": torch.tensor(1)})
    nothing = Conditioned(Mixture(), {})
    at = {"x": torch.tensor(t)}
    found = Tilted(nothing, [(2.0, zero), (-0.7, one)])(batch, at)["x"].value
    expected = ClassifierFree(Mixture(), {"a": 2.0, "b": -0.7})(batch, at)["x"].value
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    bare = Tilted(nothing, [(2.0, zero), (-0.7, one)])(labelled({}), at)["x"].value
    assert torch.equal(bare, found)


def laws(manifold: Any) -> tuple[Brownian, Tensor, Tensor, list[Tensor]]:
    """Points of a manifold and three laws on them."""
    leaf = Brownian(Geometric(0.05, 3.0), manifold)
    points = manifold.uniform(5, Generator(1), torch.float64, "cpu")
    x = manifold.uniform(4, Generator(2), torch.float64, "cpu")
    weights = torch.softmax(Generator(3).normal((3, 5), torch.float64, "cpu"), 1)
    return leaf, points, x, list(weights)


@pytest.mark.parametrize("manifold", [Torus(2), SO3()], ids=["torus", "so3"])
@pytest.mark.parametrize("t", [0.6, 0.9])
def test_laws_on_manifolds_compose(manifold, t):
    """K09: the gradient of the log of products of kernel mixtures, by autograd through exp."""
    leaf, points, x, weights = laws(manifold)
    process, batch = Product({"x": leaf}), Batch.of(x)
    one, two, three = (ExactDenoiser(process, Batch.of(points), w) for w in weights)
    at = {"x": torch.tensor(t)}
    found = Tilted(one, [(1.5, two), (-0.8, three)])(batch, at)["x"].value
    tau = leaf.tau(at["x"], x)
    v = torch.zeros(4, *manifold.tangent, requires_grad=True)
    moved = manifold.exp(x, v)
    kernel = torch.stack([manifold.log_kernel(y.expand_as(x), moved, tau) for y in points], 1)
    p, q, r = (torch.logsumexp(kernel + w.log(), 1) for w in weights)
    (slope,) = torch.autograd.grad((p + 1.5 * (q - p) - 0.8 * (r - p)).sum(), v)
    torch.testing.assert_close(found, tau * slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transition", [uniform(3), absorbing(3)], ids=["uniform", "absorbing"])
def test_laws_on_classes_compose(transition):
    """K09: each row's p(x_0 | x_t) is proportional to p prod_i (p_i / p)^w_i, by Bayes' rule."""
    process = Product({"z": Categorical(Flow(), transition)})
    weights = torch.softmax(Generator(3).normal((3, 3), torch.float64, "cpu"), 1)
    states = torch.arange(transition.symbols)
    batch, at = Batch.of({"z": states}), {"z": torch.tensor(0.6)}
    denoisers = [ExactDenoiser(process, Batch.of({"z": torch.arange(3)}), w) for w in weights]
    found = Tilted(denoisers[0], [(1.5, denoisers[1]), (-0.8, denoisers[2])])(batch, at)["z"]
    q = process["z"].from_clean(at["z"], states).column(states).exp()[:, :3]
    p = [w * q / (q @ w)[:, None] for w in weights]
    mixed = p[0] * (p[1] / p[0]).nan_to_num(1) ** 1.5 * (p[2] / p[0]).nan_to_num(1) ** -0.8
    expected = mixed / mixed.sum(1, keepdim=True)
    torch.testing.assert_close(found.value.exp(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 2.5])
def test_autoguidance(w):
    """s_w = (1 - w) s_worse + w s: the worse model at 0 and the model at 1, bit for bit."""
    worse = Counted(NormalDenoiser(LEAF, torch.zeros(1, 2), torch.tensor([2.0])))
    better = Counted(NormalDenoiser(LEAF, torch.ones(1, 2), torch.tensor([0.5])))
    batch = Batch.of(Generator(0).normal((6, 2), torch.float64, "cpu"))
    t = {"x": torch.tensor(0.4)}
    found = Tilted(worse, [(w, better)])(batch, t)["x"].value
    assert (worse.calls, better.calls) == (int(w != 1), int(w != 0))
    bad, good = worse(batch, t)["x"].value, better(batch, t)["x"].value
    torch.testing.assert_close(found, (1 - w) * bad + w * good, rtol=1e-12, atol=1e-12)
    if w in (0, 1):
        assert torch.equal(found, good if w else bad)


def test_a_scale_in_time_saves_calls_of_the_worse_model():
    worse = Counted(NormalDenoiser(LEAF, torch.zeros(1, 2), torch.tensor([2.0])))
    better = Counted(NormalDenoiser(LEAF, torch.ones(1, 2), torch.tensor([0.5])))
    sampler = DDIM(Tilted(worse, [(Interval(2.0, 0.3, 0.7), better)]), UniformTime(20))
    sampler.sample(Batch.of(torch.zeros(3, 2)), Generator(0))
    inside = int(((sampler.times[:-1] >= 0.3) & (sampler.times[:-1] <= 0.7)).sum())
    assert (worse.calls, better.calls) == (inside, 20)


def fade(batch: Batch, t: Any) -> Batch:
    """Half of x, another symbol, angles as they are."""
    x = {**batch.leaves, "x": 0.5 * batch["x"], "z": (batch["z"] + 1) % 3}
    return batch.with_leaves(x)


def test_extrapolation_from_a_degraded_branch():
    """G09c: s = 0 the denoiser, s = -1 the degraded branch, bit for bit; linear in between."""
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    plain, seen = denoiser(batch, t), denoiser(fade(batch, t), t)
    branch = Degraded(denoiser, fade)(batch, t)
    assert same(extrapolated(denoiser, fade, 0.0)(batch, t), plain)
    assert same(extrapolated(denoiser, fade, -1.0)(batch, t), branch)
    for name in batch.leaves:
        torch.testing.assert_close(
            branch[name].value.exp(), seen[name].value.exp(), rtol=1e-12, atol=1e-12
        )
    found = extrapolated(denoiser, fade, 1.5)(batch, t)
    expected = 2.5 * plain["x"].value - 1.5 * seen["x"].value
    torch.testing.assert_close(found["x"].value, expected, rtol=1e-12, atol=1e-12)
    powers = 2.5 * plain["z"].value - 1.5 * seen["z"].value.clamp(min=-80)
    torch.testing.assert_close(
        found["z"].value, torch.log_softmax(powers, -1), rtol=1e-9, atol=1e-9
    )
    assert (plain["x"].value - seen["x"].value).abs().max() > 0.05
    early = extrapolated(denoiser, fade, lambda t: 1.5 if t > 0.6 else 0.0)
    assert same(early(batch, t), plain)


def test_a_degraded_point_of_a_manifold_is_seen_from_the_point():
    """What is known of x_0 is one point: wherever one stands, the branch points there."""
    sphere = Sphere(2)
    process = Product({"x": Brownian(Geometric(0.02, 1.0), sphere)})
    truth, x = (sphere.uniform(4, Generator(i), torch.float64, "cpu") for i in (1, 2))
    noisy = sphere.exp(truth, 0.3 * sphere.to_tangent(truth, x))
    shaken = sphere.exp(noisy, 0.05 * sphere.to_tangent(noisy, x))
    inner = Towards(process, truth)
    branch = Degraded(inner, lambda batch, t: batch.with_leaves({"x": shaken}))
    found = branch(Batch.of(noisy), {"x": torch.tensor(0.2)})["x"].value
    # Parallel transport bends by the curvature over the triangle, which is small.
    torch.testing.assert_close(found, sphere.log(noisy, truth), rtol=0, atol=2e-3)
    there = inner(Batch.of(shaken), {"x": torch.tensor(0.2)})["x"].value
    assert (there - sphere.log(noisy, truth)).abs().max() > 0.02


class Towards(ExactDenoiser):
    """The tangent vector to a point."""

    def __init__(self, process: Any, truth: Tensor) -> None:
        super().__init__(process, Batch.of(truth))
        self.truth = truth

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Any:
        from structdiff.processes import Estimate

        return {"x": Estimate(Sphere(2).log(batch["x"], self.truth))}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="scale must be a finite number or a function of time"):
        Tilted(Mixture(), [(math.nan, Mixture())])
    with pytest.raises(ValueError, match="scale must be a finite number or a function of time"):
        extrapolated(Mixture(), fade, math.inf)
    other, _ = world()
    with pytest.raises(ValueError, match="all denoisers must have the leaves of the reference"):
        Tilted(Mixture(), [(1.0, other)])
