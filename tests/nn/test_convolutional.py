"""Convolutional towers: what of a field each place of the small one sees, and back."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from structdiff.nn.convolutional import ConvolutionalDecoder, ConvolutionalEncoder

SHAPES = [(1, (24,), (2, 3)), (1, (64,), (4, 4)), (2, (8, 12), (2, 2)), (3, (4, 4, 4), (2, 1))]


def towers(axes, factors, blocks=1):
    torch.manual_seed(0)
    shape = {"widths": (8,) * len(factors), "factors": factors, "blocks": blocks}
    encoder = ConvolutionalEncoder(axes, 2, 5, **shape).double()
    return encoder, ConvolutionalDecoder(axes, 5, 2, **shape).double()


@pytest.mark.parametrize(("axes", "places", "factors"), SHAPES)
def test_the_decoder_undoes_what_the_encoder_does_to_places(axes, places, factors):
    encoder, decoder = towers(axes, factors)
    x = torch.randn(2, 2, *places, dtype=torch.float64)
    z = encoder(x)
    whole = 1
    for factor in factors:
        whole *= factor
    assert z.shape == (2, 5, *(place // whole for place in places))
    assert decoder(z).shape == x.shape


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_block_is_the_identity_at_first(axes):
    """And has a gradient to leave it by."""
    encoder, _ = towers(axes, (2, 2))
    blocks = [layer for layer in encoder.layers if hasattr(layer, "inside")]
    assert len(blocks) == 2
    h = torch.randn(2, 8, *(4,) * axes, dtype=torch.float64)
    for block in blocks:
        moved = block(h)
        assert torch.equal(moved, h)
        moved.square().sum().backward()
        assert block.inside[-1].weight.grad.abs().max() > 0.1


def test_samples_do_not_see_each_other():
    encoder, decoder = towers(2, (2, 2))
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    together = decoder(encoder(x))
    alone = torch.cat([decoder(encoder(part)) for part in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [1, 2])
def test_a_tower_over_a_constant_axis_is_a_tower_over_the_others(axes):
    """A field that repeats along its last axis is decoded alike along it, far from its ends."""
    _, decoder = towers(axes, (2,))
    z = torch.randn(1, 5, *(6,) * (axes - 1), 1, dtype=torch.float64)
    field = decoder(z.expand(*z.shape[:-1], 24))
    inner = field[..., 8:-8]
    torch.testing.assert_close(inner, inner[..., :1].expand_as(inner), rtol=1e-12, atol=1e-12)


def test_new_places_are_alike_at_first():
    """The last level before training: a convolution, each of whose places is repeated."""
    _, decoder = towers(2, (2, 2))
    field = decoder(torch.randn(3, 5, 3, 3, dtype=torch.float64))
    coarse = field[:, :, ::2, ::2]
    assert coarse.std() > 0.01
    torch.testing.assert_close(field, F.interpolate(coarse, scale_factor=2.0))


def test_a_factor_of_the_last_level_puts_each_channel_in_its_place():
    """Against `pixel_shuffle`, after weights have been moved apart."""
    _, decoder = towers(2, (3,))
    spread = decoder.layers[-1]
    torch.nn.init.normal_(spread.inside.weight)
    h = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    assert torch.equal(spread(h), F.pixel_shuffle(spread.inside(h), 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": 4}, "axes must be 1"),
        ({"inputs": 0}, "inputs and outputs must be at least 1"),
        ({"blocks": -1}, "blocks at least 0, got 1, 2 and -1"),
        ({"widths": (8,)}, "as many of the one as of the other"),
        ({"widths": (), "factors": ()}, "at least one, got"),
        ({"factors": (2, 0)}, "must be positive"),
    ],
)
@pytest.mark.parametrize("tower", [ConvolutionalEncoder, ConvolutionalDecoder])
def test_what_makes_no_tower_is_refused(tower, settings, message):
    chosen = {"axes": 2, "inputs": 1, "outputs": 2, "widths": (8, 8), **settings}
    with pytest.raises(ValueError, match=message):
        tower(**chosen)
