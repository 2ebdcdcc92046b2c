"""Cascades with noisy coarse leaves: the joint law of a Haar toy, with exact denoisers."""

from __future__ import annotations

import math

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
    Layout,
    Linear,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance.augmented import Augmented
from structdiff.spaces import ZeroCentre
from structdiff.testing import ExactDenoiser, sort_records
from tests.guidance.worlds import Counted

PIXELS = torch.tensor([[1.0, 1.0], [2.0, 0.0], [-1.0, 0.5], [-2.0, 1.5], [0.5, -2.5]]).double()
WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15]).double()


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def coarse(pixels: Tensor) -> Tensor:
    """The low band of the Haar transform; two pairs of the records share it."""
    return pixels.sum(1, keepdim=True) / math.sqrt(2)


def stages() -> tuple[ExactDenoiser, ExactDenoiser]:
    """The law of the low band, and the joint one of both resolutions."""
    low, high = Gaussian(Flow(), event=(1,)), Gaussian(Cosine(), event=(2,))
    first = ExactDenoiser(Product({"low": low}), Batch.of({"low": coarse(PIXELS)}), WEIGHTS)
    both = Batch.of({"low": coarse(PIXELS), "high": PIXELS})
    return first, ExactDenoiser(Product({"low": low, "high": high}), both, WEIGHTS)


@pytest.mark.parametrize("s", [0.0, 0.1, 0.4, 0.8])
def test_two_stages_draw_the_joint_law(s):
    """G12: whatever the level, since x given c_s has the law p(x) when c_s has the right one."""
    first, second = stages()
    samples, grid = 1500, UniformTime(25)
    low = DDPM(first, grid).sample(Batch.of({"low": torch.zeros(samples, 1)}), Generator(0))["low"]
    augmented = Augmented(second, {"low": s})
    blank = Batch.of({"low": low, "high": torch.zeros(samples, 2)})
    noisy = augmented.augment(blank, Generator(1))
    assert torch.equal(noisy["low"], low) == (s == 0)
    drawn = DDPM(augmented, grid).sample(noisy, Generator(2))
    assert torch.equal(drawn["low"], noisy["low"])
    record = torch.cdist(drawn["high"], PIXELS).argmin(1)
    assert (drawn["high"] - PIXELS[record]).abs().max() < 1e-6
    share = torch.stack([(record == k).double().mean() for k in range(5)])
    assert 0.5 * float((share - WEIGHTS).abs().sum()) < 0.03
    kept = (coarse(drawn["high"]) - low).abs().squeeze(1) < 1e-6
    assert bool(kept.all()) == (s < 0.3)  # noise may have made another record the likely one
    assert kept.double().mean() > 0.25


def test_the_level_is_an_input():
    """The estimate is that of the joint model at the times (s, t)."""
    _, second = stages()
    batch = Batch.of(
        {"low": torch.tensor([[0.3], [-0.8]]), "high": torch.tensor([[0.2, -1.0], [0.6, 0.1]])}
    )
    held = batch.with_given({"low": torch.ones(2, dtype=torch.bool)})
    counted = Counted(second)
    for s in (0.2, 0.7):
        augmented = Augmented(counted, {"low": s})
        t = augmented.process.bind(held).times(torch.tensor(0.5))
        found = augmented(held, t)["high"].value
        times = {"low": torch.tensor(s), "high": torch.tensor(0.5)}
        torch.testing.assert_close(found, second(batch, times)["high"].value)
    assert counted.calls == 2


def test_at_level_zero_it_is_a_given_leaf():
    """Where sigma(0) is 0, bit for bit; on classes too."""
    process = Product({"word": Categorical(Flow(), uniform(3)), "x": Gaussian(Linear())})
    data = Batch.of({"word": torch.tensor([0, 1, 2]), "x": torch.tensor([-1.0, 0.5, 2.0])})
    denoiser = ExactDenoiser(process, data)
    augmented = Augmented(denoiser, {"word": 0.0})
    batch = augmented.augment(data, Generator(0))
    assert torch.equal(batch["word"], data["word"])
    assert batch.given["word"].all()
    drawn = [DDPM(d, UniformTime(6)).sample(batch, Generator(1)) for d in (augmented, denoiser)]
    assert torch.equal(drawn[0]["x"], drawn[1]["x"])
    assert sort_records(drawn[0], data).tolist() == [0, 1, 2]


def test_noise_of_classes_is_that_of_the_level():
    process = Product({"word": Categorical(Flow(), uniform(3)), "x": Gaussian(Linear())})
    many = Batch.of({"word": torch.zeros(5000, dtype=torch.long), "x": torch.zeros(5000)})
    augmented = Augmented(ExactDenoiser(process, many.select([0])), {"word": 0.6})
    share = float((augmented.augment(many, Generator(0))["word"] > 0).double().mean())
    assert abs(share - 0.4) < 4 * math.sqrt(0.24 / 5000)


def test_noise_of_a_centred_leaf_that_is_given_already_has_no_centre():
    process = Product({"x": Gaussian(Linear(), event=(2,), space=ZeroCentre())})
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -2.0]])
    batch = Batch({"x": x}, {"x": Layout.ragged([3])})
    augmented = Augmented(ExactDenoiser(process, batch), {"x": 0.4})
    free = augmented.augment(batch, Generator(0))
    held = augmented.augment(
        batch.with_given({"x": torch.ones(3, dtype=torch.bool)}), Generator(0)
    )
    assert (free["x"] - x).abs().max() > 0.1
    torch.testing.assert_close(held["x"].mean(0), torch.zeros(2), atol=1e-12, rtol=0)
    assert torch.equal(held["x"], free["x"])


def test_what_does_not_fit_is_refused():
    _, second = stages()
    with pytest.raises(ValueError, match=r"levels names \['mid'\], but the leaves are"):
        Augmented(second, {"mid": 0.1})
    for s in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"levels must be times in \[0, 1\]"):
            Augmented(second, {"low": s})
    batch = Batch.of({"low": torch.zeros(2, 1), "high": torch.zeros(2, 2)})
    times = {"low": torch.tensor(0.5), "high": torch.tensor(0.5)}
    with pytest.raises(ValueError, match=r"\['low'\] must be given: use the batch that"):
        Augmented(second, {"low": 0.1})(batch, times)
