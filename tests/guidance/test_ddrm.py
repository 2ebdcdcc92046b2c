"""DDRM against its formulas, its degenerate cases, and the sampler that it leaves alone."""

from __future__ import annotations

from dataclasses import replace

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
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.projection import Projection
from structdiff.operators import Downsample, Mask, Matrix
from structdiff.samplers import Carry
from structdiff.samplers.staggered import Staggered
from structdiff.spaces import Torus
from structdiff.testing import ExactDenoiser
from tests.guidance.test_consistent import standard
from tests.operators.cases import FACTORED


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


@pytest.mark.parametrize("operator", FACTORED.values(), ids=FACTORED)
def test_without_noise_it_ends_in_what_was_measured(operator):
    """H x_0 = y to 1e-4, in float32."""
    torch.set_default_dtype(torch.float32)
    y = operator(normal(3, *operator.event).float())
    sampler = DDRM(DDPM(standard(*operator.event), UniformTime(5)), Observation(operator, y))
    x = sampler.sample(Batch.of(torch.zeros(3, *operator.event)), Generator(7))["x"]
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [DDPM, DDIM])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_what_is_not_seen_follows_the_sampler_exactly(make, noise):
    """Bit for bit, where the denoiser does not tell the parts of one another."""
    keep = torch.tensor([True, False, True, False, False])
    sampler, empty = make(standard(5), UniformTime(8)), Batch.of(torch.zeros(4, 5))
    plain = sampler.sample(empty, Counter(1))["x"]
    seen = Observation(Mask(keep), 3 + normal(4, 2), noise_std=noise)
    x = DDRM(sampler, seen).sample(empty, Counter(1))["x"]
    assert torch.equal(x[:, ~keep], plain[:, ~keep])
    assert (x - plain)[:, keep].abs().min() > 0.05


def test_if_all_is_seen_without_noise_it_returns_it():
    y = normal(4, 5)
    seen = Observation(Mask(torch.ones(5, dtype=torch.bool)), y)
    x = DDRM(DDPM(standard(5), UniformTime(5)), seen).sample(
        Batch.of(torch.zeros(4, 5)), Generator(0)
    )
    torch.testing.assert_close(x["x"], y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [Cosine(), Geometric(0.02, 8.0)])
@pytest.mark.parametrize("eta_b", [1.0, 0.6])
def test_a_step_has_the_law_of_the_paper(schedule, eta_b):
    """Eqs. 7 and 8 in the paper's variables, x / alpha with noise sigma / alpha."""
    rows, eta, noise = 40_000, 0.7, 0.4
    singular = torch.tensor([2.0, 0.5, 0.05])
    turn = torch.linalg.qr(normal(4, 4))[0]
    operator = Matrix(torch.diag(singular) @ turn[:3])
    y = torch.tensor([1.0, -0.7, 0.3])
    seen = Observation(operator, y, noise_std=noise)
    denoiser = standard(4, schedule=schedule)
    sampler = DDRM(DDPM(denoiser, UniformTime(4)), seen, eta=eta, eta_b=eta_b)
    batch = Batch.of(normal(1, 4, seed=3).expand(rows, 4).clone())
    bound = sampler.bind(batch, Generator(0))
    carry = bound.step(Carry(batch.leaves), 1)
    times = UniformTime(4).times()
    level = schedule(times[2])
    estimate = denoiser(batch, {"x": times[1]})["x"].value[0]
    theta, target, sigma = turn[:3] @ estimate, y / singular, level.sigma / level.alpha
    sure = sigma >= noise / singular
    assert sure.tolist()[0] and not sure.tolist()[2]
    mean = torch.where(
        sure,
        (1 - eta_b) * theta + eta_b * target,
        theta + (1 - eta**2) ** 0.5 * sigma * (target - theta) / (noise / singular),
    )
    variance = torch.where(sure, sigma**2 - (eta_b * noise / singular) ** 2, (eta * sigma) ** 2)
    c = carry.x["x"] @ turn[:3].mT / level.alpha
    error = (variance / rows).sqrt()
    torch.testing.assert_close((c.mean(0) - mean) / error, torch.zeros(3), rtol=0, atol=4.0)
    torch.testing.assert_close(c.var(0), variance, rtol=0.03, atol=0)


def test_it_starts_from_what_was_measured():
    """At a noise that leaves something of it: N(alpha w, sigma^2 - r^2)."""
    rows, noise = 40_000, 0.8
    seen = Observation(Mask(torch.tensor([True, False])), torch.tensor([5.0]), noise_std=noise)
    schedule = Geometric(0.02, 2.0)
    sampler = DDRM(DDPM(standard(2, schedule=schedule), UniformTime(4)), seen)
    x = sampler.bind(Batch.of(torch.zeros(rows, 2)), Generator(0)).start().x["x"]
    torch.testing.assert_close(x.mean(0), torch.tensor([5.0, 0.0]), rtol=0, atol=0.05)
    torch.testing.assert_close(x.var(0), torch.tensor([4 - noise**2, 4.0]), rtol=0.03, atol=0)


