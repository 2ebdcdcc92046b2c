"""Dynamic thresholding: within the bound nothing changes, outside nothing stays."""

from __future__ import annotations

import pytest
import torch

from structdiff import (
    DDPM,
    Batch,
    Brownian,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Layout,
    Product,
    UniformTime,
)
from structdiff.denoiser import Denoiser
from structdiff.processes import Estimate
from structdiff.samplers.thresholded import Thresholded, quantile
from structdiff.spaces import Torus, ZeroCentre
from structdiff.testing import ExactDenoiser, NormalDenoiser


class Says(Denoiser):
    """Always this estimate."""

    def __init__(self, process, value):
        super().__init__()
        self.process, self.value = process, value

    def forward(self, batch, t, previous=None):
        return {"x": Estimate(self.value, {"variance": self.value**2})}


def said(value, percentile, bound=1.0, counts=None):
    event = tuple(value.shape[1:])
    process = Product({"x": Gaussian(Flow(), event=event)})
    layout = Layout.ragged(counts) if counts else Layout.regular(len(value))
    batch = Batch({"x": torch.zeros_like(value)}, {"x": layout})
    thresholded = Thresholded(Says(process, value), {"x": bound}, percentile=percentile)
    return thresholded(batch, {"x": torch.tensor(0.5)})["x"]


@pytest.mark.parametrize("percentile", [50, 99.5, 100])
def test_an_estimate_within_the_bound_stays(percentile):
    value = torch.rand(5, 3, 4) * 4 - 2
    assert torch.equal(said(value, percentile, bound=2.0).value, value)
    assert torch.equal(said(value, percentile, bound=2.0).extras["variance"], value**2)


def test_the_hundredth_percentile_cuts_nothing():
    """Of an estimate out of bounds it keeps the direction and draws the largest to the bound."""
    value = 3 * torch.randn(6, 40)
    found = said(value, 100).value
    largest = value.abs().amax(1, keepdim=True)
    torch.testing.assert_close(found, value / largest)


@pytest.mark.parametrize("percentile", [60, 90, 99.5])
def test_the_output_is_bounded_and_as_in_the_paper(percentile):
    value = 3 * torch.randn(6, 40)
    found = said(value, percentile, bound=0.8).value
    assert float(found.abs().max()) <= 0.8 * (1 + 1e-6)
    s = torch.quantile(value.abs(), percentile / 100, dim=1, keepdim=True).clamp(min=0.8)
    torch.testing.assert_close(found, torch.maximum(torch.minimum(value, s), -s) / s * 0.8)
    assert float(found.abs().median()) < 0.8  # plain clipping would have put most there


@pytest.mark.parametrize("share", [0.0, 0.3, 0.995, 1.0])
def test_quantiles_of_ragged_samples(share):
    x, layout = torch.randn(9, 2), Layout.ragged([2, 0, 3, 4])
    parts = [x[:2], x[2:5], x[5:]]
    expected = [float(torch.quantile(part.flatten(), share)) for part in parts]
    found = quantile(x, layout, share).tolist()
    assert found[1] == 0
    assert [found[0], *found[2:]] == pytest.approx(expected, rel=1e-5)


def test_a_sample_does_not_depend_on_its_batch_mates():
    value = 3 * torch.randn(5, 2)
    whole = said(value, 80, counts=[2, 3]).value
    torch.testing.assert_close(whole[2:], said(value[2:], 80, counts=[3]).value)


def test_a_guided_walk_stays_within_the_data():
    """An estimate three times too large ends at most at the bound, and a right one as it was."""

    class Loud(NormalDenoiser):
        def forward(self, batch, t, previous=None):
            estimate = super().forward(batch, t, previous)["x"]
            return {"x": Estimate(3 * estimate.value)}

    data = (Gaussian(Flow(), event=(8,)), torch.full((1, 8), 0.7), torch.tensor([0.05]))
    batch = Batch.of(torch.zeros(20, 8))
    sampler = DDPM(Thresholded(Loud(*data), {"x": 1.0}), UniformTime(20))
    assert float(sampler.sample(batch, Generator(0))["x"].abs().max()) <= 1 + 1e-5
    plain = DDPM(NormalDenoiser(*data), UniformTime(20)).sample(batch, Generator(0))["x"]
    same = DDPM(Thresholded(NormalDenoiser(*data), {"x": 5.0}), UniformTime(20))
    assert torch.equal(same.sample(batch, Generator(0))["x"], plain)


def test_refusals():
    exact = NormalDenoiser(Gaussian(Flow()), torch.zeros(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"percentile must be in \(0, 100\], got 0"):
        Thresholded(exact, {"x": 1.0}, percentile=0)
    with pytest.raises(ValueError, match="bounds must be positive and finite"):
        Thresholded(exact, {"x": 0.0})
    with pytest.raises(ValueError, match=r"bounds names \['y'\], the Gaussian leaves are \['x'\]"):
        Thresholded(exact, {"y": 1.0})
    process = Product({"angle": Brownian(Geometric(0.1, 3.0), Torus(2))})
    turns = ExactDenoiser(process, Batch.of(process.empty(2)))
    with pytest.raises(ValueError, match=r"the Gaussian leaves are \[\]"):
        Thresholded(turns, {"angle": 1.0})
    process = Product({"x": Gaussian(Flow(), event=(2,), space=ZeroCentre())})
    pair = Batch({"x": torch.tensor([[1.0, 0.0], [-1.0, 0.0]])}, {"x": Layout.ragged([2])})
    with pytest.raises(ValueError, match=r"\['x'\], which cutting takes out of their subspace"):
        Thresholded(ExactDenoiser(process, pair), {"x": 1.0})
