"""Waves of blurred points, and the residual network that sees them."""

import math

import pytest
import torch

from structdiff.nn.residual import ResidualNetwork, Waves


def test_waves_are_cosines_and_sines_along_their_directions():
    waves = Waves(3, waves=5, octaves=4)
    point = torch.randn(7, 3, dtype=torch.float64)
    cosine, sine, left = waves(point, torch.zeros_like(point))
    phase = (point[:, :, None] * waves.direction.double()).sum(1)
    torch.testing.assert_close(cosine, torch.cos(phase))
    torch.testing.assert_close(sine, torch.sin(phase))
    torch.testing.assert_close(left, torch.ones_like(left))


def test_frequencies_range_over_the_octaves():
    torch.manual_seed(0)
    direction = Waves(4000, waves=9, octaves=8).direction
    length = direction.norm(dim=0) / math.sqrt(4000)
    torch.testing.assert_close(length, 2 ** torch.arange(9.0), rtol=0.05, atol=0)


def test_what_is_left_is_the_mean_wave_of_a_blurred_point():
    torch.manual_seed(1)
    waves = Waves(2, waves=3, octaves=1)
    point = torch.tensor([[0.3, -0.8]], dtype=torch.float64)
    blur = torch.tensor([[0.4, 0.9]], dtype=torch.float64)
    cosine, sine, left = waves(point, blur)
    draws = 400_000
    off = waves.log_factor.exp().item() * blur * torch.randn(draws, 2, dtype=torch.float64)
    near, aside, _ = waves(point + off, torch.zeros(draws, 2, dtype=torch.float64))
    for exact, drawn in ((left * cosine, near), (left * sine, aside)):
        error = drawn.std(0) / math.sqrt(draws)
        assert bool(((drawn.mean(0) - exact[0]).abs() < 5 * error).all())


def test_fast_waves_keep_their_digits_under_autocast():
    waves = Waves(3, waves=64, octaves=9)
    point, blur = torch.randn(20, 3), torch.full((20, 3), 1e-3)
    exact = waves(point, blur)
    with torch.autocast("cpu", torch.bfloat16):
        low = waves(point, blur)
    for a, b in zip(exact, low, strict=True):
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def shaken(**sizes):
    """A network with random weights everywhere, also where it begins with zeros."""
    torch.manual_seed(2)
    network = ResidualNetwork(3, 4, 2, width=16, waves=6, octaves=3, **sizes).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def test_the_output_is_zero_before_training_and_learns():
    network = ResidualNetwork(3, 4, 2, width=16, waves=6)
    output = network(torch.randn(5, 3), torch.randn(5, 4), torch.zeros(5, 3))
    assert output.shape == (5, 2)
    assert bool((output == 0).all())
    output.sum().backward()
    assert network.leave.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("what", ["point", "context", "blur"])
def test_each_row_follows_from_its_own_inputs(what):
    network = shaken()
    inputs = {
        "point": torch.randn(6, 3, dtype=torch.float64),
        "context": torch.randn(6, 4, dtype=torch.float64),
        "blur": torch.rand(6, 3, dtype=torch.float64),
    }
    before = network(**inputs)
    changed = {**inputs, what: inputs[what].clone()}
    changed[what][2] += 0.5
    after = network(**changed)
    moved = (after - before).abs().amax(1)
    assert moved[2] > 1e-4
    assert moved[[0, 1, 3, 4, 5]].max() < 1e-12


def test_waves_learn_what_is_fast():
    """A wave of 3 octaves is fitted to a tenth of its variance in a few updates."""
    torch.manual_seed(3)
    network = ResidualNetwork(1, 1, 1, width=32, blocks=1, waves=32, octaves=4)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(200):
        point = torch.rand(256, 1) * 2 - 1
        context = torch.zeros(256, 1)
        said = network(point, context, torch.zeros(256, 1))
        loss = (said - torch.sin(12 * point)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"blocks": 0}, "blocks must be positive, got 0"),
        ({"waves": 0}, "inputs, waves and octaves must be positive"),
        ({"octaves": 0.0}, "inputs, waves and octaves must be positive"),
    ],
)
def test_sizes_are_positive(change, match):
    with pytest.raises(ValueError, match=match):
        ResidualNetwork(3, 4, 2, **change)
