"""The transformer without positions, on a grid, with gates at zero, long skips and recomputing."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn import Transformer
from structdiff.nn.attention import angles, grid, rotate
from structdiff.nn.hooks import editing
from tests.nn.networks import awake, random

COUNTS = [5, 2, 0, 8, 1]


def make(layers=2, *, asleep=False, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    network = Transformer(8, layers, 2, **settings)
    return network.to(dtype) if asleep else awake(network, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_positions_permuted_rows_give_permuted_features(dtype):
    """Of every sample of a ragged batch, with a condition; with positions they do not."""
    layout, x = Layout.ragged(COUNTS), random(16, 8, dtype=dtype)
    condition = random(5, 3, seed=1, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    starts = [sum(COUNTS[:k]) for k in range(5)]
    order = torch.cat(
        [s + torch.randperm(n, generator=generator) for s, n in zip(starts, COUNTS, strict=True)]
    )
    sets = make(axes=0, neighbours=0, condition=3, dtype=dtype)
    line = make(axes=1, neighbours=0, condition=3, dtype=dtype)
    change = [
        (network(x[order], layout, condition) - network(x, layout, condition)[order]).abs().max()
        for network in (sets, line)
    ]
    assert change[0] < {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert change[1] > 1e-2


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_scores_depend_on_differences_of_places_along_each_axis(axes):
    """A query and a key moved together keep their product; each axis moved alone changes it."""
    entries = 12
    query, key = random(entries), random(entries, seed=1)

    def score(there, here):
        angle = angles(torch.tensor([there, here]), entries, query)
        return rotate(query, angle[0]) @ rotate(key, angle[1])

    there, here = [3, 1, 4][:axes], [1, 5, 9][:axes]
    plain = score(there, here)
    moved = [place + 7 * (k + 1) for k, place in enumerate(there)]
    back = [place + 7 * (k + 1) for k, place in enumerate(here)]
    torch.testing.assert_close(score(moved, back), plain, rtol=0, atol=1e-12)
    for axis in range(axes):
        other = [place + (k == axis) for k, place in enumerate(there)]
        assert (score(other, here) - plain).abs() > 1e-3


def test_the_speeds_of_an_axis_fall_from_one_radian():
    """On a plane the four pairs take turns, with the speeds 1, 1, 1/10, 1/10."""
    found = angles(torch.tensor([[1, 0], [0, 1]]), 8, torch.zeros(1).double())
    assert found.flatten().tolist() == pytest.approx([1, 0, 0.1, 0, 0, 1, 0, 0.1])


def test_places_are_those_of_the_grid():
    assert grid((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_a_line_given_by_its_places_is_the_line():
    network, layout, x = make(), Layout.ragged(COUNTS), random(16, 8)
    found = network(x, layout, places=grid((9,)))
    torch.testing.assert_close(found, network(x, layout), rtol=0, atol=0)


def test_the_places_of_a_grid_matter():
    """Four rows as a square and as a line with the same places on both axes are two things."""
    network, layout, x = make(axes=2, neighbours=0), Layout.ragged([4, 4]), random(8, 8)
    square = network(x, layout, places=grid((2, 2)))
    line = network(x, layout, places=grid((4, 1)))
    assert (square - line).abs().max() > 1e-3


def test_gates_that_are_zero_make_each_layer_the_identity_exactly():
    """The features are the normed input, bit for bit; open gates have moved them."""
    x, layout, condition = random(16, 8), Layout.ragged(COUNTS), random(5, 3)
    network = make(4, asleep=True, condition=3, zero=True, skips=2)
    assert network(x, layout, condition).equal(F.layer_norm(x, (8,)))
    h = random(3, 5, 8)
    for layer in network.layers:
        assert layer(h, random(3, 1, 3), None, None).equal(h)
    open_gates = make(4, asleep=True, condition=3)
    assert (open_gates(x, layout, condition) - F.layer_norm(x, (8,))).abs().max() > 1e-2


def test_zero_gates_have_gradients_that_open_them():
    network = make(2, asleep=True, condition=3, zero=True)
    (network(random(5, 8), Layout.ragged([3, 2]), random(2, 3)) * random(5, 8)).sum().backward()
    gates = [layer.modulation.weight.grad.chunk(6)[k] for layer in network.layers for k in (2, 5)]
    assert all(gate.abs().max() > 1e-6 for gate in gates)


@pytest.mark.parametrize(
    ("layers", "skips", "sources"),
    [(5, 2, [1, 0]), (7, 3, [2, 1, 0]), (7, 2, [3, 0]), (6, 1, [0]), (5, 3, [0, 0, 0])],
)
def test_late_layers_see_early_ones(layers, skips, sources):
    """With all layers the identity but for one edit, a skip brings what the edited layer gave."""
    network = make(layers, asleep=True, condition=3, zero=True, skips=skips)
    h, places = random(1, 4, 8), grid((4,))
    seen = []
    for skip in network.skips:
        skip.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    edits = {f"layers.{k}": (lambda out, k=k: out + 10**k) for k in range(layers - skips)}
    with editing(network, edits):
        network.dense(h, random(1, 1, 3), places)
    found = [round(float((early - h).detach().mean())) for early in seen]
    assert found == [sum(10**k for k in range(source + 1)) for source in sources]


def test_a_skip_is_a_layer_of_both():
    """Without its second half the network is another; a fresh one adds nothing."""
    network, layout, x = make(5, skips=2), Layout.ragged(COUNTS), random(16, 8)
    for skip in network.skips:
        skip.join.weight.data[:, 8:] = random(8, 8, seed=3)
    used = network(x, layout)
    for skip in network.skips:
        skip.join.weight.data[:, 8:] = 0
    assert (network(x, layout) - used).abs().max() > 1e-2
    torch.manual_seed(0)
    fresh, plain = Transformer(8, 5, 2, skips=2).double(), Transformer(8, 5, 2).double()
    plain.load_state_dict(fresh.state_dict(), strict=False)
    torch.testing.assert_close(fresh(x, layout), plain(x, layout), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"condition": 3, "zero": True, "skips": 2}])
def test_layers_computed_again_have_the_same_gradients(settings):
    x, layout = random(16, 8), Layout.ragged(COUNTS)
    condition = random(5, 3) if settings else None
    gradients = []
    for again in (False, True):
        network = make(5, checkpointing=again, **settings)
        network(x, layout, condition).square().sum().mul(random(1)[0]).backward()
        (network(x, layout, condition) * random(16, 8, seed=5)).sum().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-12, atol=1e-12)


def test_layers_computed_again_are_called_twice():
    network, calls = make(2, checkpointing=True), []
    network.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    out = network(random(5, 8), Layout.ragged([3, 2]))
    assert len(calls) == 1
    out.square().sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        network(random(5, 8), Layout.ragged([3, 2]))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"axes": 3}, "axes must be between 0 and 2, a pair of a head's entries for each, got 3"),
        ({"axes": -1}, "axes must be between 0 and 2, .* got -1"),
        ({"zero": True}, "gates that are zero at first need a condition to open"),
        ({"skips": 2}, "skips must be at most 1 for 3 layers, got 2"),
        ({"skips": -1}, "skips must be at most 1 for 3 layers, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Transformer(8, 3, 2, **settings)


def test_places_that_do_not_fit_are_refused():
    x, layout = torch.zeros(5, 8), Layout.ragged([3, 2])
    with pytest.raises(ValueError, match="places must have 2 axes, got 1: give the positions"):
        Transformer(8, 1, 2, axes=2)(x, layout)
    with pytest.raises(ValueError, match="places must be at least 3, .* got 2"):
        Transformer(8, 1, 2)(x, layout, places=grid((2,)))
