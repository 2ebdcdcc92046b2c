"""Patches without loss, and the transformer over them: DiT, U-ViT, the plain one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.nn.field import FieldNetwork
from structdiff.nn.patches import PatchTransformer, from_patches, to_patches
from tests.nn.networks import awake, random

KINDS = {
    "gates": {},
    "skips": {"long_skips": True, "adaptive": False},
    "plain": {"adaptive": False},
    "both": {"long_skips": True, "layers": 5, "decoder": 1},
}


def make(kind="gates", *, asleep=False, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    chosen = {"width": 16, "layers": 3, "heads": 2, "condition": 6} | KINDS[kind] | settings
    network = PatchTransformer(3, 2, **chosen)
    return network.to(dtype) if asleep else awake(network, dtype=dtype)


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("places", [(5,), (6, 4), (7, 5), (1, 1), (3, 4, 5)])
def test_patches_are_lossless(places, patch):
    x = random(2, 3, *places)
    patches = to_patches(x, patch)
    assert patches.shape == (2, 3 * patch ** len(places), *(-(-n // patch) for n in places))
    assert from_patches(patches, patch, x.shape[2:]).equal(x)


def test_patches_of_a_plane_are_those_of_torch():
    x = random(2, 3, 6, 4)
    assert to_patches(x, 2).equal(F.pixel_unshuffle(x, 2))
    assert from_patches(F.pixel_unshuffle(x, 2), 2, x.shape[2:]).equal(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [(7,), (5, 6), (1, 1), (2, 3, 5)])
def test_the_output_has_the_places_of_the_input_and_each_sees_all(kind, places):
    network = make(kind, dimensions=len(places), width=24)
    x, condition = random(2, 3, *places).requires_grad_(), random(2, 6)
    out = network(x, condition)
    assert out.shape == (2, 2, *places)
    out[0, 0].flatten()[-1].backward()
    assert (x.grad[0].abs() > 0).all()
    assert not x.grad[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_zero_at_first_and_has_gradients(kind):
    network, x = make(kind, asleep=True), random(2, 3, 4, 4)
    out = network(x, random(2, 6))
    assert not out.any()
    (out - random(2, 2, 4, 4)).square().sum().backward()
    assert network.leave.weight.grad.abs().max() > 1e-3


def test_each_layer_is_the_identity_at_first():
    """What the last layer reads is the normed rows that the first layer reads, bit for bit."""
    network, seen = make(asleep=True), {}
    network.transformer.layers[0].register_forward_pre_hook(lambda m, a: seen.update(first=a[0]))
    network.leave.register_forward_pre_hook(lambda m, a: seen.update(last=a[0]))
    network(random(2, 3, 4, 4), random(2, 6))
    assert seen["last"].equal(F.layer_norm(seen["first"], (16,)))


def test_the_last_rows_are_shifted_and_scaled_by_the_condition():
    """The last layer is linear: a shift adds its image to each patch, a scale of s is 1 + s."""
    network, x, known = make("gates"), random(2, 3, 4, 4), random(2, 6)
    for weight in (*network.modulation.parameters(), network.leave.bias):
        weight.data.zero_()
    plain, width = network(x, known), network.leave.in_features
    network.modulation.bias.data[width:] = 0.5
    torch.testing.assert_close(network(x, known), 1.5 * plain)
    network.modulation.bias.data[:width] = shift = random(width, seed=3)
    moved = to_patches(network(x, known) - 1.5 * plain, 2)
    expected = (network.leave.weight @ shift).reshape(1, -1, 1, 1).expand_as(moved)
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_moves_its_sample_alone(kind):
    network, x, condition = make(kind), random(2, 3, 4, 4), random(2, 6)
    other = condition.clone()
    other[1] += 1
    moved = (network(x, other) - network(x, condition)).abs().amax((1, 2, 3))
    assert moved[0] == 0
    assert moved[1] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_the_context_does_not_matter_and_tokens_do(kind):
    """Not even where it is NaN, nor how much of it there is."""
    network, x, condition = make(kind, context=4), random(2, 3, 5, 4), random(2, 6)
    tokens, mask = random(2, 5, 4), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    plain = network(x, condition, tokens, mask)
    spoiled = torch.where(mask.unsqueeze(2), tokens, torch.nan)
    torch.testing.assert_close(network(x, condition, spoiled, mask), plain, rtol=0, atol=0)
    short = network(x[:1], condition[:1], tokens[:1, mask[0]])
    torch.testing.assert_close(short, plain[:1], rtol=0, atol=1e-12)
    none = network(x[1:], condition[1:])
    torch.testing.assert_close(none, plain[1:], rtol=0, atol=1e-12)
    other = tokens.clone()
    other[0, 3] += 1
    assert (network(x, condition, other, mask) - plain).abs().amax((1, 2, 3))[0] > 1e-4
    swapped = network(x, condition, tokens[:, [3, 1, 2, 0, 4]], mask)
    torch.testing.assert_close(swapped, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_permuted_patches_give_permuted_patches(kind):
    """Columns of one place each; with positions they do not."""
    order, x, condition = torch.tensor([3, 0, 4, 1, 2]), random(2, 3, 5), random(2, 6)
    for positions in (False, True):
        network = make(kind, dimensions=1, patch=1, positions=positions)
        change = network(x[:, :, order], condition) - network(x, condition)[:, :, order]
        assert (change.abs().max() < 1e-12) is not positions


def test_a_decoder_has_the_depth_that_is_asked_for():
    """Encoder and decoder depths are independent: each layer of the decoder has a skip."""
    for encoder, decoder in ((2, 2), (4, 1), (6, 3), (3, 5)):
        network = make(layers=encoder + decoder, long_skips=True, decoder=decoder)
        assert len(network.transformer.layers) == encoder + decoder
        assert len(network.transformer.skips) == decoder
        assert network(random(1, 3, 4, 4), random(1, 6)).any()
    halves = {
        layers: len(make(layers=layers, long_skips=True).transformer.skips)
        for layers in (1, 2, 3, 12, 13)
    }
    assert halves == {1: 0, 2: 0, 3: 1, 12: 5, 13: 6}


@pytest.mark.parametrize("kind", ["gates", "skips", "plain"])
def test_it_learns_to_invert_a_picture_by_its_condition(kind):
    """Less than a fiftieth of the first loss remains: adaLN-Zero, U-ViT, and the plain one."""
    network = make(kind, asleep=True, dtype=torch.float32, width=32)
    x, sign = random(8, 3, 6, 6, dtype=torch.float32), torch.tensor([1.0, -1.0] * 4)
    condition = F.pad(sign.unsqueeze(1), (0, 5))
    want = sign.reshape(-1, 1, 1, 1) * x.roll(1, 2)[:, :2]
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        loss = (network(x, condition) - want).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 50


@pytest.mark.parametrize("kind", ["gates", "skips"])
def test_bfloat16_is_close_to_float32(kind):
    network = make(kind, dtype=torch.float32, context=4)
    inputs = (random(2, 3, 6, 6, dtype=torch.float32), random(2, 6, dtype=torch.float32))
    tokens, mask = random(2, 3, 4, dtype=torch.float32), torch.tensor([[1, 1, 0], [1, 0, 0]])
    plain = network(*inputs, tokens, mask.bool())
    with torch.autocast("cpu", torch.bfloat16):
        low = network(*inputs, tokens, mask.bool())
    assert 0 < (low.float() - plain).norm() < 0.05 * plain.norm()


def test_it_is_one_graph():
    network, inputs = make("both", context=4), (random(2, 3, 5, 6), random(2, 6), random(2, 3, 4))
    whole = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*inputs), network(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["gates", "skips"])
def test_layers_computed_again_have_the_same_gradients(kind):
    gradients = []
    for again in (False, True):
        network = make(kind, checkpointing=again)
        network(random(2, 3, 4, 4), random(2, 6)).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-10, atol=1e-12)


def test_it_is_a_field_network():
    """The class moves its sample; a mel spectrogram of odd length, a picture's feature, a text."""

    def inside(inputs, outputs, *, condition=0, context=0) -> nn.Module:
        return PatchTransformer(
            inputs, outputs, condition=condition, context=context, width=16, layers=2, heads=2
        )

    network = awake(FieldNetwork(inside, 1, kinds={"label": 3}, texts={"words": 5}, features=8))
    words = torch.tensor([[1, 2, 0], [3, 0, 0]])
    batch = Batch.of(random(2, 1, 10, 7)).with_condition(
        {"label": torch.tensor([0, 1]), "words": words}
    )
    clock = {"x": torch.tensor(0.3).double()}
    plain = network(batch, clock, None)["x"]
    longer = batch.with_condition({"words": F.pad(words, (0, 4)), "label": torch.tensor([0, 1])})
    torch.testing.assert_close(network(longer, clock, None)["x"], plain, rtol=0, atol=1e-12)
    other = batch.with_condition({"words": words, "label": torch.tensor([0, 2])})
    moved = (network(other, clock, None)["x"] - plain).abs().amax((1, 2, 3))
    assert moved[0] == 0
    assert moved[1] > 1e-4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"patch": 0}, "patch must be at least 1, got 0"),
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"decoder": 1}, "decoder must be None without long skips, got 1"),
        ({"decoder": 2, "long_skips": True}, "skips must be at most 1 for 3 layers, got 2"),
        ({"heads": 3}, "heads must divide width 16"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"layers": -1}, "layers must be at least 1, got -1"),
        ({"expand": 0}, "expand must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        make(**settings)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (((2, 1, 4, 4), (2, 6)), r"x must be \(samples, 3, \*places\) with 2 axes .* \(2, 1, 4"),
        (((2, 3, 4), (2, 6)), r"x must be .* got \(2, 3, 4\)"),
        (((2, 3, 4, 4), None), r"condition must be shape \(2, 6\), got None"),
        (((2, 3, 4, 4), (2, 5)), r"condition must be shape \(2, 6\), got \(2, 5\)"),
        (((2, 3, 4, 4), (2, 6), (2, 5, 3)), r"context must be \(2, tokens, 4\), got \(2, 5, 3\)"),
        (((2, 3, 4, 4), (2, 6), (2, 5, 4), (2, 4)), r"mask must be \(2, 5\), got \(2, 4\)"),
        (((2, 3, 4, 4), (2, 6), None, (2, 4)), r"mask must be None without a context"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, match):
    given = [None if shape is None else torch.zeros(shape) for shape in inputs]
    with pytest.raises(ValueError, match=match):
        make(context=4, dtype=torch.float32)(*given)
