"""Attention within frames and along time."""

import pytest
import torch

from structdiff.nn.frames import FrameTransformer
from tests.nn.networks import awake, random


def make(*, asleep=False, **settings):
    torch.manual_seed(0)
    chosen = {"width": 16, "layers": 2, "heads": 2, "condition": 5} | settings
    network = FrameTransformer(2, 3, **chosen)
    return network.double() if asleep else awake(network)


@pytest.mark.parametrize("settings", [{}, {"adaptive": False}, {"long_skips": True, "layers": 3}])
def test_a_single_frame_is_seen_by_joint_attention(settings):
    """The transformer over the patches of the frame, bit for bit; two frames are more."""
    network, condition = make(**settings), random(2, 5)
    x = random(2, 2, 1, 5, 6)
    assert network(x, condition)[:, :, 0].equal(network.frame(x[:, :, 0], condition))
    two = torch.cat([x, random(2, 2, 1, 5, 6, seed=1)], 2)
    change = network(two, condition)[:, :, 0] - network.frame(x[:, :, 0], condition)
    assert change.abs().max() > 1e-3


def test_each_place_sees_all_frames_and_places():
    x, condition = random(2, 2, 3, 5, 4).requires_grad_(), random(2, 5)
    out = make()(x, condition)
    assert out.shape == (2, 3, 3, 5, 4)
    out[0, 0, 0, 0, 0].backward()
    assert (x.grad[0].abs() > 0).all()
    assert not x.grad[1].any()


def test_a_layer_along_time_sees_its_own_patch_alone():
    """Where the layer within frames does nothing, a patch is reached by itself in all frames."""
    network = make(layers=1)
    for weight in network.frame.transformer.layers[0].parameters():
        weight.data.zero_()
    x, condition = random(1, 2, 3, 4, 4).requires_grad_(), random(1, 5)
    network(x, condition)[0, :, 1, 0, 0].sum().backward()
    seen = x.grad[0].abs().amax((0, 1)) > 1e-12
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[:2, :2] = True
    assert seen.equal(expected)
    assert (x.grad[0].abs().amax((0, 2, 3)) > 1e-12).all()


def test_time_has_a_direction():
    network, x, condition = make(), random(1, 2, 4, 4, 4), random(1, 5)
    back = network(x.flip(2), condition).flip(2)
    assert (back - network(x, condition)).abs().max() > 1e-4


def test_padding_of_the_context_does_not_matter():
    network, x, condition = make(context=4), random(2, 2, 3, 4, 4), random(2, 5)
    tokens, mask = random(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    plain = network(x, condition, tokens, mask)
    spoiled = torch.where(mask.unsqueeze(2), tokens, torch.nan)
    torch.testing.assert_close(network(x, condition, spoiled, mask), plain, rtol=0, atol=0)
    other = tokens.clone()
    other[0, 1] += 1
    assert (network(x, condition, other, mask) - plain)[0].abs().max() > 1e-4


def test_layers_are_the_identity_at_first_and_the_output_zero():
    network, x, condition = make(asleep=True), random(2, 2, 3, 4, 4), random(2, 5)
    assert not network(x, condition).any()
    h = random(4, 3, 16)
    assert all(layer(h, random(4, 1, 5), None, None).equal(h) for layer in network.times)


def test_recomputed_layers_have_the_same_gradients():
    gradients = []
    for again in (False, True):
        network = make(checkpointing=again)
        network(random(1, 2, 2, 4, 4), random(1, 5)).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-10, atol=1e-12)


def test_a_line_has_no_frames():
    with pytest.raises(ValueError, match="dimensions must be at least 2, time and places, got 1"):
        make(dimensions=1)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"x must be \(samples, 2, \*places\) with 3 axes"):
        make()(torch.zeros(2, 2, 4, 4).double(), torch.zeros(2, 5).double())
    with pytest.raises(ValueError, match=r"condition must be shape \(2, 5\), got None"):
        make()(torch.zeros(2, 2, 3, 4, 4).double())


def test_the_condition_moves_its_sample_alone():
    network, x, condition = make(), random(2, 2, 3, 4, 4), random(2, 5)
    other = torch.stack([condition[0], condition[1] + 1])
    moved = (network(x, other) - network(x, condition)).abs().amax((1, 2, 3, 4))
    assert moved[0] < 1e-12
    assert moved[1] > 1e-4
