"""Methods of images, spectrograms and several modalities, all made of parts that there are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from structdiff import (
    Batch,
    Cosine,
    Denoiser,
    Gaussian,
    Generator,
    Heun,
    Linear,
    Product,
    fit,
)
from structdiff.codecs.blocks import Blocks
from structdiff.codecs.standardise import Standardise
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.images.recipe import ImagesConfig
from structdiff.nn.encoders import EncodedConditions, SetEncoder
from structdiff.nn.field import FieldNetwork
from structdiff.nn.patches import PatchTransformer
from structdiff.nn.unet import UNet
from structdiff.nn.unet_presets import ddpm_plus_plus
from structdiff.objectives import Denoising, Uniform
from structdiff.parameterisations import Data
from structdiff.processes import Estimate
from structdiff.runs.fields.process import parameterisation_of, schedule_of
from structdiff.schedules import UniformTime
from tests.nn.networks import awake, random


def test_the_recipe_of_images_preserves_the_variance_as_ddpm_plus_plus_needs():
    """alpha^2 + sigma^2 = 1 by default, from alpha = 1 to 0, and the preset runs under it."""
    noise = ImagesConfig().noise
    schedule = schedule_of(noise)
    level = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    ones = torch.ones(101, dtype=torch.float64)
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, ones, rtol=0, atol=1e-12)
    assert level.alpha[0] > 1 - 1e-4
    assert level.alpha[-1] < 1e-2
    torch.manual_seed(0)
    network = awake(FieldNetwork(ddpm_plus_plus(8, 1), 1, features=8)).eval()
    leaf = Gaussian(schedule, parameterisation_of(noise), event=(1, 8, 8))
    x, t = random(2, 1, 8, 8), torch.tensor(0.4321, dtype=torch.float64)
    found = NetworkDenoiser(network, Product({"x": leaf}))(Batch.of(x), {"x": t})["x"].value
    level = schedule(t)
    output = network(Batch.of(x), {"x": level.clock}, None)["x"]
    assert output.abs().max() > 0.01
    torch.testing.assert_close(found, level.alpha * x - level.sigma * output)


class FewShot(nn.Module):
    """A U-Net told a set of example images, rows of NaN where there are fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.examples = EncodedConditions({"examples": SetEncoder(36, 8)}, 8)
        self.network = UNet(1, 1, condition=8, width=8, multipliers=(1,), blocks=1, attention=())

    def forward(self, batch, clock, previous):
        return {"x": self.network(batch["x"], self.examples(batch))}


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_a_set_of_one_to_five_examples_is_a_condition_without_order(k):
    """Alone or beside places for more; each example counts."""
    torch.manual_seed(0)
    network = awake(FewShot())
    x, examples = random(2, 1, 6, 6), random(2, k, 36)

    def told(examples):
        return network(Batch.of(x).with_condition({"examples": examples}), {}, None)["x"]

    with torch.no_grad():
        plain = told(examples)
        order = torch.randperm(k, generator=torch.Generator().manual_seed(1))
        filled = torch.cat([examples, torch.full((2, 5 - k, 36), math.nan)], 1)
        for same in (examples[:, order], examples.flip(1), filled, filled.flip(1)):
            torch.testing.assert_close(told(same), plain, rtol=0, atol=1e-12)
        for one in range(k):
            other = examples.clone()
            other[:, one] += 1
            assert (told(other) - plain).flatten(1).abs().amax(1).min() > 1e-4


