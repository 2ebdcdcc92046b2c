"""States that agree with a measurement: replacement in any basis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Counter,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance import RePaint
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.projection import Projection
from structdiff.operators import FourierMask, Mask, hartley, low_pass
from structdiff.testing import ExactDenoiser, NormalDenoiser
from tests.guidance.inverse_worlds import Field, smooth
from tests.guidance.test_consistent import standard
from tests.operators.cases import FACTORED


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return Generator(seed).normal(shape, torch.float64, "cpu")


def test_for_a_mask_it_is_repaint_with_one_repeat():
    """The same draws in the same order."""
    keep, y = torch.tensor([True, False, True, False]), normal(5, 2)
    prior = Field(Gaussian(Cosine(), event=(4,)), smooth(4))
    ddpm, empty = DDPM(prior, UniformTime(6)), Batch.of(torch.zeros(5, 4))
    known = Batch.of(Mask(keep).adjoint(y)).with_given({"x": keep.expand(5, 4)})
    expected = RePaint(ddpm, known, repeats=1).sample(empty, Generator(3))["x"]
    found = Projection(ddpm, Observation(Mask(keep), y)).sample(empty, Generator(3))["x"]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("operator", FACTORED.values(), ids=FACTORED)
def test_the_whole_of_it_is_hard_consistency(operator):
    y = operator(normal(3, *operator.event))
    sampler = DDPM(standard(*operator.event), UniformTime(5))
    empty = Batch.of(torch.zeros(3, *operator.event))
    x = Projection(sampler, Observation(operator, y)).sample(empty, Generator(7))["x"]
    torch.testing.assert_close(operator(x), y, rtol=1e-9, atol=1e-9)
    plain = sampler.sample(empty, Counter(7))["x"]
    none = Projection(sampler, Observation(operator, y), mix=0.0).sample(empty, Counter(7))["x"]
    assert torch.equal(none, plain)


def test_fourier_coefficients_in_single_precision():
    """Variance exploding, two channels: the kept ones to 1e-5; a share leaves that share out."""
    torch.set_default_dtype(torch.float32)
    keep = torch.arange(12) % 3 == 0
    operator, truth = FourierMask(keep), normal(2, 2, 12).float()
    seen = Observation(operator, operator(truth))
    sampler = DDPM(standard(2, 12, schedule=Geometric(0.01, 20.0)), UniformTime(10))
    own, empty, gaps = torch.fft.fft(torch.complex(*truth.unbind(1))), Batch.of(0 * truth), []
    for mix in (1.0, 0.5):
        x = Projection(sampler, seen, mix=mix).sample(empty, Generator(0))["x"]
        gaps.append((torch.fft.fft(torch.complex(*x.unbind(1))) - own).abs() / 12**0.5)
    assert gaps[0][:, keep].max() < 1e-5
    assert gaps[0][:, ~keep].min() > 1e-3
    assert 1e-3 < gaps[1][:, keep].max() < 1.5


def test_low_frequencies_of_one_row_and_details_of_the_model():
    """A band is substituted; the others, independent in a stationary field, are the sampler's."""
    prior, empty = Field(Gaussian(Cosine(), event=(12,)), smooth(12)), Batch.of(torch.zeros(9, 12))
    band, guide = low_pass((12,), 2), 1 + normal(9, 12)
    sampler = DDPM(prior, UniformTime(10))
    guided = Projection(sampler, Observation(band, band(guide)))
    c, plain = (hartley(one.sample(empty, Counter(0))["x"], 1) for one in (guided, sampler))
    torch.testing.assert_close(c[:, band.keep], hartley(guide, 1)[:, band.keep])
    torch.testing.assert_close(c[:, ~band.keep], plain[:, ~band.keep], rtol=1e-12, atol=1e-12)
    assert (c - plain)[:, band.keep].abs().min() > 1e-3


def test_the_mean_of_many_draws_is_nearer_than_one():
    """A Monte-Carlo average of reconstructions from noised frequencies of the truth."""
    prior, rows = Field(Gaussian(Cosine(), event=(12,)), smooth(12)), 200
    band, truth = low_pass((12,), 1), prior.draw(1, seed=2)[0]
    seen = Observation(band, band(truth[None])[0])
    sampler = Projection(DDPM(prior, UniformTime(40)), seen)
    x = sampler.sample(Batch.of(torch.zeros(rows, 12)), Generator(0))["x"]
    single, average = (x - truth).square().mean(), (x.mean(0) - truth).square().mean()
    spread = x.var(0, correction=0).mean()
    torch.testing.assert_close(single, average + spread)
    assert average < 0.6 * single


def test_given_entries_stay_and_other_leaves_are_drawn():
    """A product: the measured field beside a class, with some entries held."""
    process = Product(
        {"x": Gaussian(Cosine(), event=(4,)), "kind": Categorical(Flow(), uniform(3))}
    )
    data = Batch.of({"x": normal(6, 4, seed=8), "kind": torch.arange(6) % 3})
    held = torch.tensor([False, False, True, False]).expand(6, 4)
    batch = data.with_given({"x": held})
    seen = Observation(Mask(torch.tensor([True, False, True, False])), normal(6, 2))
    sampler = Projection(DDPM(ExactDenoiser(process, data), UniformTime(5)), seen)
    drawn = sampler.sample(batch, Generator(0))
    assert torch.equal(drawn["x"][held], data["x"][held])
    torch.testing.assert_close(drawn["x"][:, 0], seen.y[:, 0])
    assert drawn["kind"].unique().tolist() != [0]


def test_a_sample_does_not_depend_on_its_batch_mates():
    operator, y = FACTORED["means of pairs"], normal(4, 3)
    denoiser = NormalDenoiser(Gaussian(Cosine(), event=(6,)), torch.zeros(1, 6), torch.ones(1))
    empty, sampler = Batch.of(torch.zeros(4, 6)), DDPM(denoiser, UniformTime(4))
    together = Projection(sampler, Observation(operator, y)).sample(empty, Counter(0))["x"]
    alone = Projection(sampler, Observation(operator, y[2:3])).sample(
        empty.select([2]), Counter(0)
    )
    torch.testing.assert_close(alone["x"], together[2:3], rtol=1e-12, atol=1e-13)
