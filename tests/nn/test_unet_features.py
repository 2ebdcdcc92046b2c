"""Layers of a U-Net read, edited and added to from outside."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.nn.adapters import Adapted, TrainableCopy
from structdiff.nn.field import FieldNetwork
from structdiff.nn.hooks import editing, reading
from structdiff.nn.unet import UNet
from structdiff.objectives import Denoising
from structdiff.processes import Gaussian, Product
from structdiff.random import Generator
from structdiff.schedules import Cosine

CLOCK = {"x": torch.tensor(0.4)}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def backbone(width: int = 8) -> FieldNetwork:
    torch.manual_seed(0)
    make = partial(UNet, width=width, multipliers=(1, 2), blocks=1, attention=())
    network = FieldNetwork(make, 1, features=16)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return network


def noisy() -> Batch:
    return Batch.of(noise(2, 1, 8, 8)).with_condition({"hint": noise(2, 1, 8, 8, seed=1)})


def plain(network: nn.Module) -> Tensor:
    return network(Batch.of(noisy()["x"]), CLOCK, None)["x"]


def test_any_layer_is_read_and_a_zero_edit_is_the_identity():
    """Bit for bit; an edit of the bottleneck changes the output of that call alone."""
    network, batch = backbone(), Batch.of(noisy()["x"])
    expected = plain(network)
    layers = [
        name
        for name, part in network.network.named_modules()
        if name and not isinstance(part, nn.ModuleList)
    ]
    layers = [f"network.{name}" for name in layers]
    with reading(network, layers) as seen:
        network(batch, CLOCK, None)
    assert set(seen) == set(layers)
    for name in ("network.enter", "network.down.1.0", "network.after", "network.up.1.1"):
        with editing(network, {name: lambda h: h + torch.zeros_like(h)}):
            assert torch.equal(plain(network), expected)
        with editing(network, {name: torch.square}):
            assert (plain(network) - expected).abs().max() > 1e-4
    assert torch.equal(plain(network), expected)


def textures(count: int, size: int, seed: int) -> Tensor:
    rough = F.pad(noise(count, 1, size, size, seed=seed), (1, 1, 1, 1), mode="circular")
    smooth = F.avg_pool2d(rough, 3, 1)
    return smooth / smooth.std((1, 2, 3), keepdim=True)


def test_features_find_the_same_place_in_a_shifted_image():
    """Nearest neighbours of features of a denoiser, at nine places in ten and more.

    The mean over eight noises, as in the paper; against images that have nothing in common.
    """
    process = Product({"x": Gaussian(Cosine(), event=(1, 16, 16))})
    network = backbone(16)
    denoiser, random = NetworkDenoiser(network, process), Generator(0)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for step in range(20):
        optimiser.zero_grad()
        Denoising()(denoiser, Batch.of(textures(8, 16, 100 + step)), random).total.backward()
        optimiser.step()
    wide, down, right = textures(4, 24, 0), 4, 2
    left_images = wide[..., :16, :16]
    right_images = wide[..., down : down + 16, right : right + 16]
    layer, t = "network.up.0.0", torch.tensor(0.1)
    alpha, sigma = Cosine().alpha(t), Cosine().sigma(t)

    def features(images: Tensor, seed: int) -> Tensor:
        many = alpha * images.repeat(8, 1, 1, 1)
        many = many + sigma * noise(*many.shape, seed=seed)
        with torch.no_grad(), reading(network, [layer]) as seen:
            denoiser(Batch.of(many), {"x": t})
        return F.normalize(seen[layer].unflatten(0, (8, len(images))).mean(0), dim=1)

    def share_found(one: Tensor, other: Tensor) -> float:
        likeness = torch.einsum("nchw,ncp->nhwp", one, other.flatten(2))
        y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        goal = (y - down // 2) * 8 + x - right // 2
        inside = (y > down // 2) & (x > right // 2) & (y < 7) & (x < 7)
        return (likeness.argmax(-1) == goal)[:, inside].float().mean().item()

    first, second = features(left_images, 1), features(right_images, 2)
    assert share_found(first, second) >= 0.9
    assert share_found(first, second.roll(1, 0)) < 0.2


class Hint(nn.Module):
    """Features of a hint for some layers, at the places each of them has."""

    def __init__(self, *layers: str) -> None:
        super().__init__()
        self.layers = layers
        widths = {"network.down.0.0": 8, "network.down.1.0": 16, "network.before": 16}
        self.convolve = nn.ModuleList(nn.Conv2d(1, widths[layer], 3, 1, 1) for layer in layers)

    def forward(self, batch: Batch, clock: object, previous: object) -> dict[str, Tensor]:
        hint = batch.condition["hint"]
        fine = {"network.down.0.0"}
        parts = zip(self.layers, self.convolve, strict=True)
        return {
            layer: convolve(hint if layer in fine else F.avg_pool2d(hint, 2))
            for layer, convolve in parts
        }


def controlled() -> tuple[FieldNetwork, Adapted]:
    base = backbone()
    convolve = nn.Conv2d(1, 8, 3, 1, 1)
    joins = {"network.down.0.0": nn.Conv2d(8, 8, 1), "network.after": nn.Conv2d(16, 16, 1)}
    copied = TrainableCopy(
        base,
        lambda batch: convolve(batch.condition["hint"]),
        entry="network.enter",
        joins=joins,
        controls=["hint"],
    )
    return base, Adapted(base, [copied], controls=["hint"])


def test_a_copy_that_sees_a_control_changes_nothing_at_first():
    """Bit for bit; the base gets no gradient, the joins do, and then the output follows."""
    base, network = controlled()
    assert torch.equal(network(noisy(), CLOCK, None)["x"], plain(base))
    network(noisy(), CLOCK, None)["x"].square().sum().backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in base.parameters())
    (copied,) = network.adapters
    assert all(join.weight.grad.abs().max() > 0 for join in copied.joins)
    with torch.no_grad():
        for join in copied.joins:
            join.weight -= 0.1 * join.weight.grad.sign()
    assert (network(noisy(), CLOCK, None)["x"] - plain(base)).abs().max() > 1e-3
    assert torch.equal(plain(backbone()), plain(base))


def test_adapters_at_several_resolutions_sum_in_any_order():
    """And none of them, or one of weight zero, is the base, bit for bit."""
    torch.manual_seed(1)
    base = backbone().double()
    hints = [
        Hint("network.down.0.0").double(),
        Hint("network.down.1.0", "network.down.0.0").double(),
        Hint("network.before").double(),
    ]
    batch = noisy()
    batch = batch.with_leaves({"x": batch["x"].double()})
    batch = batch.with_condition({"hint": batch.condition["hint"].double()})
    outputs = [
        Adapted(base, [hints[k] for k in order], controls=["hint"])(batch, CLOCK, None)["x"]
        for order in permutations(range(3))
    ]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-10, atol=1e-10)
    own = base(Batch.of(batch["x"]), CLOCK, None)["x"]
    assert (outputs[0] - own).abs().max() > 1e-3
    silent = Adapted(base, hints, controls=["hint"], weights=[0.0] * 3)
    assert torch.equal(silent(batch, CLOCK, None)["x"], own)


def test_layers_that_are_none_are_refused():
    with (
        pytest.raises(ValueError, match=r"not \['network.bottom'\]"),
        reading(backbone(), ["network.bottom"]),
    ):
        pass
