"""How far the dilated stack sees, and what it is at first."""

import pytest
import torch
from torch import nn

from structdiff.batch import Batch
from structdiff.nn.dilated import DilatedStack
from structdiff.nn.field import FieldNetwork
from tests.nn.networks import awake, random, seen_from


def make(*, asleep=False, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    chosen = {"width": 4, "layers": 6, "cycle": 3} | settings
    network = DilatedStack(2, 3, **chosen)
    return network.to(dtype) if asleep else awake(network, dtype=dtype)


@pytest.mark.parametrize(
    ("layers", "cycle", "reach"), [(1, 1, 1), (3, 1, 3), (4, 4, 15), (6, 3, 14), (5, 3, 10)]
)
def test_an_output_sees_exactly_as_far_as_stated(layers, cycle, reach):
    """By the gradient of one output: all places up to `reach` away, and none beyond."""
    network = make(layers=layers, cycle=cycle, width=16)
    assert network.reach == reach
    seen = seen_from(network, random(1, 2, 41), (20,))[0].all(0)
    assert seen.tolist() == [abs(place - 20) <= reach for place in range(41)]


def test_the_usual_stack_sees_6139_samples():
    """DiffWave's 30 layers in cycles of 10; a shorter one of one cycle, by gradients."""
    assert 2 * make(layers=30, cycle=10).reach + 1 == 6139
    network = make(layers=8, cycle=8, width=16, dtype=torch.float32)
    seen = seen_from(network, random(1, 2, 700, dtype=torch.float32), (350,))[0].all(0)
    assert seen.sum() == 2 * 255 + 1


def test_patches_see_as_many_patches():
    network = make(layers=4, cycle=2, patch=3)
    seen = seen_from(network, random(1, 2, 63), (31,))[0].all(0)
    first, last = 3 * (10 - network.reach), 3 * (10 + network.reach) + 2
    assert seen.tolist() == [first <= place <= last for place in range(63)]


def test_on_a_plane_it_sees_a_square():
    network = make(dimensions=2, layers=2, cycle=2)
    seen = seen_from(network, random(1, 2, 11, 11), (5, 5))[0].all(0)
    near = (torch.arange(11) - 5).abs() <= network.reach
    assert seen.equal(near.unsqueeze(1) & near)


@pytest.mark.parametrize("patch", [1, 4])
@pytest.mark.parametrize("length", [1, 2, 7, 64, 101])
def test_the_output_is_as_long_as_the_input(length, patch):
    """And is what a longer input gives, away from its end."""
    network, x = make(patch=patch), random(2, 2, length)
    out = network(x)
    assert out.shape == (2, 3, length)
    far = torch.cat([x, random(2, 2, 200, seed=1)], 2)
    kept = max(0, length - patch * (network.reach + 1))
    torch.testing.assert_close(network(far)[..., :kept], out[..., :kept], rtol=0, atol=1e-12)


def test_it_is_zero_at_first_and_has_gradients():
    network, x = make(asleep=True, condition=5), random(2, 2, 20)
    out = network(x, random(2, 5))
    assert not out.any()
    (out - random(2, 3, 20)).square().sum().backward()
    assert network.leave.weight.grad.abs().max() > 1e-3


def test_features_keep_their_size_through_a_deep_stack():
    """What is summed of forty layers has about unit variance, neither vanishing nor growing."""
    network, seen = make(asleep=True, width=32, layers=40, cycle=5), []
    network.mix.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    network(random(4, 2, 200))
    assert 0.1 < seen[0].std() < 3


def test_a_layer_is_the_papers():
    network = make(layers=1, condition=5)
    layer, h, condition = network.layers[0], random(2, 4, 9), random(2, 5)
    seen = h + layer.known(condition)[:, :, None]
    wide = nn.functional.pad(seen, (1, 1))
    taps = [
        torch.einsum("oi,nil->nol", layer.look.weight[..., k], wide[..., k : k + 9])
        for k in range(3)
    ]
    both = sum(taps) + layer.look.bias[:, None]
    gated = both[:, :4].tanh() * both[:, 4:].sigmoid()
    left = torch.einsum("oi,nil->nol", layer.leave.weight[..., 0], gated)
    left = left + layer.leave.bias[:, None]
    found = layer(h, condition)
    expected = ((h + left[:, :4]) / 2**0.5, left[:, 4:])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_condition_moves_its_sample_alone():
    network, x, condition = make(condition=5), random(2, 2, 20), random(2, 5)
    other = condition.clone()
    other[1] += 1
    moved = (network(x, other) - network(x, condition)).abs().amax((1, 2))
    assert moved[0] == 0
    assert moved[1] > 1e-4


def test_padding_of_the_context_does_not_matter_and_tokens_do():
    network, x = make(context=4), random(2, 2, 9)
    tokens, mask = random(2, 5, 4), torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    plain = network(x, None, tokens, mask)
    spoiled = torch.where(mask.unsqueeze(2), tokens, torch.nan)
    torch.testing.assert_close(network(x, None, spoiled, mask), plain, rtol=0, atol=0)
    short = network(x[:1], None, tokens[:1, mask[0]])
    torch.testing.assert_close(short, plain[:1], rtol=0, atol=1e-12)
    torch.testing.assert_close(network(x[1:]), plain[1:], rtol=0, atol=1e-12)
    other = tokens.clone()
    other[0, 3] += 1
    assert (network(x, None, other, mask) - plain)[0].abs().max() > 1e-4


def test_layers_computed_again_have_the_same_gradients():
    gradients = []
    for again in (False, True):
        network = make(condition=5, checkpointing=again)
        network(random(2, 2, 20), random(2, 5)).square().sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-10, atol=1e-12)


