"""The U-Net as a function of a field, of one, two and three axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff.nn.group_norm import AdaptiveGroupNorm
from structdiff.nn.hooks import editing
from structdiff.nn.resampling import SMOOTH
from structdiff.nn.unet import UNet

KINDS: list[dict[str, Any]] = [
    {},
    {"resampling": "convolution"},
    {"resampling": "block", "taps": SMOOTH, "rescale": True, "progressive": True},
    {"attention": (0, 1)},
    {"layers": 1, "heads": 1},
]
PLACES = [(8,), (13,), (1,), (8, 12), (7, 9), (2, 4, 6), (3, 5, 2)]


def made(seed: int = 0, **changes: Any) -> UNet:
    """A small network whose zero layers have been given weights."""
    torch.manual_seed(seed)
    network = UNet(2, 3, **{"width": 8, "multipliers": (1, 2, 2), "blocks": 1} | changes)
    return woken(network)


def woken(network: UNet) -> UNet:
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", PLACES)
def test_places_are_kept_and_the_output_is_zero_at_first(kind, places):
    """Even and odd ones, on lines, planes and in space; exactly zero."""
    torch.manual_seed(0)
    network = UNet(2, 3, width=8, blocks=1, dimensions=len(places), **kind)
    x = noise(2, 2, *places)
    assert torch.equal(network(x), torch.zeros(2, 3, *places))
    assert (woken(network)(x).flatten(1).abs().amax(1) > 0.01).all()


def lift(network: UNet, flat: UNet) -> None:
    """Weights of a network over lines for one over planes or spaces that are lines."""
    weights = flat.state_dict()
    for name, weight in network.state_dict().items():
        given = weights[name]
        extra = weight.ndim - given.ndim
        if extra:
            weight.zero_()
            weight[
                (slice(None), slice(None), *[size // 2 for size in weight.shape[2 : 2 + extra]])
            ] = given
        else:
            weight.copy_(given)


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_plane_of_one_row_is_a_line(kind, dimensions):
    """The same function of one, two and three axes, where kernels look along the last one.

    Not with a transformer, which tells axes apart.
    """
    flat = made(dimensions=1, **kind).double()
    network = made(dimensions=dimensions, **kind).double()
    with torch.no_grad():
        lift(network, flat)
    x = noise(2, 2, 11).double()
    rows = x.reshape(2, 2, *(1,) * (dimensions - 1), 11)
    torch.testing.assert_close(network(rows).reshape(2, 3, 11), flat(x), rtol=1e-9, atol=1e-9)


def test_what_goes_across_is_seen_on_the_way_up():
    """With the way through the coarser level cut, a change at the fine level comes through."""
    network = made(multipliers=(1, 1))
    cut = {"finer.0": torch.zeros_like}
    with editing(network, cut):
        one, other = network(noise(1, 2, 6, 6)), network(noise(1, 2, 6, 6, seed=1))
    assert (one - other).abs().max() > 0.01
    with editing(network, cut | {"enter": torch.zeros_like}):
        one, other = network(noise(1, 2, 6, 6)), network(noise(1, 2, 6, 6, seed=1))
    assert torch.equal(one, other)


def test_every_level_sees_the_input_where_it_is_progressive():
    network = made(progressive=True)
    with editing(network, {"enter": torch.zeros_like}):
        one, other = network(noise(1, 2, 6, 6)), network(noise(1, 2, 6, 6, seed=1))
    assert (one - other).abs().max() > 0.01


def test_levels_have_their_own_channels_blocks_heads_and_attention():
    network = made(
        width=4, multipliers=(1, 2, 4), blocks=(1, 2, 3), heads=(1, 2, 4), attention=(1,)
    )
    assert [len(stages) for stages in network.down] == [1, 2, 3]
    assert [len(stages) for stages in network.up] == [4, 3, 2]
    where = [[stage.attend is not None for stage in stages] for stages in network.down]
    assert where == [[False], [True] * 2, [False] * 3]
    assert network.before.attend is not None
    assert network.down[1][0].attend.heads == 2
    assert network.down[2][0].block.first.out_channels == 16


def test_places_see_each_other_through_attention_alone_where_convolutions_do_not_reach():
    """A line of 64 places and two levels: an end is out of reach of 6 + 2 x 8 places."""
    x = noise(1, 2, 64)
    moved = x.clone()
    moved[..., 0] += 1
    fixed = {"multipliers": (1, 1), "dimensions": 1, "blocks": 1}

    def reach(network: UNet) -> float:
        # Group norms see all places too: without them here.
        for part in network.modules():
            if isinstance(part, AdaptiveGroupNorm):
                part.forward = lambda h, condition=None: torch.tanh(h)
        return (network(moved) - network(x))[..., 40:].abs().max().item()

    plain = made(**fixed)
    for part in (*plain.down[-1], *plain.up[0], plain.before):
        part.attend = None
    assert reach(plain) == 0
    assert reach(made(**fixed)) > 1e-5
    assert reach(made(**fixed, layers=1, attention=())) > 1e-5


def test_eight_images_are_learned_by_heart():
    """From noise of which each has its own, to a loss below 0.01."""
    torch.manual_seed(0)
    places = torch.linspace(-1, 1, 8)
    images = torch.stack(
        [torch.sin(k * places)[:, None] * torch.cos((9 - k) * places) for k in range(8)]
    )
    images, x = images.unsqueeze(1), noise(8, 1, 8, 8)
    network = UNet(1, 1, width=16, multipliers=(1, 2), blocks=1)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    assert (network(x) - images).square().mean() > 0.1
    for _ in range(60):
        optimiser.zero_grad()
        loss = (network(x) - images).square().mean()
        loss.backward()
        optimiser.step()
    assert loss < 1e-2


def test_mel_spectrograms_of_odd_length():
    """`(samples, channels, length)` with a transformer in the middle: the last frame counts."""
    network = made(dimensions=1, layers=2, attention=())
    x = noise(2, 2, 37).requires_grad_()
    output = network(x)
    assert output.shape == (2, 3, 37)
    (slope,) = torch.autograd.grad(output[..., -1].sum(), x)
    assert (slope[..., -1].abs() > 1e-3).all()
    assert (slope[..., 0].abs() > 1e-7).all()


def test_dropout_is_for_training_alone():
    network = made(dropout=0.5)
    x = noise(1, 2, 6, 6)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": 0}, "inputs must be at least 1, got 0"),
        ({"outputs": -1}, "outputs must be at least 1, got -1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"multipliers": ()}, "multipliers must be at least 1, got 0"),
        ({"blocks": 0}, "blocks must be at least 1, got 0"),
        ({"blocks": (1, 2)}, "blocks must be one number or 3"),
        ({"attention": (3,)}, r"attention must name levels from -3 to 2, got \[3\]"),
        ({"heads": 3}, "heads must divide the 16 channels of level 2, got 3"),
        ({"dimensions": 4}, "dimensions must be 1, 2 or 3, got 4"),
        ({"resampling": "none"}, "resampling must be filter, convolution or block, got 'none'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"taps": (1.0,)}, "taps must be symmetric"),
        ({"layers": 1, "heads": 16}, "heads must divide width 16 into even parts"),
        ({"layers": -1}, "layers must be at least 0, got -1"),
    ],
)
def test_networks_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"inputs": 2, "outputs": 2, "width": 8} | changes)


def test_calls_that_do_not_fit_are_refused():
    network = UNet(2, 2, condition=4, width=8)
    with pytest.raises(ValueError, match=r"x must be \(samples, 2, \*places\) with 2 axes"):
        network(noise(1, 3, 4, 4), noise(1, 4))
    with pytest.raises(ValueError, match=r"x must be .* got \(1, 2, 4\)"):
        network(noise(1, 2, 4), noise(1, 4))
    with pytest.raises(ValueError, match=r"condition must be shape \(1, 4\), got None"):
        network(noise(1, 2, 4, 4))
    with pytest.raises(ValueError, match=r"context must be None, got \(1, 3, 5\)"):
        network(noise(1, 2, 4, 4), noise(1, 4), noise(1, 3, 5))
