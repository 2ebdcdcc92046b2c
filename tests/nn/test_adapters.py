"""Frozen backbones with trained modules beside them."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDIM,
    Batch,
    Cosine,
    Denoising,
    Gaussian,
    Generator,
    Layout,
    NetworkDenoiser,
    Product,
    UniformTime,
)
from structdiff.nn import TokenNetwork
from structdiff.nn.adapters import Adapted, TrainableCopy, zeroed
from structdiff.nn.hooks import reading

WIDTH = 24


class Perceptron(nn.Module):
    """x_0 from x_t and the clock; it refuses conditions, as a model without any does."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.leave = nn.Linear(WIDTH, 2)

    def forward(self, batch, clock, previous):
        if batch.condition:
            msg = f"unknown conditions {sorted(batch.condition)}"
            raise ValueError(msg)
        x = batch["x"]
        c = clock["x"].to(x).expand(len(x)).unsqueeze(1) / 5
        h = torch.tanh(self.enter(torch.cat([x, c], 1)))
        return {"x": self.leave(torch.tanh(self.middle(h)))}


class Height(nn.Module):
    """Features of the control `height`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(1, width)

    def forward(self, batch: Batch) -> Tensor:
        return self.linear(batch.condition["height"].unsqueeze(1))


class Small(nn.Module):
    """An adapter: a linear map of the control, added at some layers."""

    def __init__(self, *layers: str) -> None:
        super().__init__()
        self.height, self.layers = Height(), layers

    def forward(self, batch, clock, previous):
        return {layer: self.height(batch) for layer in self.layers}


def controlled(seed: int = 0) -> tuple[Perceptron, Adapted]:
    torch.manual_seed(seed)
    base = Perceptron()
    joins = {name: nn.Linear(WIDTH, WIDTH) for name in ("enter", "middle")}
    copied = TrainableCopy(base, Height(), entry="enter", joins=joins, controls=["height"])
    return base, Adapted(base, [copied], controls=["height"])


def noisy(samples: int = 7) -> tuple[Batch, dict[str, Tensor]]:
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(1))
    height = torch.linspace(-1, 1, samples)
    return Batch.of(x).with_condition({"height": height}), {"x": torch.tensor(0.4)}


def test_before_training_the_output_is_the_backbones():
    """G05, G05a: bit for bit, though copy and control are at work."""
    base, network = controlled()
    batch, clock = noisy()
    plain = base(Batch.of(batch["x"]), clock, None)["x"]
    assert torch.equal(network(batch, clock, None)["x"], plain)
    (copied,) = network.adapters
    with reading(copied.network, ["middle"]) as seen:
        copied(batch, clock, None)
    with reading(base, ["middle"]) as own:
        base(Batch.of(batch["x"]), clock, None)
    assert (seen["middle"] - own["middle"]).abs().max() > 0.01


def test_the_backbone_is_frozen_and_the_copy_learns():
    """G05a: no gradient in the base, none of its weights among those that are trained."""
    base, network = controlled()
    batch, clock = noisy()
    (copied,) = network.adapters
    learned = {id(w) for w in network.parameters() if w.requires_grad}
    assert learned == {id(w) for w in copied.parameters()}
    assert not learned & {id(w) for w in base.parameters()}
    before = {name: w.clone() for name, w in base.state_dict().items()}
    optimiser = torch.optim.SGD([w for w in network.parameters() if w.requires_grad], 0.1)
    for _ in range(2):  # the first step moves the joins, the second one what is behind them
        optimiser.zero_grad()
        network(batch, clock, None)["x"].square().sum().backward()
        optimiser.step()
    assert all(w.grad is None for w in base.parameters())
    assert all(torch.equal(w, before[name]) for name, w in base.state_dict().items())
    assert (copied.encoder.linear.weight.grad.abs() > 0).any()
    assert (copied.network.enter.weight.grad.abs() > 0).any()


def train(network: nn.Module, process: Product, batch: Batch, steps: int) -> None:
    denoiser, random = NetworkDenoiser(network, process), Generator(0)
    weights = [w for w in network.parameters() if w.requires_grad]
    optimiser = torch.optim.Adam(weights, 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        Denoising()(denoiser, batch, random).total.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()


def test_a_toy_control_is_learned():
    """G05: the controlled coordinate follows the control, with a correlation above 0.9."""
    process = Product({"x": Gaussian(Cosine(), event=(2,))})
    x = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
    base, network = controlled()
    train(base.requires_grad_(True), process, Batch.of(x), 150)
    _, network = (
        Perceptron(),
        Adapted(
            base,
            [
                TrainableCopy(
                    base,
                    Height(),
                    entry="enter",
                    joins={"middle": nn.Linear(WIDTH, WIDTH)},
                    controls=["height"],
                )
            ],
            controls=["height"],
        ),
    )
    asked = torch.randn(300, generator=torch.Generator().manual_seed(5))
    many = Batch.of(torch.zeros(300, 2)).with_condition({"height": asked})

    def correlation() -> Tensor:
        drawn = DDIM(NetworkDenoiser(network, process), UniformTime(10)).sample(many, Generator(3))
        return torch.corrcoef(torch.cat([drawn["x"].T, asked[None]]))[2, :2]

    assert correlation().abs().max() < 3.5 / math.sqrt(300)
    train(network, process, Batch.of(x).with_condition({"height": x[:, 0]}), 250)
    found = correlation()
    assert found[0] > 0.9
    assert abs(found[1]) < 0.3


def test_adapters_sum_whatever_their_order():
    """G05b, G05c: at named layers; weight 0 is the backbone, bit for bit, without a call."""
    torch.manual_seed(0)
    base = Perceptron().double()
    adapters = [Small("enter"), Small("middle", "enter"), Small("middle")]
    batch, clock = noisy()
    batch = batch.with_leaves({"x": batch["x"].double()})
    batch = batch.with_condition({"height": batch.condition["height"].double()})
    plain = base(Batch.of(batch["x"]), clock, None)["x"]
    weights = [0.5, 1.0, -2.0]
    made = [one.double() for one in adapters]
    outputs = [
        Adapted(
            base,
            [made[i] for i in order],
            controls=["height"],
            weights=[weights[i] for i in order],
        )(batch, clock, None)["x"]
        for order in permutations(range(3))
    ]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-12, atol=1e-12)
    assert (outputs[0] - plain).abs().max() > 0.01
    silent = Adapted(base, [nn.Bilinear(1, 1, 1)], controls=["height"], weights=[0.0])
    assert torch.equal(silent(batch, clock, None)["x"], plain)
    h = {name: one.height(batch) for name, one in zip("abc", made, strict=True)}
    inner = base.enter(
        torch.cat([batch["x"], torch.full((7, 1), float(clock["x"]) / 5, dtype=torch.float64)], 1)
    )
    inner = torch.tanh(inner + 0.5 * h["a"] + h["b"])
    expected = base.leave(torch.tanh(base.middle(inner) + h["b"] - 2 * h["c"]))
    torch.testing.assert_close(outputs[0], expected, rtol=1e-10, atol=1e-10)


def test_any_backbone_can_be_controlled():
    """A transformer over classes, whose layers give `(samples, length, width)`."""
    torch.manual_seed(0)
    base = TokenNetwork(5, 4, width=8, layers=2, heads=2)
    joins = {"transformer.layers.0": nn.Linear(8, 8)}
    copied = TrainableCopy(
        base,
        lambda batch: batch.condition["height"][:, None, None],
        entry="transformer.layers.0",
        joins=joins,
        controls=["height"],
    )
    network = Adapted(base, [copied], controls=["height"])
    batch = Batch({"token": torch.tensor([0, 3, 1, 2, 4])}, {"token": Layout.ragged([3, 2])})
    clock = {"token": torch.tensor(0.3)}
    told = batch.with_condition({"height": torch.tensor([0.3, -2.0])})
    plain = base(batch, clock, None)["token"]
    assert torch.equal(network(told, clock, None)["token"], plain)
    nn.init.eye_(copied.joins[0].weight)
    assert (network(told, clock, None)["token"] - plain).abs().max() > 0.1


def test_what_does_not_fit_is_refused():
    base = Perceptron()
    with pytest.raises(ValueError, match="weights must be 1 finite numbers, one an adapter"):
        Adapted(base, [Small("enter")], weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="weights must be 1 finite numbers, one an adapter"):
        Adapted(base, [Small("enter")], weights=[math.nan])
    with pytest.raises(ValueError, match=r"has the layers .* not \['exit'\]"):
        TrainableCopy(base, Height(), entry="exit", joins={"middle": nn.Identity()})
    with pytest.raises(ValueError, match="joins must have at least one layer"):
        TrainableCopy(base, Height(), entry="enter", joins={})
    batch, clock = noisy()
    with pytest.raises(ValueError, match=r"has the layers .* not \['exit'\]"):
        Adapted(base, [Small("exit")], controls=["height"])(batch, clock, None)
    assert all(bool((w == 0).all()) for w in zeroed(nn.Conv1d(2, 3, 1)).parameters())