def test_bfloat16_is_close_to_float32():
    network, x = make(dtype=torch.float32), random(2, 2, 50, dtype=torch.float32)
    plain = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x)
    assert 0 < (low.float() - plain).norm() < 0.05 * plain.norm()


def test_it_is_one_graph():
    network, inputs = (
        make(condition=5, context=4),
        (random(2, 2, 9), random(2, 5), random(2, 3, 4)),
    )
    whole = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*inputs), network(*inputs), rtol=0, atol=1e-12)


def test_a_vocoder_is_a_field_network():
    """A spectrogram of eight frames steers the 64 samples of a wave below each frame."""

    def inside(inputs, outputs, *, condition=0, context=0):
        return DilatedStack(
            inputs, outputs, condition=condition, context=context, width=4, layers=3, cycle=3
        )

    network = awake(FieldNetwork(inside, 1, fields={"mel": 5}, features=8))
    mel, clock = random(2, 5, 8), {"x": torch.tensor(0.2).double()}
    batch = Batch.of(random(2, 1, 512))
    plain = network(batch.with_condition({"mel": mel}), clock, None)["x"]
    other = mel.clone()
    other[1, :, 4] += 1
    change = (network(batch.with_condition({"mel": other}), clock, None)["x"] - plain).abs()
    assert not change[0].any()
    moved = change[1, 0].nonzero()
    assert (moved.min(), moved.max()) == (4 * 64 - 7, 5 * 64 - 1 + 7)


@pytest.mark.parametrize("name", ["width", "layers", "cycle", "patch", "dimensions"])
def test_settings_that_cannot_be_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        make(**{name: 0})


def test_four_axes_are_refused():
    with pytest.raises(ValueError, match="dimensions must be 1, 2 or 3, got 4"):
        make(dimensions=4)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"x must be \(samples, 2, \*places\) with 1 axes"):
        make()(torch.zeros(2, 2, 3, 3).double())
    with pytest.raises(ValueError, match=r"condition must be shape \(2, 5\), got None"):
        make(condition=5)(torch.zeros(2, 2, 3).double())
    with pytest.raises(ValueError, match=r"context must be None, got \(2, 3, 4\)"):
        make()(torch.zeros(2, 2, 3).double(), None, torch.zeros(2, 3, 4).double())


def test_layers_are_the_formula():
    """Sums over sqrt 2 along the stack, and over the root of their number across it."""
    network, x, known = make(layers=3, condition=5), random(2, 2, 9), random(2, 5)
    h, total = torch.relu(network.enter(x)), 0.0
    for layer in network.layers:
        told = layer.known(nn.functional.silu(known)).unsqueeze(2)
        a, b = layer.look(h + told).chunk(2, 1)
        y, skip = layer.leave(a.tanh() * b.sigmoid()).chunk(2, 1)
        h, total = (h + y) / 2**0.5, total + skip
    expected = network.leave(torch.relu(network.mix(total / 3**0.5)))
    torch.testing.assert_close(network(x, known), expected)