class Seen(nn.Module):
    """A transformer over the patches of a spectrogram, told an image by one token of it."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 6))
        self.network = PatchTransformer(1, 1, condition=3, context=6, width=16, layers=2, heads=2)

    def forward(self, mel, features, image, mask):
        return self.network(mel, features, self.look(image).unsqueeze(1), mask)


@pytest.mark.parametrize("frames", [1, 7, 37])
def test_spectrograms_of_odd_length_are_told_an_image_by_a_token(frames):
    """All frames follow it; where there is none, what stands in its place does not matter."""
    torch.manual_seed(0)
    network = awake(Seen())
    mel, features, image = random(3, 1, 9, frames), random(3, 3), random(3, 3, 6, 6)
    there = torch.tensor([[True], [True], [False]])
    plain = network(mel, features, image, there)
    assert plain.shape == mel.shape
    other = image.clone()
    other[1:] = 2 * random(2, 3, 6, 6, seed=1)
    change = (network(mel, features, other, there) - plain).abs().amax((1, 2))
    assert change[0].max() == 0
    assert change[2].max() == 0
    assert change[1].min() > 1e-6  # each frame
    torch.testing.assert_close(network.network(mel, features)[2:], plain[2:], rtol=0, atol=1e-12)


COSINES = Blocks((3, 8, 8), size=4)


def compressed(x):
    """As JPEG does: cosines of blocks in whole steps."""
    return COSINES.decode(COSINES.encode(x).div(2).round().mul(2))


def cropped(x):
    """The middle, and where it is."""
    known = torch.zeros_like(x[:, :1])
    known[..., 1:7, 1:7] = 1
    return torch.cat([known * x, known], 1)


CORRUPT = {
    "grey": lambda x: x.mean(1, keepdim=True),
    "cropped": cropped,
    "compressed": compressed,
    "small": lambda x: F.avg_pool2d(x, 2),
}


def small(inputs, outputs, *, condition=0, context=0):
    """Two convolutions that do not look at the clock."""
    layers = nn.Conv2d(inputs, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, outputs, 3, padding=1)
    network = nn.Sequential(*layers)
    network.forward = lambda x, *_: layers[2](layers[1](layers[0](x)))
    return network


@pytest.mark.parametrize("name", CORRUPT)
def test_one_trainer_takes_pairs_of_any_kind(name):
    """At high noise the estimate is nearer to the clean image by its own corrupt one than by
    another's, and nearer than the mean."""
    torch.manual_seed(0)
    rough = torch.randn(560, 3, 10, 10) + torch.randn(560, 1, 10, 10)
    clean = F.avg_pool2d(rough, 3, 1)
    clean = clean / clean.std()
    seen = CORRUPT[name](clean)
    process = Product({"x": Gaussian(Cosine(), Data(), event=(3, 8, 8))})
    network = FieldNetwork(small, 3, fields={"seen": seen.shape[1]}, features=8)
    denoiser = fit(
        {"x": clean[:500]},
        process,
        network,
        steps=70,
        batch_size=32,
        learning_rate=1e-2,
        objective=Denoising(Uniform()),
        condition={"seen": seen[:500]},
        condition_dropout=0.0,
    )
    noisy = 0.1 * clean[500:] + math.sqrt(0.99) * torch.randn(60, 3, 8, 8)
    t = {"x": torch.acos(torch.tensor(0.1)) * 2 / math.pi}
    error = {}
    with torch.no_grad():
        for shown, value in (("own", seen[500:]), ("other", seen[500:].roll(1, 0))):
            batch = Batch.of(noisy).with_condition({"seen": value})
            error[shown] = (denoiser(batch, t)["x"].value - clean[500:]).square().mean()
    assert error["own"] < 0.8 * clean[500:].var()
    assert error["own"] < 0.8 * error["other"]


RHO = 0.8


class Modalities(Denoiser):
    """The exact denoiser of two latents of correlation RHO, each with a time of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.process = Product({"image": Gaussian(Cosine()), "sound": Gaussian(Linear())})

    def forward(self, batch, t, previous=None):
        clock = self.process.bind(batch).clock(t)
        names = ("image", "sound")
        alpha = {n: torch.sigmoid(2 * clock[n]).sqrt() for n in names}
        noise = {n: torch.sigmoid(-2 * clock[n]) for n in names}
        found = {}
        for one, other in (names, names[::-1]):
            a, b = alpha[one], alpha[other]
            v, w, both = a**2 + noise[one], b**2 + noise[other], a * b * RHO
            left = v * w - both**2
            gain = (a * w - RHO * b * both) / left, (RHO * b * v - a * both) / left
            found[one] = Estimate(gain[0] * batch[one] + gain[1] * batch[other])
        return found


@pytest.mark.parametrize(("known", "asked"), [("image", "sound"), ("sound", "image")])
def test_any_modality_is_drawn_given_any_other_in_latents_of_its_own_encoder(known, asked):
    """One model, a time for each latent: what is given is at its data. In units of the data, the
    mean of draws is that of p(asked | known), and so is their variance."""
    source, count = torch.Generator().manual_seed(0), 4000
    z = torch.randn(100_000, 2, generator=source, dtype=torch.float64)
    z[:, 1] = RHO * z[:, 0] + math.sqrt(1 - RHO**2) * z[:, 1]
    mean, std = {"image": 5.0, "sound": -2.0}, {"image": 0.5, "sound": 2.0}
    codecs = {}
    for name, latent in zip(mean, z.T, strict=True):
        codecs[name] = Standardise((1,)).double()
        codecs[name].fit((mean[name] + std[name] * latent).unsqueeze(1))
    for value in (-1.5, 2.0):
        data = torch.full((count, 1), mean[known] + std[known] * value, dtype=torch.float64)
        blank = {name: torch.zeros(count, dtype=torch.float64) for name in mean}
        batch = Batch.of(blank | {known: codecs[known].encode(data)[:, 0]})
        batch = batch.with_given({known: torch.ones(count, dtype=torch.bool)})
        drawn = Heun(Modalities(), UniformTime(30)).sample(batch, Generator(1))
        torch.testing.assert_close(codecs[known].decode(drawn[known].unsqueeze(1)), data)
        found = (codecs[asked].decode(drawn[asked].unsqueeze(1)) - mean[asked]) / std[asked]
        assert abs(float(found.mean()) - RHO * value) < 0.05
        assert float(found.var()) == pytest.approx(1 - RHO**2, rel=0.1)