def test_ragged_rows_given_ones_and_other_leaves():
    """Rows of a sample are measured one by one; given rows stay, beside a class and an angle."""
    process = Product(
        {
            "x": Gaussian(Cosine(), event=(4,)),
            "kind": Categorical(Flow(), uniform(3)),
            "angle": Brownian(Geometric(0.05, 3.0), Torus(1)),
        }
    )
    ragged, regular = Layout.ragged([2, 3]), Layout.regular(2)
    leaves = {"x": normal(5, 4), "kind": torch.tensor([0, 2]), "angle": normal(2, 1)}
    data = Batch(leaves, {"x": ragged, "kind": regular, "angle": regular})
    held = torch.tensor([True, False, False, False, True])
    operator = Downsample((4,), 2)
    seen = Observation(operator, normal(5, 2, seed=4))
    sampler = DDPM(ExactDenoiser(process, data), UniformTime(5))
    drawn = DDRM(sampler, seen).sample(data.with_given({"x": held}), Generator(0))
    assert torch.equal(drawn["x"][held], data["x"][held])
    torch.testing.assert_close(operator(drawn["x"])[~held], seen.y[~held])
    assert drawn["angle"].shape == (2, 1) and drawn["kind"].tolist() == [0, 2]


def test_a_saved_walk_goes_on_as_it_would_have():
    seen = Observation(FACTORED["blur"], normal(3, 7), noise_std=0.2)
    bound = DDRM(DDPM(standard(7), UniformTime(4)), seen).bind(
        Batch.of(torch.zeros(3, 7)), Counter(0)
    )
    carry = whole = bound.start()
    for i in range(4):
        whole = bound.step(whole, i)
        carry = bound.step(Carry.from_tensors(carry.tensors()), i)
    assert torch.equal(carry.x["x"], whole.x["x"])


def test_a_sampler_without_estimates_is_refused():
    class Forgetful(type(DDPM(standard(2), UniformTime(2)))):
        def effective(self, carry, i):
            estimate, carry = super().effective(carry, i)
            return estimate, replace(carry, previous=None)

    seen = Observation(Mask(torch.tensor([True, False])), torch.zeros(1))
    sampler = DDRM(Forgetful(standard(2), UniformTime(2), eta=1.0), seen)
    with pytest.raises(ValueError, match="Forgetful carries no estimate, which DDRM needs"):
        sampler.sample(Batch.of(torch.zeros(1, 2)), Generator(0))


def test_what_is_measured_worse_than_the_prior_says_starts_from_the_prior():
    """Eq. 7: where noise_std / S is above sigma_T, N(0, sigma_T^2), however large y / S is."""
    rows, schedule = 40_000, Geometric(0.02, 8.0)
    seen = Observation(Matrix(torch.diag(torch.tensor([1.0, 1e-3]))), torch.ones(2), noise_std=0.1)
    sampler = DDRM(DDPM(standard(2, schedule=schedule), UniformTime(4)), seen)
    empty = Batch.of(torch.zeros(rows, 2))
    x = sampler.bind(empty, Counter(0)).start().x["x"]
    assert torch.equal(x[:, 1], sampler.sampler.bind(empty, Counter(0)).start().x["x"][:, 1])
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, 0.0]), rtol=0, atol=0.15)


@pytest.mark.parametrize("wrap", [DDRM, Projection])
def test_rows_with_times_of_their_own_are_as_noisy_as_they_should_be(wrap):
    """Of a staggered walk: half-way rows hold alpha_r y, with sigma_r of noise, each its own."""
    samples, layout = 10_000, Layout.ragged([3] * 10_000)
    seen = Observation(Mask(torch.tensor([True, False])), torch.tensor([3.0]))
    bound = wrap(Staggered(standard(2), UniformTime(6), lag=1.0), seen).bind(
        Batch({"x": torch.zeros(3 * samples, 2)}, {"x": layout}), Generator(0)
    )
    carry = bound.start()
    for i in range(3):
        carry = bound.step(carry, i)
    x = carry.x["x"][:, 0].reshape(samples, 3)
    level = Cosine()(bound.sampler.leaf_times[3]["x"][:3])
    assert level.sigma.diff().min() > 0.1
    torch.testing.assert_close(x.mean(0), 3 * level.alpha, rtol=0, atol=0.05)
    torch.testing.assert_close(x.std(0), level.sigma, rtol=0.03, atol=0)
