"""Labels on grids, and masks of images: the same chain, whatever the shape of a row."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Flow,
    Generator,
    Layout,
    NetworkDenoiser,
    Product,
    UniformTime,
    absorbing,
    fit,
    sample,
    uniform,
)
from structdiff.objectives import ContinuousBound


class Volume(nn.Module):
    """A 3-D convolution over one-hot labels `(rows, depth, height, width)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(4, 3, 3, padding=1)

    def forward(self, x_t: Tensor, clock: Tensor) -> Tensor:
        one_hot = nn.functional.one_hot(x_t, 4).movedim(-1, 1).float()
        return self.layer(one_hot).movedim(1, -1)


def test_multinomial_diffusion_of_labels_in_a_volume() -> None:
    """D18: a grid of labels is an event; its step is that of the labels one by one."""
    shape = (2, 3, 4)
    process = Categorical(Flow(), uniform(3), event=shape)
    x_0 = torch.randint(3, (5, *shape), generator=torch.Generator().manual_seed(0))
    whole, flat = process.bind(Batch.of(x_0)), Categorical(Flow(), uniform(3))
    flat = flat.bind(Batch.of(x_0.flatten()))
    logits = torch.randn(5, *shape, 3, generator=torch.Generator().manual_seed(1)).double()
    t = torch.tensor(0.6, dtype=torch.float64)
    (step,) = whole.plan(torch.tensor([0.6, 0.3], dtype=torch.float64), 1.0)
    grid = whole.log_kernel(whole.decode(logits, x_0, t), x_0, step)
    labels = flat.log_kernel(
        flat.decode(logits.flatten(0, 3), x_0.flatten(), t), x_0.flatten(), step
    )
    torch.testing.assert_close(grid.flatten(0, 3), labels, rtol=0, atol=1e-12)


def test_a_network_on_a_volume_trains_and_samples() -> None:
    """Planes of one label: what is drawn has them too, most of the time."""
    labels = torch.arange(3).reshape(1, 3, 1, 1).expand(200, 3, 4, 4).contiguous()
    process = Categorical(Flow(), absorbing(3), event=(3, 4, 4))
    torch.manual_seed(0)
    denoiser = fit(
        labels,
        process,
        Volume(),
        steps=200,
        batch_size=64,
        learning_rate=2e-2,
        objective=ContinuousBound(),
    )
    drawn = sample(denoiser, 20, steps=24)
    assert drawn.shape == (20, 3, 4, 4)
    # Padding tells the first and the last plane apart: the network can know them.
    assert (drawn == labels[:20]).float().mean() > 0.9


class Segmenter(nn.Module):
    """Logits of a mask from the noisy mask and the image that is its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 2, 3, padding=1)
        )

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: object
    ) -> dict[str, Tensor]:
        noisy = nn.functional.one_hot(batch["mask"], 3).movedim(-1, 1).float()
        image = batch.condition["image"].unsqueeze(1)
        return {"mask": self.layers(torch.cat([noisy, image], 1)).movedim(1, -1)}


def test_a_mask_is_drawn_given_its_image() -> None:
    """I10: segmentation is a chain on the labels, with the image as a condition."""
    random = torch.Generator().manual_seed(0)
    image = torch.randn(300, 6, 6, generator=random)
    process = Product({"mask": Categorical(Flow(), absorbing(2), event=(6, 6))})
    torch.manual_seed(0)
    denoiser = fit(
        {"mask": (image > 0).long()},
        process,
        Segmenter(),
        steps=200,
        batch_size=64,
        learning_rate=1e-2,
        objective=ContinuousBound(),
        condition={"image": image},
        condition_dropout=0.0,
    )
    new = torch.randn(50, 6, 6, generator=random)
    drawn = sample(denoiser, 50, steps=10, condition={"image": new})["mask"]
    agree = (drawn == (new > 0)).float().mean()
    assert agree > 0.9
    other = sample(denoiser, 50, steps=10, condition={"image": new.flip(0)})["mask"]
    assert (other == (new > 0)).float().mean() < 0.65


@pytest.mark.parametrize("length", [4, 64])
def test_the_number_of_calls_does_not_grow_with_the_length(length: int) -> None:
    """D21: all tokens in parallel."""
    seen: list[int] = []

    class Flat(nn.Module):
        def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
            seen.append(len(batch["x"]))
            return {"x": torch.zeros(len(batch["x"]), 5)}

    layout = Layout.ragged([length])
    blank = Batch({"x": torch.zeros(length, dtype=torch.long)}, {"x": layout})
    denoiser = NetworkDenoiser(Flat(), Product({"x": Categorical(Flow(), absorbing(5))}))
    DDPM(denoiser, UniformTime(7)).sample(blank, Generator(0))
    assert seen == [length] * 7
