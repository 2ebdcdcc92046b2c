"""DPS: the paper's steps, consistency with linear and other measurements, and no guidance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    Layout,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.observation import Observation
from structdiff.operators import Blur, Downsample, Mask, Measurement, PhaseMagnitude, Quadratic
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.inverse_worlds import Field, smooth
from tests.guidance.test_consistent import standard
from tests.guidance.worlds import Counted


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_a_step_down_it_is_the_sampler(eta):
    """Bit for bit."""
    denoiser, empty = standard(4), Batch.of(torch.zeros(3, 4))
    seen = Observation(Downsample((4,), 2), torch.ones(2))
    plain = DDIM(denoiser, UniformTime(5), eta=eta).sample(empty, Generator(0))["x"]
    same = DPS(denoiser, UniformTime(5), seen, zeta=0.0, eta=eta).sample(empty, Generator(0))["x"]
    assert torch.equal(same, plain)
    other = DPS(denoiser, UniformTime(5), seen, zeta=0.1, eta=eta).sample(empty, Generator(0))["x"]
    assert (other - plain).abs().max() > 0.01


def mixture() -> NormalDenoiser:
    """Not linear, so that the gradient depends on x_t."""
    return NormalDenoiser(Gaussian(Cosine(), event=(3,)), 2 * normal(4, 3), torch.full((4,), 0.3))


def test_the_steps_are_those_of_the_paper():
    """x_s = step(x_t) - zeta grad |y - A(E[x_0 | x_t])|, from t < 1, where alpha is not lost."""
    denoiser, grid, zeta = mixture(), UniformTime(6), 0.2
    phase = PhaseMagnitude((3,), padding=2)
    seen, empty = Observation(phase, phase(normal(5, 3, seed=4))), Batch.of(torch.zeros(5, 3))
    guided, plain = DPS(denoiser, grid, seen, zeta=zeta), DDPM(denoiser, grid)
    walk, other, calls = guided.bind(empty, Generator(1)), plain.bind(empty, Generator(1)), 0
    carry = walk.start()
    other.start()
    for i in range(walk.steps):
        x = carry.x["x"].clone().requires_grad_()
        said = denoiser(Batch.of(x), {"x": grid.times()[i]})["x"].value
        (slope,) = torch.autograd.grad((seen.y - phase(said)).norm(dim=1).sum(), x)
        expected = other.step(carry, i).x["x"] - zeta * slope
        carry, calls = walk.step(carry, i), calls + 1
        torch.testing.assert_close(carry.x["x"], expected, rtol=1e-9, atol=1e-9)
    assert carry.calls == calls


FIELD = 64
MEASURED: dict[str, tuple[Measurement, float, int]] = {
    "mask": (Mask(torch.arange(FIELD) % 2 == 0), 0.5, 100),
    "blur": (Blur(torch.full((5,), 0.2), (FIELD,)), 0.5, 100),
    "phase": (PhaseMagnitude((FIELD,), padding=FIELD), 0.5, 200),
    "forms": (Quadratic(normal(FIELD, FIELD, FIELD) / FIELD), 0.2, 200),
}


@pytest.mark.parametrize(("operator", "zeta", "steps"), MEASURED.values(), ids=MEASURED)
def test_what_is_left_is_no_more_than_the_noise(operator, zeta, steps):
    """|y - A(x_0)| <= 1.2 |n|, for any differentiable A; without guidance it is far more."""
    noise, rows = 0.2, 6
    prior = Field(Gaussian(Cosine(), event=(FIELD,)), smooth(FIELD))
    y = operator(prior.draw(rows, seed=3))
    n = noise * normal(*y.shape, seed=5)
    seen, empty = Observation(operator, y + n), Batch.of(torch.zeros(rows, FIELD))
    left = []
    for zeta_used in (zeta, 0.0):
        sampler = DPS(prior, UniformTime(steps), seen, zeta=zeta_used)
        x = sampler.sample(empty, Generator(0))["x"]
        left.append((seen.residual(x).norm(dim=1) / n.norm(dim=1)).tolist())
    assert max(left[0]) < 1.2, left[0]
    assert min(left[1]) > 1.5, left[1]


def test_one_call_a_step_other_leaves_and_given_entries():
    """A field beside a class, entries held; a field of zero centre keeps its centre."""
    process = Product({"x": Gaussian(Cosine(), event=(4,)), "z": Categorical(Flow(), uniform(3))})
    data = Batch.of({"x": normal(6, 4), "z": torch.arange(6) % 3})
    held = torch.tensor([False, True, False, False]).expand(6, 4)
    denoiser = Counted(ExactDenoiser(process, data))
    seen = Observation(Mask(torch.tensor([True, True, False, False])), torch.zeros(2))
    sampler = DPS(denoiser, UniformTime(6), seen, zeta=0.3)
    drawn = sampler.sample(data.with_given({"x": held}), Generator(0))
    assert torch.equal(drawn["x"][held], data["x"][held])
    assert denoiser.calls == 6
    leaf = Gaussian(Cosine(), event=(2,), space=ZeroCentre())
    points = leaf.space.project(normal(6, 2), Layout.ragged([3, 3]), None)
    layouts = {"x": Layout.ragged([3, 3])}
    centred = Batch({"x": points}, layouts)
    exact = ExactDenoiser(Product({"x": leaf}), centred)
    near = Observation(Mask(torch.tensor([True, False])), points[:, :1])
    found = DPS(exact, UniformTime(20), near, zeta=0.3).sample(centred, Generator(0))["x"]
    torch.testing.assert_close(layouts["x"].mean(found), torch.zeros(2, 2), rtol=0, atol=1e-12)


def test_an_exact_fit_has_no_direction():
    """Where y = A(estimate) the distance has no gradient, and 0 is taken."""
    seen = Observation(Mask(torch.tensor([True, True])), torch.zeros(2))
    denoiser = NormalDenoiser(Gaussian(Cosine(), event=(2,)), torch.zeros(1, 2), torch.ones(1))
    walk = DPS(denoiser, UniformTime(3), seen, zeta=1.0, eta=0.0).bind(
        Batch.of(torch.zeros(1, 2)), Generator(0)
    )
    carry = walk.start()
    carry.x["x"].zero_()
    assert torch.equal(walk.step(carry, 1).x["x"], torch.zeros(1, 2))


@pytest.mark.parametrize("schedule", [Flow(), Cosine()])
def test_at_clean_data_and_at_rest_nothing_moves(schedule):
    """A grid that asks the denoiser at t = 0 too: the last step but one is the plain one's."""
    denoiser = NormalDenoiser(Gaussian(schedule, event=(2,)), torch.zeros(1, 2), torch.ones(1))
    seen = Observation(Mask(torch.tensor([True, False])), torch.tensor([3.0]))
    walk = DPS(denoiser, UniformTime(5, end=0.0), seen, zeta=0.3).bind(
        Batch.of(torch.zeros(4, 2)), Generator(0)
    )
    carry = walk.start()
    for i in range(4):
        carry = walk.step(carry, i)
    assert torch.isfinite(carry.x["x"]).all()
    torch.testing.assert_close(walk.step(carry, 4).x["x"], carry.x["x"])
