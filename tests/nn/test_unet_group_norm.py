"""Group norm, scale, shift and silu against torch's own, in both orders of memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.nn.group_norm import AdaptiveGroupNorm, groups_of

FORMATS = [torch.contiguous_format, torch.channels_last]


def layer(dtype: torch.dtype = torch.float64) -> AdaptiveGroupNorm:
    torch.manual_seed(0)
    one = AdaptiveGroupNorm(8, 3)
    for weight in one.parameters():
        torch.nn.init.normal_(weight)
    return one.to(dtype)


def field(order: torch.memory_format, dtype: torch.dtype = torch.float64) -> Tensor:
    x = 2 + torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).contiguous(memory_format=order)


def written_out(one: AdaptiveGroupNorm, x: Tensor, condition: Tensor) -> Tensor:
    parts = x.reshape(len(x), one.groups, -1)
    variance, mean = torch.var_mean(parts, 2, correction=0, keepdim=True)
    normed = ((parts - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    scale, shift = one.modulation(condition)[:, :, None, None].chunk(2, 1)
    weight, bias = one.weight[:, None, None] * (1 + scale), one.bias[:, None, None] + shift
    return F.silu(normed * weight + bias)


CONDITION = torch.tensor([[0.3, -1.0, 0.5], [1.0, 0.2, -0.4], [0.0, 0.0, 2.0]]).double()


@pytest.mark.parametrize("order", FORMATS)
def test_it_is_norm_scale_shift_and_silu(order):
    one, x = layer(), field(order)
    torch.testing.assert_close(one(x, CONDITION), written_out(one, x, CONDITION))
    assert one(x, CONDITION).is_contiguous(memory_format=order)


@pytest.mark.parametrize("order", FORMATS)
def test_gradients_are_those_of_the_formula(order):
    """To the field, the condition and all weights; and of the gradient itself."""
    one, x = layer(), field(order).requires_grad_()
    condition = CONDITION.clone().requires_grad_()
    inputs = [x, condition, *one.parameters()]
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    results = []
    for y in (one(x, condition), written_out(one, x, condition)):
        first = torch.autograd.grad((y * weight).sum(), inputs, create_graph=True)
        second = torch.autograd.grad((first[0] * weight).sum(), [x, condition])
        results.append([*first, *second])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_forward_derivatives_and_maps_over_a_batch():
    """In channels-last order, where torch's group norm has no forward derivative."""
    one, x = layer(), field(torch.channels_last)
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    found = torch.func.jvp(lambda x: one(x, CONDITION), (x,), (tangent,))[1]
    expected = torch.func.jvp(lambda x: written_out(one, x, CONDITION), (x,), (tangent,))[1]
    torch.testing.assert_close(found, expected)
    many = torch.stack([x, x + tangent])
    found = torch.func.vmap(lambda x: one(x, CONDITION))(many)
    expected = torch.stack([written_out(one, x, CONDITION) for x in many])
    torch.testing.assert_close(found, expected)


def test_a_constant_and_a_mean_far_from_zero():
    """Sums of squares lose what the variance is of the square: it is still good to 1e-3 here."""
    one = layer(torch.float32)
    condition = CONDITION.float()
    flat = torch.full((3, 8, 5, 4), 7.0).contiguous(memory_format=torch.channels_last)
    scale, shift = one.modulation(condition)[:, :, None, None].chunk(2, 1)
    expected = F.silu(one.bias[:, None, None] + shift).expand(-1, -1, 5, 4)
    torch.testing.assert_close(one(flat, condition), expected, rtol=0, atol=2e-3)
    far = field(torch.channels_last, torch.float32) + 30
    exact = written_out(one.double(), far.double(), CONDITION)
    found = layer(torch.float32)(far, condition)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3 * exact.abs().max().item())


def test_low_precision_sums_in_single_precision():
    one, x = layer(torch.float32), field(torch.channels_last, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = one(x.bfloat16(), CONDITION.float())
    exact = written_out(layer(), x.double(), CONDITION)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).abs().max() < 2**-6 * exact.abs().max()


def test_groups_divide_the_channels():
    for width in range(1, 300):
        groups = groups_of(width)
        assert width % groups == 0
        assert groups <= 32
        assert groups == 1 or width // groups >= 4
