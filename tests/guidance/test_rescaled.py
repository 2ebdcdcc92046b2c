"""RescaledGuidance guidance: spreads of samples, blended."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Gaussian, Generator, Layout, Linear, Product
from structdiff.guidance import ClassifierFree
from structdiff.guidance.rescaled import RescaledGuidance
from structdiff.guidance.strengths import Interval
from structdiff.guidance.tilted import Tilted
from structdiff.spaces import ZeroCentre
from structdiff.testing import NormalDenoiser
from tests.guidance.mixtures import Mixture, absent, labelled, same, world
from tests.guidance.worlds import Counted

SIZES = [3, 1, 5]


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rows() -> tuple[Batch, Tilted, Counted]:
    """Ragged rows, a law and a narrower one to lead away from."""
    layout = Layout.ragged(SIZES)
    leaf = Gaussian(Linear(), event=(2,))
    laws = [
        NormalDenoiser(leaf, torch.tensor([[0.3, m]]), torch.tensor([s]))
        for m, s in ((-1.0, 0.4), (0.7, 1.1))
    ]
    x = Generator(1).normal((layout.rows, 2), torch.float64, "cpu")
    counted = Counted(laws[1])
    return Batch({"x": x}, {"x": layout}), Tilted(laws[0], [(4.0, counted)]), counted


def spreads(x: Tensor) -> list[float]:
    return [float(one.std(correction=0)) for one in x.split(SIZES)]


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_each_sample_has_the_spread_that_the_blend_asks_for(phi):
    """B11, section 3.4: phi std(x_c) + (1 - phi) std(x_w), by torch's std of each sample."""
    batch, guided, law = rows()
    t = {"x": torch.tensor(0.5)}
    wanted, plain = (one(batch, t)["x"].value for one in (law, guided))
    found = RescaledGuidance(guided, phi)(batch, t)["x"].value
    expected = [
        phi * one + (1 - phi) * other
        for one, other in zip(spreads(wanted), spreads(plain), strict=True)
    ]
    assert spreads(found) == pytest.approx(expected, rel=1e-12)
    ratio = (found / plain).split(SIZES)
    assert all(float(one.std()) < 1e-12 for one in ratio)
    assert spreads(plain)[0] > 1.2 * spreads(wanted)[0]


def test_at_phi_zero_it_is_the_guided_denoiser_and_no_call_is_added():
    batch, guided, law = rows()
    t = {"x": torch.tensor(0.5)}
    assert same(RescaledGuidance(guided, 0.0)(batch, t), guided(batch, t))
    before = law.calls
    RescaledGuidance(guided, 0.7)(batch, t)
    assert law.calls == before + 1


def test_in_a_product_classes_stay_and_leaves_can_be_chosen():
    denoiser, batch = world()
    guided = ClassifierFree(denoiser, 3.0)
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    plain, found = guided(batch, t), RescaledGuidance(guided, 1.0)(batch, t)
    assert torch.equal(found["z"].value, plain["z"].value)
    wanted = denoiser(batch, t)["x"].value
    torch.testing.assert_close(found["x"].value.std(1), wanted.std(1), rtol=1e-10, atol=0)
    chosen = RescaledGuidance(guided, 1.0, leaves=["x"])(batch, t)
    assert torch.equal(chosen["angle"].value, plain["angle"].value)
    assert torch.equal(chosen["x"].value, found["x"].value)


@pytest.mark.parametrize("scale", [0.0, 1.0, Interval(3.0, 0.8, 1.0)])
def test_what_is_not_guided_is_not_scaled(scale):
    denoiser, batch = world()
    t = dict.fromkeys(batch.leaves, torch.tensor(0.5))
    expected = denoiser(absent(batch) if scale == 0 else batch, t)
    assert same(RescaledGuidance(ClassifierFree(denoiser, scale), 0.7)(batch, t), expected)


def test_a_centre_stays_and_equal_entries_are_left_alone():
    layout = Layout.ragged(SIZES)
    leaf = Gaussian(Linear(), event=(2,), space=ZeroCentre())
    process = Product({"x": leaf})
    batch, guided, law = rows()
    x = leaf.space.project(batch["x"], layout, None)
    batch = batch.with_leaves({"x": x})
    for one in (guided, law, *guided.denoisers):
        one.process = process
    for one in (guided.denoisers[0], law.denoiser):
        one.mean = torch.zeros(1, 2)
    found = RescaledGuidance(guided, 1.0)(batch, {"x": torch.tensor(0.5)})["x"].value
    torch.testing.assert_close(layout.mean(found), torch.zeros(3, 2), rtol=0, atol=1e-14)
    assert torch.equal(found[3], torch.zeros(2))  # the sample of one row, at its centre
    assert torch.isfinite(found).all()


def test_given_entries_stay():
    batch, guided, _ = rows()
    held = torch.rand(batch["x"].shape, generator=torch.Generator().manual_seed(0)) < 0.4
    told = batch.with_given({"x": held})
    t = {"x": torch.tensor(0.5)}
    free, kept = (RescaledGuidance(guided, 1.0)(one, t)["x"].value for one in (batch, told))
    assert torch.equal(kept[held], guided(told, t)["x"].value[held])
    assert torch.equal(kept[~held], free[~held])
    assert not torch.allclose(kept[held], free[held])


def test_refusals():
    guided = ClassifierFree(Mixture(), 2.0)
    for phi in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"phi must be in \[0, 1\]"):
            RescaledGuidance(guided, phi)
    denoiser, _ = world()
    with pytest.raises(ValueError, match=r"leaves must be among .* not on classes, got \['z'\]"):
        RescaledGuidance(ClassifierFree(denoiser, 2.0), 0.7, leaves=["z"])
    batch = labelled({})
    with pytest.raises(ValueError, match="guidance needs a condition"):
        RescaledGuidance(guided, 0.7)(batch, {"x": torch.tensor(0.5)})
