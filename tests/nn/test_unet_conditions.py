"""What a U-Net is told: features of a sample, tokens of a text."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from structdiff import Batch
from structdiff.nn.field import FieldNetwork
from structdiff.nn.unet import UNet
from structdiff.nn.unet_blocks import Attention, CrossAttention, ResidualBlock


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def woken(network: nn.Module, *names: str) -> nn.Module:
    """With weights where they are zero at first; of these layers, or of all."""
    torch.manual_seed(1)
    for name, weight in network.named_parameters():
        if not weight.any() and (not names or any(part in name for part in names)):
            nn.init.normal_(weight, std=0.2)
    return network


def network(**changes: int) -> UNet:
    torch.manual_seed(0)
    sizes = {"width": 8, "multipliers": (1, 2), "blocks": 1} | changes
    return UNet(1, 1, **sizes)


def test_the_condition_is_ignored_at_first_and_then_followed():
    """Scale and shift of the norm are zero at first, whatever else has weights."""
    one = woken(network(condition=4), "leave", "last", "gather")
    x = noise(2, 1, 6, 6)
    first = one(x, noise(2, 4))
    assert first.abs().max() > 0.01
    assert torch.equal(one(x, noise(2, 4, seed=1)), first)
    woken(one, "modulation")
    changed = one(x, noise(2, 4, seed=1)) - one(x, noise(2, 4))
    assert (changed.flatten(1).abs().amax(1) > 0.01).all()


def test_a_transformer_in_the_middle_follows_the_condition():
    one = woken(network(condition=4, layers=1), "leave", "gather")
    before, after = one.before.block.between, one.after.between
    x = noise(2, 1, 6, 6)
    first = one(x, noise(2, 4))
    assert torch.equal(one(x, noise(2, 4, seed=1)), first)
    woken(one.transformer, "modulation")
    assert (one(x, noise(2, 4, seed=1)) - one(x, noise(2, 4))).abs().max() > 1e-3
    assert not before.modulation.weight.any()
    assert not after.modulation.weight.any()


def test_a_residual_block_is_its_formula():
    """Convolutions by unfolding; both ways to sum; one that resamples."""
    for rescale, inputs in ((False, 4), (True, 4), (True, 6)):
        torch.manual_seed(0)
        block = ResidualBlock(inputs, 4, dimensions=2, condition=3, rescale=rescale)
        block = woken(block).double()
        halving = nn.AvgPool2d(2)
        block.resample = halving
        x, condition = noise(2, inputs, 4, 6).double(), noise(2, 3).double()

        def convolved(conv: nn.Conv2d, h: Tensor) -> Tensor:
            parts = nn.functional.unfold(h, conv.kernel_size, padding=conv.padding)
            flat = conv.weight.flatten(1) @ parts + conv.bias[:, None]
            return flat.unflatten(2, h.shape[2:])

        def normed(h: Tensor) -> Tensor:
            flat = h.flatten(1)
            variance, mean = torch.var_mean(flat, 1, correction=0, keepdim=True)
            return ((flat - mean) / (variance + 1e-5).sqrt()).view_as(h)

        h = normed(x) * torch.sigmoid(normed(x))
        h = normed(convolved(block.first, halving(h)))
        scale, shift = block.between.modulation(condition)[:, :, None, None].chunk(2, 1)
        h = (1 + scale) * h + shift
        h = convolved(block.last, h * torch.sigmoid(h))
        straight = halving(x)
        if inputs != 4:
            straight = convolved(block.straight, straight)
        expected = (straight + h) / (math.sqrt(2) if rescale else 1)
        # One group holds all channels here, and biases of norms are zero but for `woken`.
        for norm in (block.before, block.between):
            nn.init.zeros_(norm.bias)
        torch.testing.assert_close(block(x, condition), expected, rtol=1e-10, atol=1e-10)


def test_attention_among_places_is_its_formula():
    torch.manual_seed(0)
    layer = woken(Attention(4, 2)).double()
    x = noise(2, 4, 3, 2).double()
    tokens = layer.norm(x.flatten(2).mT)
    query, key, value = layer.attend(tokens).chunk(3, -1)
    parts = []
    for head in (slice(0, 2), slice(2, 4)):
        weight = torch.softmax(query[..., head] @ key[..., head].mT / math.sqrt(2), -1)
        parts.append(weight @ value[..., head])
    expected = x + layer.gather(torch.cat(parts, -1)).mT.reshape(x.shape)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_attention_to_tokens_is_its_formula():
    torch.manual_seed(0)
    layer = woken(CrossAttention(4, 3, 2)).double()
    x, context = noise(2, 4, 5).double(), noise(2, 6, 3, seed=1).double()
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    query = layer.ask(layer.norm(x.mT))
    key, value = layer.tell(context).chunk(2, -1)
    parts = []
    for head in (slice(0, 2), slice(2, 4)):
        score = query[..., head] @ key[..., head].mT / math.sqrt(2)
        seen = score.masked_fill(~mask[:, None], -math.inf)
        parts.append(torch.softmax(seen, -1) @ value[..., head])
    expected = x + layer.gather(torch.cat(parts, -1)).mT
    torch.testing.assert_close(layer(x, context, mask), expected, rtol=1e-10, atol=1e-10)


def told() -> UNet:
    return woken(network(context=6))


@pytest.mark.parametrize("filler", [0.0, 1e4, math.nan])
def test_padding_never_affects_the_output(filler):
    """Whatever is in it and however much of it there is, tokens that are not there are not."""
    one, x = told().double(), noise(2, 1, 6, 5).double()
    context = noise(2, 5, 6).double()
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    first = one(x, None, context, mask)
    filled = context.clone()
    filled[0, 2] = filled[0, 4] = filler
    torch.testing.assert_close(one(x, None, filled, mask), first, rtol=0, atol=1e-6)
    longer = torch.cat([filled, context.new_full((2, 3, 6), filler)], 1)
    more = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1)
    torch.testing.assert_close(one(x, None, longer, more), first, rtol=0, atol=1e-6)
    alone = one(x[:1], None, context[:1, [0, 1, 3]])
    torch.testing.assert_close(alone, first[:1], rtol=0, atol=1e-6)
    changed = context.clone()
    changed[0, 3, 0] += 1
    assert (one(x, None, changed, mask) - first)[0].abs().max() > 1e-4


def test_padding_gets_no_gradient_and_gives_none_that_is_not_a_number():
    one, context = told(), noise(2, 3, 6).requires_grad_()
    mask = torch.tensor([[True, False, True], [False] * 3])
    one(noise(2, 1, 6, 5), None, context, mask).square().sum().backward()
    assert (context.grad.abs().amax(2) > 0).tolist() == mask.tolist()
    assert all(weight.grad.isfinite().all() for weight in one.parameters())


def test_where_no_token_counts_nothing_is_added():
    one, x = told(), noise(2, 1, 6, 5)
    context, mask = noise(2, 3, 6), torch.tensor([[False] * 3, [True] * 3])
    output = one(x, None, context, mask)
    torch.testing.assert_close(output[:1], one(x[:1]), rtol=0, atol=1e-6)
    assert (output - one(x))[1].abs().max() > 1e-4


def test_a_text_in_a_batch_is_seen_without_its_padding():
    torch.manual_seed(0)
    backbone = FieldNetwork(
        lambda *sizes, **widths: UNet(*sizes, width=8, multipliers=(1, 2), blocks=1, **widths),
        1,
        features=12,
        texts={"caption": 9},
    )
    woken(backbone.network)
    batch, clock = Batch.of(noise(2, 1, 6, 6)), {"x": torch.tensor(0.3)}
    short = backbone(
        batch.with_condition({"caption": torch.tensor([[3, 4], [8, 0]])}), clock, None
    )
    padded = torch.tensor([[3, 4, 0, 0], [8, 0, 0, 0]])
    longer = backbone(batch.with_condition({"caption": padded}), clock, None)
    torch.testing.assert_close(longer["x"], short["x"], rtol=0, atol=1e-6)
    other = backbone(
        batch.with_condition({"caption": torch.tensor([[4, 3], [8, 0]])}), clock, None
    )
    change = (other["x"] - short["x"]).flatten(1).abs().amax(1)
    assert change[0] > 1e-4
    assert change[1] < 1e-6


def test_a_clock_is_a_real_number():
    """No table of times: the output is smooth in the clock, with the slope autograd says."""
    torch.manual_seed(0)
    backbone = FieldNetwork(
        lambda *sizes, **widths: UNet(*sizes, width=8, multipliers=(1, 2), blocks=1, **widths),
        1,
        features=12,
    ).double()
    woken(backbone.network)
    batch = Batch.of(noise(2, 1, 6, 6).double())

    def output(clock: Tensor) -> Tensor:
        return backbone(batch, {"x": clock}, None)["x"]

    clock, step = torch.tensor(0.31, dtype=torch.float64), 1e-5
    weight, opened = noise(2, 1, 6, 6, seed=1), clock.clone().requires_grad_()
    (slope,) = torch.autograd.grad((weight * output(opened)).sum(), opened)
    difference = (output(clock + step) - output(clock - step)) / (2 * step)
    assert slope.abs() > 1e-3
    torch.testing.assert_close(slope, (weight * difference).sum(), rtol=1e-5, atol=1e-7)
