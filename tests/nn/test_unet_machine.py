"""The same function in low precision, in other orders of memory, compiled and computed twice."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff.nn.resampling import SMOOTH
from structdiff.nn.unet import UNet

KINDS: list[dict[str, Any]] = [
    {},
    {"resampling": "block", "taps": SMOOTH, "rescale": True, "progressive": True},
    {"layers": 1, "heads": 2},
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(**changes: Any) -> UNet:
    torch.manual_seed(0)
    sizes = {"width": 8, "multipliers": (1, 2), "blocks": 1} | changes
    network = UNet(2, 2, condition=4, context=6, **sizes)
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    return network


INPUTS = (
    noise(2, 2, 7, 6),
    noise(2, 4),
    noise(2, 3, 6),
    torch.tensor([[True, True, False], [False] * 3]),
)


def gradients(network: nn.Module, *inputs: Tensor) -> list[Tensor]:
    network.zero_grad()
    (network(*inputs) * noise(2, 2, 7, 6, seed=3)).sum().backward()
    return [weight.grad for weight in network.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_changes_memory_alone(kind):
    """Equal gradients; fewer tensors kept, and dropout falls where it fell before."""
    plain, again = made(**kind, dropout=0.2), made(**kind, dropout=0.2, checkpointing=True)
    kept = []
    results = []
    for network in (plain, again):
        count = []
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, count=count: count.append(x.numel()) or x, lambda x: x
        ):
            results.append(gradients(network, *INPUTS))
        kept.append(sum(count))
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    forward = []
    for network in (plain, again):
        count = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, count=count: count.append(x.numel()) or x, lambda x: x
        ):
            network(*INPUTS)
        forward.append(sum(count))
    assert forward[1] < 0.5 * forward[0]


def test_it_is_one_graph():
    """Compiled without a break: the same output and gradients."""
    network = made(**KINDS[1], multipliers=(1, 1))
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    expected = [slope.clone() for slope in gradients(network, *INPUTS)]
    for one, other in zip(gradients(compiled, *INPUTS), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(compiled(*INPUTS), network(*INPUTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_is_close(kind):
    """Under autocast in bfloat16, whose numbers have 8 bits."""
    network = made(**kind)
    exact, slopes = network(*INPUTS), gradients(network, *INPUTS)
    slopes = [slope.clone() for slope in slopes]
    with torch.autocast("cpu", torch.bfloat16):
        low = network(*INPUTS)
        found = gradients(network, *INPUTS)
    assert low.dtype == torch.bfloat16
    assert (low - exact).abs().max() < 0.05 * exact.abs().max()
    error = sum((a - b).square().sum() for a, b in zip(found, slopes, strict=True))
    assert error.sqrt() < 0.1 * sum(slope.square().sum() for slope in slopes).sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_memory_does_not_matter(kind):
    """Of the input and of the weights; the output is in torch's plain order."""
    network = made(**kind)
    expected = network(*INPUTS)
    x, *others = INPUTS
    turned = x.contiguous(memory_format=torch.channels_last)
    for one in (network, copy.deepcopy(network).to(memory_format=torch.channels_last)):
        for given in (x, turned):
            found = one(given, *others)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert found.is_contiguous()


def test_a_sample_does_not_depend_on_the_others():
    network = made()
    alone = network(*[value[:1] for value in INPUTS])
    torch.testing.assert_close(alone, network(*INPUTS)[:1], rtol=1e-5, atol=1e-5)


def test_weights_are_saved_and_loaded():
    network, other = (
        made(),
        UNet(2, 2, condition=4, context=6, width=8, multipliers=(1, 2), blocks=1),
    )
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(*INPUTS), network(*INPUTS))
