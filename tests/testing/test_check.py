"""`check_process` and `check_sampler` pass what is right and name the law that is broken."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    Batch,
    Brownian,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Geometric,
    Karras,
    Layout,
    Multistep,
    absorbing,
    marginal,
    uniform,
)
from structdiff.random import Generator
from structdiff.samplers import Ancestral
from structdiff.spaces import SO3, Torus, ZeroCentre
from structdiff.testing import check_process, check_sampler

PLANE = torch.tensor([[-1.0, 0.0], [2.0, 1.0], [0.0, 0.5]])
CURVED = {"substeps": 32, "times": (0.5, 0.8), "draws": 5000}


@pytest.mark.parametrize(
    "schedule", [Cosine(), Flow(), Karras(), Geometric()], ids=lambda s: type(s).__name__
)
def test_gaussian(schedule):
    check_process(Gaussian(schedule, event=(2,)), PLANE)


def test_centred_ragged():
    layout = Layout.ragged([2, 3, 3])
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    batch = Batch({"x": x - layout.spread(layout.mean(x))}, {"x": layout})
    check_process(Gaussian(Cosine(), event=(2,), space=ZeroCentre()), batch)


@pytest.mark.parametrize(
    "transition",
    [
        uniform(3),
        absorbing(3),
        marginal(torch.tensor([0.2, 0.3, 0.5])),
        marginal(torch.tensor([0.5, 0.5, 0.0])),
    ],
)
def test_categorical(transition):
    check_process(Categorical(Flow(), transition), torch.tensor([0, 1, 2, 1]))


@pytest.mark.parametrize("space", [Torus(2), SO3()])
def test_brownian(space):
    x = space.uniform(3, Generator(1), torch.float32, "cpu")
    check_process(Brownian(Geometric(0.05, 5.0), space), x, **CURVED)


class WrongStep(Gaussian):
    """The noise of a step 25 % too large."""

    def plan(self, times, eta):
        return [c._replace(noise=1.25 * c.noise) for c in super().plan(times, eta)]


class WrongCorrupt(Gaussian):
    """The variance of x_t where that from s to t belongs."""

    def corrupt(self, x_s, s, t, random):
        past, level = self.level(s, x_s), self.level(t, x_s)
        return level.alpha / past.alpha * x_s + level.sigma * self.draw(random)


class WrongDensity(Gaussian):
    """A density twice as narrow."""

    def log_prob(self, x_t, x_0, t):
        return 2 * super().log_prob(x_t, x_0, t)


class WrongDivergence(Gaussian):
    """A factor one half forgotten."""

    def divergence(self, oracle, estimate, x_t, coefficients):
        return 2 * super().divergence(oracle, estimate, x_t, coefficients)


class WrongPrior(Gaussian):
    """A prior that the noise does not reach."""

    def prior(self, random, t=1.0):
        return self.hold(2 * super().prior(random, t))


class Moving(Gaussian):
    """Forgets what is given in the prior."""

    def prior(self, random, t=1.0):
        return self.level(torch.ones(()), self.known).sigma * self.draw(random)


class Doubling(Gaussian):
    """Answers in float64 whatever it is asked."""

    def diffuse(self, x_0, t, random):
        return super().diffuse(x_0, t, random).double()


class Mates(Gaussian):
    """Subtracts the mean of the batch."""

    def diffuse(self, x_0, t, random):
        x_t = super().diffuse(x_0, t, random)
        return x_t - 1e-3 * self.level(t, x_t).sigma * x_t.mean(0)


class Slow(Categorical):
    """Bayes with the survival of the wrong time."""

    def plan(self, times, eta):
        steps = list(super().plan(times, eta))
        for step in steps:
            step.alpha_s, step.sigma_s = step.alpha_t, step.sigma_t
        return steps


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WrongStep, "undoing: .* eta = 1"),
        (WrongCorrupt, "semigroup"),
        (WrongDensity, "density"),
        (WrongDivergence, "divergence: .* is expected"),
        (WrongPrior, "forgetting"),
        (Moving, "holding: prior moved"),
        (Doubling, "dtype: diffuse returned torch.float64"),
        (Mates, "batch independence: sample 0"),
    ],
)
def test_wrong_processes_are_found_out(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_process(wrong(Cosine(), event=(2,)), PLANE)


def test_wrong_chain_is_found_out():
    with pytest.raises(AssertionError, match="undoing"):
        check_process(Slow(Flow(), uniform(3)), torch.tensor([0, 1, 2]))


def test_arguments_of_check_process():
    with pytest.raises(ValueError, match="0 < s < t < 1"):
        check_process(Gaussian(Cosine(), event=(2,)), PLANE, times=(0.7, 0.2))
    with pytest.raises(ValueError, match="at least 2 records"):
        check_process(Gaussian(Cosine(), event=(2,)), PLANE[:1])


class WrongWeights(Multistep):
    """The weights of the past twice too large: first order where it promises two."""

    def rule(self, clock):
        right = super().rule(clock)
        past = 2 * right[:, 1]
        return torch.stack([1 - past, past], 1)


class Lazy(Ancestral):
    """Never looks again after the first step."""

    def effective(self, carry, i):
        estimate, carry = super().effective(carry, i)
        first = carry.history or ((carry.x, estimate),)
        return first[0][1], type(carry)(carry.x, first, estimate, carry.calls)


class Restless(Ancestral):
    """Has a generator of its own."""

    source = torch.Generator().manual_seed(0)

    def effective(self, carry, i):
        estimate, carry = super().effective(carry, i)
        jitter = 1 + 0.01 * torch.rand((), generator=self.source)
        return {n: type(e)(e.value * jitter) for n, e in estimate.items()}, carry


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WrongWeights, r"order: on euclidean the error falls as steps\^-1.*expected steps\^-2"),
        (lambda d, g: Lazy(d, g, eta=0.0), "wholeness: .* torn"),
        (lambda d, g: Restless(d, g, eta=0.0), "determinism"),
    ],
)
def test_wrong_samplers_are_found_out(wrong, message):
    with pytest.raises(AssertionError, match=message):
        check_sampler(wrong, steps=8, samples=600)


def test_right_sampler_passes():
    check_sampler(Multistep, steps=8, samples=800)
