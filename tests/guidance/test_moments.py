"""Guidance by the denoiser's own moments: exact for normal data of any covariance."""

from __future__ import annotations

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
    Product,
    UniformTime,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance.inverse.moments import MomentGuided
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.operators import Blur, Downsample, Mask, Matrix, PhaseMagnitude
from structdiff.processes import Estimate
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.inverse_worlds import Field, problem, smooth
from tests.guidance.test_pigdm import conditional


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


OPERATORS = {
    "mask": Mask(torch.arange(6) < 3),
    "means": Downsample((6,), 2),
    "some of a blur": Mask(torch.arange(6) % 2 == 0) @ Blur(torch.tensor([0.2, 0.5, 0.3]), (6,)),
    "matrix": Matrix(normal(4, 6)),
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("schedule", [Cosine(), Geometric(0.02, 8.0)])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("noise", [0.2, 0.0])
def test_for_normal_data_it_is_the_conditional_estimate(operator, schedule, t, noise):
    """FX7 with a covariance that the operator's basis does not share; `PiGDM` is not exact."""
    prior = Field(Gaussian(schedule, event=(6,)), smooth(6), mean=0.4)
    seen, posterior = problem(prior, operator, noise)
    x_t, at = Batch.of(2 * normal(5, 6, seed=9)), {"x": torch.tensor(t)}
    found = MomentGuided(prior, seen)(x_t, at)["x"].value
    expected = conditional(prior, posterior, x_t["x"], t)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)
    if t == 0.5 and operator is OPERATORS["mask"]:
        assert (PiGDM(prior, seen)(x_t, at)["x"].value - expected).abs().max() > 0.01


def test_walks_end_in_the_posterior():
    """Mean to 6 % of its standard deviation, covariance to 8 %, from the noisiest time."""
    prior = Field(Gaussian(Cosine(), event=(6,)), smooth(6), mean=0.4)
    seen, posterior = problem(prior, OPERATORS["mask"], 0.3)
    empty, grid = Batch.of(torch.zeros(3000, 6)), UniformTime(200)
    x = DDPM(MomentGuided(prior, seen), grid).sample(empty, Generator(0))["x"]
    assert posterior.mean_gap(x) < 0.06
    assert posterior.covariance_gap(x) < 0.08


def test_other_leaves_learn_of_it_and_given_ones_stay():
    """An angle beside the field is moved by the gradient of its own."""
    process = Product(
        {
            "x": Gaussian(Cosine(), event=(2,)),
            "angle": Brownian(Geometric(0.1, 3.0), Torus(1)),
            "z": Categorical(Flow(), uniform(2)),
        }
    )
    data = Batch.of({"x": normal(4, 2), "angle": normal(4, 1, seed=1), "z": torch.arange(4) % 2})
    denoiser = ExactDenoiser(process, data)
    seen = Observation(Mask(torch.tensor([True, False])), normal(4, 1, seed=2), noise_std=0.5)
    held = torch.tensor([False, True, False, True])
    batch = data.with_given({"angle": held})
    t = process.bind(batch).times(torch.tensor(0.6))
    plain, guided = denoiser(batch, t), MomentGuided(denoiser, seen)(batch, t)
    moved = (guided["angle"].value - plain["angle"].value).abs()
    assert torch.equal(moved[held], torch.zeros(2, 1))
    assert moved[~held].min() > 1e-4
    assert torch.equal(guided["z"].value, plain["z"].value)
    assert (guided["x"].value - plain["x"].value).abs().max() > 1e-2


def test_what_does_not_fit_is_refused():
    process = Gaussian(Cosine(), event=(4,))
    denoiser = NormalDenoiser(process, torch.zeros(1, 4), torch.ones(1))
    phase = Observation(PhaseMagnitude((4,)), torch.zeros(4))
    with pytest.raises(ValueError, match="PhaseMagnitude is not a LinearOperator: use DPS"):
        MomentGuided(denoiser, phase)
    seen = Observation(Downsample((4,), 2), torch.zeros(2))
    ragged = Batch({"x": torch.zeros(3, 4)}, {"x": Layout.ragged([1, 2])})
    with pytest.raises(ValueError, match="samples have several rows of the leaf 'x'"):
        MomentGuided(denoiser, seen)(ragged, {"x": torch.tensor(0.5)})
    centred = Gaussian(Cosine(), event=(4,), space=ZeroCentre())
    with pytest.raises(ValueError, match="same noise in all directions"):
        MomentGuided(NormalDenoiser(centred, torch.zeros(1, 4), torch.ones(1)), seen)


def test_given_entries_that_are_measured_with_others_are_known():
    """Normal data of a dense covariance, H = x_1 + x_2 with x_1 given: by conditioning on all."""
    c = torch.tensor([[1.0, 0.5, 0.3], [0.5, 1.0, 0.4], [0.3, 0.4, 1.0]])
    process, h, noise = Gaussian(Cosine(), event=(3,)), torch.tensor([[1.0, 1.0, 0.0]]), 0.3

    class Correlated(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.process = Product({"x": process})

        def forward(self, batch, t, previous=None):
            level = process.schedule(t["x"])
            seen = torch.diag_embed(level.alpha)
            law = seen @ c @ seen + torch.diag_embed(level.sigma**2)
            gain = c @ seen @ torch.linalg.inv(law)
            return {"x": Estimate(torch.einsum("rij,rj->ri", gain, batch["x"]))}

    x, y = normal(4, 3), normal(4, 1, seed=1)
    batch = Batch.of(x).with_given({"x": torch.tensor([True, False, False]).expand(4, 3)})
    denoiser, t = Correlated(), torch.tensor(0.5)
    guided = MomentGuided(denoiser, Observation(Matrix(h), y, noise_std=noise))
    found = guided(batch, denoiser.process.bind(batch).times(t))["x"].value
    level = process.schedule(t)
    looks = torch.cat([torch.diag(torch.stack([torch.tensor(1.0), level.alpha, level.alpha])), h])
    spread = torch.diag(torch.tensor([0.0, level.sigma**2, level.sigma**2, noise**2]))
    expected = torch.cat([x, y], 1) @ torch.linalg.solve(looks @ c @ looks.mT + spread, looks @ c)
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=1e-9, atol=1e-9)
