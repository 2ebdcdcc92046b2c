"""Pseudo-inverse guidance: exact for normal data with the spread that belongs to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Product,
    UniformLogSNR,
    UniformTime,
    uniform,
)
from structdiff.guidance import Guided, Replacement
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.operators import Blur, Downsample, Mask, Matrix, low_pass
from structdiff.samplers.langevin import AnnealedLangevin
from structdiff.testing import ExactDenoiser, Impulses
from tests.guidance.inverse_worlds import Field, Posterior, problem, smooth
from tests.guidance.worlds import Correlated


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


def conditional(prior: Field, posterior: Posterior, x_t: Tensor, t: float) -> Tensor:
    """E[x_0 | x_t, y], of the posterior of y as the law of x_0."""
    level = prior.leaf.schedule(torch.tensor(t))
    c = posterior.covariance
    noisy = level.alpha**2 * c + level.sigma**2 * torch.eye(len(c))
    gain = level.alpha * torch.linalg.solve(noisy, c).mT
    return posterior.mean + (x_t - level.alpha * posterior.mean) @ gain.mT


EVEN = torch.full((6,), 0.7).double()
CASES = {
    "isotropic, mask": (EVEN, Mask(torch.arange(6) < 2), 0.3),
    "isotropic, means": (EVEN, Downsample((6,), 3), 0.3),
    "isotropic, matrix": (EVEN, Matrix(normal(3, 6)), 0.3),
    "isotropic, blur, no noise": (EVEN, Blur(torch.tensor([0.5, 0.5]).double(), (6,)), 0.0),
    "smooth, blur": (smooth(6), Blur(torch.tensor([0.25, 0.5, 0.25]).double(), (6,)), 0.2),
    "smooth, low frequencies": (smooth(6), low_pass((6,), 1), 0.1),
}


@pytest.mark.parametrize(("std", "operator", "noise"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("schedule", [Cosine(), Geometric(0.02, 8.0)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_for_normal_data_it_is_the_conditional_estimate(std, operator, noise, schedule, t):
    """FX7, with r_t chosen exactly: the score is that of p_t(x_t | y), to 1e-8."""
    prior = Field(Gaussian(schedule, event=(6,)), std, mean=0.4)
    seen, posterior = problem(prior, operator, noise)
    spread = float(std[0]) if bool((std == std[0]).all()) else std
    x_t = 2 * normal(5, 6, seed=9)
    found = PiGDM(prior, seen, data_std=spread)(Batch.of(x_t), {"x": torch.tensor(t)})["x"].value
    expected = conditional(prior, posterior, x_t, t)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_its_twist_is_the_density_of_what_was_measured():
    """log p(y | x_t) against a dense normal law."""
    prior, operator = Field(Gaussian(Cosine(), event=(6,)), EVEN), Matrix(normal(3, 6))
    seen, _ = problem(prior, operator, 0.3)
    x_t, t = Batch.of(normal(5, 6, seed=9)), {"x": torch.tensor(0.5)}
    said = prior(x_t, t)
    level = prior.leaf.schedule(torch.tensor(0.5))
    r2 = (0.7 * level.sigma) ** 2 / ((0.7 * level.alpha) ** 2 + level.sigma**2)
    covariance = r2 * operator.matrix @ operator.matrix.mT + 0.09 * torch.eye(3)
    law = torch.distributions.MultivariateNormal(operator(said["x"].value), covariance)
    found = PiGDM(prior, seen, data_std=0.7).log_prob(said, x_t, t)
    torch.testing.assert_close(found, law.log_prob(seen.y))


@pytest.mark.parametrize("name", ["isotropic, means", "smooth, low frequencies"])
def test_walks_end_in_the_posterior(name):
    """Mean to 5 % of its standard deviation, covariance to 6 %."""
    std, operator, noise = CASES[name]
    prior = Field(Gaussian(Cosine(), event=(6,)), std, mean=0.4)
    seen, posterior = problem(prior, operator, noise)
    guided = PiGDM(prior, seen, data_std=std if name.startswith("smooth") else 0.7)
    sampler = DDPM(guided, UniformTime(200))
    x = sampler.sample(Batch.of(torch.zeros(4000, 6)), Generator(0))["x"]
    assert posterior.mean_gap(x) < 0.05
    assert posterior.covariance_gap(x) < 0.06


def test_annealed_langevin_dynamics_under_a_likelihood_too():
    """Any walk of the guided denoiser: dynamics at falling levels end in the posterior."""
    schedule = Geometric(0.05, 5.0)
    prior = Field(Gaussian(schedule, event=(6,)), EVEN, mean=0.4)
    seen, posterior = problem(prior, CASES["isotropic, matrix"][1], 0.5)
    ladder = UniformLogSNR(schedule, 10, end=0.0)
    walk = AnnealedLangevin(PiGDM(prior, seen, data_std=0.7), ladder, rounds=60, snr=0.3)
    x = walk.sample(Batch.of(torch.zeros(1000, 6)), Generator(0))["x"]
    assert posterior.mean_gap(x) < 0.1
    assert posterior.covariance_gap(x) < 0.2


def test_a_missing_coordinate_with_the_true_likelihood_and_with_replacement():
    """grad log p(y | x_t) in closed form: mean and variance within 3 %; replacement is biased.

    Exact laws: all is affine in the noise, and row 0 of an impulse response has none.
    """
    rho, value, steps = 0.9, 2.0, 400
    rows = 2 * steps + 3
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]])
    process = Gaussian(Cosine(), event=(2,))
    prior = Correlated(process, covariance)

    def log_prob(batch: Batch, t: dict[str, Tensor]) -> Tensor:
        level, x = process.schedule(t["x"]), batch["x"]
        noisy = level.alpha**2 * covariance + level.sigma**2 * torch.eye(2)
        gain = level.alpha * torch.linalg.solve(noisy, covariance[:, 0])
        variance = 1 - level.alpha * gain @ covariance[:, 0] + 0.05**2
        return -0.5 * (value - x @ gain) ** 2 / variance

    empty, grid = Batch.of(torch.zeros(rows, 2)), UniformTime(steps)
    x = DDPM(Guided(prior, log_prob, 1.0), grid).sample(empty, Impulses())["x"][:, 1]
    share = 1 / (1 + 0.05**2)
    assert x[0] == pytest.approx(rho * share * value, rel=0.03)
    assert (x - x[0]).square().sum() == pytest.approx(1 - rho**2 * share, rel=0.03)
    mask = torch.tensor([True, False]).expand(rows, 2)
    known = Batch.of(torch.tensor([value, 0.0]).repeat(rows, 1)).with_given({"x": mask})
    biased = DDPM(Replacement(prior, known), grid).sample(empty, Impulses())["x"][:, 1]
    assert biased[0] < 0.8 * rho * value


def test_given_entries_and_other_leaves_stay():
    process = Product({"x": Gaussian(Cosine(), event=(3,)), "z": Categorical(Flow(), uniform(3))})
    data = Batch.of({"x": normal(6, 3), "z": torch.arange(6) % 3})
    data["x"][:, 1] = 0.3
    held = torch.tensor([False, True, False]).expand(6, 3)
    batch = data.with_given({"x": held, "z": torch.arange(6) < 3})
    seen = Observation(Mask(torch.tensor([True, False, False])), normal(6, 1), noise_std=0.1)
    denoiser = ExactDenoiser(process, data)
    drawn = DDPM(PiGDM(denoiser, seen), UniformTime(6)).sample(batch, Generator(0))
    assert torch.equal(drawn["x"][held], data["x"][held])
    assert drawn["z"][:3].tolist() == [0, 1, 2]
    times = process.bind(batch).times(torch.tensor(0.7))
    guided, plain = (one(batch, times)["x"].value for one in (PiGDM(denoiser, seen), denoiser))
    assert torch.equal(guided[held], plain[held])
    assert (guided - plain)[~held].abs().max() > 0.01
