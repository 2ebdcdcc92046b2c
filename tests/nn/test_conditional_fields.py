"""Networks that are told another field: enlarged, filled in, segmented."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.layout import Layout
from structdiff.nn.field import FieldNetwork
from structdiff.nn.unet import UNet
from structdiff.objectives import Denoising, MinSNR, Uniform
from structdiff.parameterisations.gaussian import Preconditioned
from structdiff.processes import Categorical, Gaussian, Product, uniform
from structdiff.random import Generator
from structdiff.samplers import DDIM, DDPM
from structdiff.schedules import Cosine, Flow, Linear, UniformTime

LENGTH = 32
DRAWS = 16


def signals(count, random):
    """Smooth periodic signals: a few waves with falling strengths."""
    place = torch.arange(LENGTH) * (2 * torch.pi / LENGTH)
    waves = torch.stack([f(k * place) for k in range(1, 9) for f in (torch.sin, torch.cos)])
    strength = torch.tensor([1 / k for k in range(1, 9) for _ in range(2)])
    return torch.randn(count, 16, generator=random) * strength @ waves / strength.norm()


def small(x):
    """Every fourth number of the mean over four: what is measured."""
    return F.avg_pool1d(x, 4)


def train(denoiser, batch_of, steps, objective, rate=3e-3):
    optimiser = torch.optim.AdamW(denoiser.parameters(), lr=rate)
    random = Generator(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        loss = objective(denoiser, batch_of(), random).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return denoiser.eval()


@pytest.fixture(scope="module")
def enlarger():
    """Told the small signal as further channels, and the noise level by its clock alone."""
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(1)

    def batch_of():
        x = signals(48, source).unsqueeze(1)
        return Batch.of(x).with_condition({"small": small(x)})

    make = partial(UNet, dimensions=1, width=16, multipliers=(1, 2), blocks=1, attention=())
    network = FieldNetwork(make, 1, fields={"small": 1}, features=32)
    gaussian = Gaussian(Cosine(), parameterisation=Preconditioned(1.0), event=(1, LENGTH))
    denoiser = NetworkDenoiser(network, Product({"x": gaussian}))
    return train(denoiser, batch_of, 250, Denoising(MinSNR()))


@pytest.mark.parametrize("schedule", [Linear(), Flow()], ids=["linear", "flow"])
def test_an_enlarged_signal_beats_interpolation_under_schedules_not_trained_with(
    enlarger, schedule
):
    x = signals(64, torch.Generator().manual_seed(2)).unsqueeze(1)
    gaussian = Gaussian(schedule, parameterisation=Preconditioned(1.0), event=(1, LENGTH))
    denoiser = NetworkDenoiser(enlarger.backbone, Product({"x": gaussian}))
    known = small(x).repeat(DRAWS, 1, 1)
    batch = Batch.of(torch.zeros(len(known), 1, LENGTH)).with_condition({"small": known})
    drawn = DDIM(denoiser, UniformTime(10)).sample(batch, Generator(0))["x"]
    mean = drawn.unflatten(0, (DRAWS, -1)).mean(0)
    wide = F.pad(small(x), (1, 1), mode="circular")
    line = F.interpolate(wide, scale_factor=4, mode="linear")[..., 4:-4]
    assert (mean - x).square().mean() < 0.92 * (line - x).square().mean()
    # It draws: what was measured comes back, what was not differs from draw to draw.
    assert (small(drawn) - known).square().mean() < 0.1 * known.square().mean()
    assert (drawn[:64] - drawn[64:128]).square().mean() > 0.02


def test_the_loss_of_a_part_that_is_filled_in_looks_at_that_part_alone():
    torch.manual_seed(0)
    network = FieldNetwork(partial(UNet, width=8, multipliers=(1,), attention=()), 1, known=True)
    gaussian = Gaussian(Cosine(), event=(1, 8, 8))
    denoiser = NetworkDenoiser(network, Product({"x": gaussian}))
    known = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
    known[..., :5] = True
    x = torch.randn(4, 1, 8, 8)
    batch = Batch.of(x).with_given({"x": known})
    outputs = []
    network.register_forward_hook(
        lambda _, __, output: outputs.append(output["x"].requires_grad_()) or output
    )
    total = Denoising(Uniform())(denoiser, batch, Generator(0)).total
    (slope,) = torch.autograd.grad(total, outputs[-1])
    assert slope[known].abs().max() == 0
    assert slope[~known].abs().min() > 0


class Segmenter(nn.Module):
    """Classes of the pixels of an image, one row each, beside the image."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 32, 5, padding=2), nn.SiLU(), nn.Conv2d(32, 2, 1))

    def forward(self, batch, clock, previous):
        image = batch.condition["image"]
        count, _, height, width = image.shape
        seen = F.one_hot(batch["mask"], 2).float().reshape(count, height, width, 2)
        late = torch.sigmoid(clock["mask"].expand(batch.layouts["mask"].rows))
        late = late.reshape(count, 1, height, width).float()
        x = torch.cat([seen.permute(0, 3, 1, 2), image, late], 1)
        return {"mask": self.inner(x).permute(0, 2, 3, 1).reshape(-1, 2)}


def scenes(count, random):
    """Masks of blocks of 4 x 4 pixels, and images of them in noise."""
    mask = (torch.rand(count, 1, 2, 2, generator=random) < 0.5).float()
    mask = F.interpolate(mask, scale_factor=4)
    return mask, mask + 0.7 * torch.randn(mask.shape, generator=random)


def test_a_mask_of_classes_beside_an_image():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    process = Product({"mask": Categorical(Flow(), uniform(2))})
    denoiser = NetworkDenoiser(Segmenter(), process)

    def batch_of(count=64):
        mask, image = scenes(count, random)
        rows = mask.flatten().long()
        layout = Layout.ragged([64] * count)
        return Batch({"mask": rows}, {"mask": layout}, {"image": image})

    train(denoiser, batch_of, 150, Denoising(Uniform()), rate=1e-2)
    batch = batch_of(100)
    blank = batch.with_leaves({"mask": torch.zeros_like(batch["mask"])})
    drawn = DDPM(denoiser, UniformTime(10)).sample(blank, Generator(0))["mask"]
    right = (drawn == batch["mask"]).double().mean()
    # A pixel alone says its class with probability 0.76: the mask is drawn from its surroundings.
    alone = ((batch.condition["image"].flatten() > 0.5) == batch["mask"].bool()).double().mean()
    assert alone < 0.8
    assert right > 0.9
