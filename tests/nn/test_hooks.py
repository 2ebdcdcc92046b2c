"""Layers read and edited from outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from structdiff import Batch, Layout
from structdiff.nn import TokenNetwork
from structdiff.nn.hooks import editing, reading


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


X = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)


def test_a_zero_edit_is_the_identity():
    """L08: bit for bit, in any layer, and nothing is left after the block."""
    one = network()
    plain = one(X)
    for name in ("0", "1", "2"):
        with editing(one, {name: lambda h: h + torch.zeros_like(h)}):
            assert torch.equal(one(X), plain)
    with editing(one, {"1": lambda h: h + 1}):
        moved = one(X)
    assert torch.equal(one(X), plain)
    torch.testing.assert_close(moved, one[2](one[1](one[0](X)) + 1), rtol=0, atol=0)


def test_what_is_read_is_what_the_layer_gave_with_its_gradient():
    one, x = network(), X.clone().requires_grad_()
    with reading(one, ["0", "1"]) as seen:
        one(x)
    assert torch.equal(seen["0"], one[0](X))
    assert torch.equal(seen["1"], torch.tanh(seen["0"]))
    (found,) = torch.autograd.grad(seen["1"].sum(), x)
    expected = (1 - torch.tanh(one[0](X)) ** 2) @ one[0].weight
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_readers_see_what_edits_made_and_the_last_call():
    one = network()
    with editing(one, {"0": lambda h: 2 * h}), reading(one, ["0", "1"]) as seen:
        one(X)
        one(3 * X)
    torch.testing.assert_close(seen["0"], 2 * one[0](3 * X), rtol=0, atol=0)
    assert torch.equal(seen["1"], torch.tanh(seen["0"]))


def test_an_error_inside_leaves_no_hook_behind():
    one = network()
    with pytest.raises(RuntimeError), editing(one, {"0": lambda h: h + 1}):
        one(X[:, :2])
    assert torch.equal(one(X), one[2](torch.tanh(one[0](X))))


def test_layers_of_a_transformer():
    """By the dotted names of a network that was not made for it."""
    torch.manual_seed(0)
    backbone = TokenNetwork(5, 4, width=8, layers=2, heads=2)
    batch = Batch({"token": torch.tensor([0, 3, 1, 2, 4])}, {"token": Layout.ragged([3, 2])})
    t = {"token": torch.tensor(0.3)}
    plain = backbone(batch, t, None)["token"]
    with reading(backbone, ["transformer.layers.0", "transformer.layers.1"]) as seen:
        backbone(batch, t, None)
    assert not torch.equal(seen["transformer.layers.0"], seen["transformer.layers.1"])
    first = seen["transformer.layers.0"]
    with editing(backbone, {"transformer.layers.0": lambda h: first}):
        same = backbone(batch, t, None)["token"]
    assert torch.equal(same, plain)


def test_what_does_not_fit_is_refused():
    one = network()
    with (
        pytest.raises(ValueError, match=r"has the layers \['0', '1', '2'\], not \['3'\]"),
        editing(one, {"3": lambda h: h}),
    ):
        one(X)
    pairs = nn.Sequential(nn.LSTM(3, 2))
    with (
        pytest.raises(ValueError, match="the layer '0', a LSTM, gives a tuple, not a tensor"),
        reading(pairs, ["0"]),
    ):
        pairs(X.float())
