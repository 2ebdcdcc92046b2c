"""Estimates that agree with a measurement: exact consistency, and what the rest makes of it."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Cosine,
    Gaussian,
    Generator,
    Geometric,
    Multistep,
    UniformTime,
)
from structdiff.guidance import RePaint, Replacement
from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.observation import Observation
from structdiff.operators import Blur, FourierMask, Mask, Matrix, Quantised, low_pass
from structdiff.samplers import Carry
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.testing import NormalDenoiser
from tests.guidance.inverse_worlds import Field, Posterior, problem, smooth
from tests.operators.cases import FACTORED


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


def standard(*event: int, schedule: object = None) -> NormalDenoiser:
    process = Gaussian(schedule or Cosine(), event=event)
    return NormalDenoiser(process, torch.zeros(1, *event), torch.ones(1))


def test_for_a_mask_it_is_replacement():
    keep, denoiser = torch.tensor([True, False, True]), standard(3)
    y, x, t = normal(5, 2), Batch.of(normal(5, 3, seed=1)), {"x": torch.tensor(0.4)}
    known = Batch.of(Mask(keep).adjoint(y)).with_given({"x": keep.expand(5, 3)})
    found = Consistent(denoiser, Observation(Mask(keep), y))(x, t)["x"].value
    torch.testing.assert_close(found, Replacement(denoiser, known)(x, t)["x"].value)


@pytest.mark.parametrize("operator", FACTORED.values(), ids=FACTORED)
@pytest.mark.parametrize("make", [DDPM, Multistep])
def test_every_walk_ends_in_what_was_measured(operator, make):
    """H x_0 = y, and x_0 is not the pseudo-inverse alone."""
    y = operator(normal(3, *operator.event))
    aware = Consistent(standard(*operator.event), Observation(operator, y))
    x = make(aware, UniformTime(6)).sample(Batch.of(torch.zeros(3, *operator.event)), Generator(7))
    torch.testing.assert_close(operator(x["x"]), y, rtol=1e-10, atol=1e-10)
    if bool((operator.singular == 0).any()):
        assert (x["x"] - operator.pinv(y)).abs().max() > 0.05


def test_a_share_of_it_moves_the_estimate_by_that_share():
    operator, denoiser = Blur(torch.tensor([0.1, 0.7, 0.2]), (6,)), standard(6)
    y, x, t = normal(2, 6), Batch.of(normal(2, 6, seed=1)), {"x": torch.tensor(0.4)}
    plain = operator(denoiser(x, t)["x"].value)
    half = operator(Consistent(denoiser, Observation(operator, y), mix=0.25)(x, t)["x"].value)
    torch.testing.assert_close(half, 0.25 * y + 0.75 * plain)


def test_fourier_coefficients_under_a_predictor_and_corrector():
    """Variance exploding, complex rows as two channels, in float32: kept ones to 1e-5."""
    torch.set_default_dtype(torch.float32)
    keep = torch.zeros(4, 6, dtype=torch.bool)
    keep[:, ::2], keep[0] = True, True
    operator, truth = FourierMask(keep), normal(2, 2, 4, 6).float()
    seen = Observation(operator, operator(truth))
    aware = Consistent(standard(2, 4, 6, schedule=Geometric(0.01, 30.0)), seen)
    sampler = PredictorCorrector(DDPM(aware, UniformTime(8)), rounds=1)
    x = sampler.sample(Batch.of(torch.zeros(2, 2, 4, 6)), Generator(0))["x"]
    spectrum = torch.fft.fftn(torch.complex(x[:, 0], x[:, 1]), dim=(1, 2), norm="ortho")
    own = torch.fft.fftn(torch.complex(truth[:, 0], truth[:, 1]), dim=(1, 2), norm="ortho")
    gap = (spectrum - own).abs()
    assert gap[:, keep].max() < 1e-5
    assert gap[:, ~keep].max() > 0.1


def test_a_quantised_row_is_restored_inside_its_intervals():
    """A(x_0) = y exactly, with the details that quantising lost drawn anew."""
    prior = Field(Gaussian(Cosine(), event=(16,)), smooth(16))
    operator = Quantised(0.8, low_pass((16,), 16))
    y = operator(prior.draw(20, seed=0))
    aware = DDPM(Consistent(prior, Observation(operator, y)), UniformTime(20))
    x = aware.sample(Batch.of(torch.zeros(20, 16)), Generator(0))["x"]
    assert torch.equal(operator(x), y)
    assert (x - operator.pinv(y)).square().mean() > 0.1 * 0.8**2 / 12


def test_with_steps_back_to_noise_the_unseen_part_comes_to_agree():
    """RePaint with nothing held: the error of the mean falls with the repeats."""
    prior, rows = Field(Gaussian(Cosine(), event=(8,)), smooth(8)), 400
    seen, posterior = problem(prior, Matrix(normal(3, 8)), 0.0)
    empty = Batch.of(torch.zeros(rows, 8))
    aware = DDPM(Consistent(prior, seen), UniformTime(15))
    walks = [RePaint(aware, empty, jump=5, repeats=r) for r in (1, 6)]
    gaps = [posterior.mean_gap(walk.sample(empty, Generator(0))["x"]) for walk in walks]
    assert gaps[0] > 0.15
    assert gaps[1] < 0.6 * gaps[0], gaps


def test_a_noisy_row_is_cleaned_from_the_time_of_its_noise():
    """A walk that starts there, with the low frequencies of the row held as a regulariser."""
    prior, rows = Field(Gaussian(Cosine(), event=(16,)), smooth(16)), 200
    truth, grid = prior.draw(rows, seed=0), UniformTime(20)
    begin = 12
    level = prior.leaf.schedule(grid.times()[begin])
    noisy = truth + level.sigma / level.alpha * normal(rows, 16, seed=1)
    band = low_pass((16,), 1)
    aware = Consistent(prior, Observation(band, band(noisy)), mix=0.5)
    walk = DDIM(aware, grid).bind(Batch.of(noisy), Generator(0))
    carry = Carry({"x": level.alpha * noisy})
    for i in range(begin, walk.steps):
        carry = walk.step(carry, i)
    gaps = [(x - truth).square().mean() for x in (carry.x["x"], noisy)]
    assert gaps[0] < 0.4 * gaps[1], gaps


def test_the_posterior_that_gaps_are_measured_to():
    """Against conditioning by rejection: of draws of the prior, those near y."""
    prior, operator = (
        Field(Gaussian(Cosine(), event=(3,)), smooth(3), mean=0.5),
        Mask(torch.arange(3) < 1),
    )
    posterior = Posterior.of(prior, operator, torch.tensor([1.0]), 0.2)
    x = prior.draw(400_000, seed=0)
    near = x[(x[:, 0] + 0.2 * normal(len(x), seed=1) - 1).abs() < 0.02]
    error = 4 / len(near) ** 0.5
    assert posterior.mean_gap(near) < error
    assert posterior.covariance_gap(near) < 2 * error
