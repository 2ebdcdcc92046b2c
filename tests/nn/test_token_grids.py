"""Codes of images: rows whose places are those of a grid."""

import math

import pytest
import torch

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn import TokenNetwork
from structdiff.nn.attention import grid as places_of
from tests.nn.networks import awake

CLOCK = {"token": torch.tensor(0.4).double()}


def make(grid=(3, 4), **settings):
    torch.manual_seed(0)
    chosen = {"width": 16, "layers": 2, "heads": 2, "grid": grid} | settings
    return awake(TokenNetwork(6, 5, **chosen))


def batch_of(samples, rows):
    code = torch.randint(0, 5, (samples * rows,), generator=torch.Generator().manual_seed(0))
    return Batch({"token": code}, {"token": Layout.ragged([rows] * samples)})


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("grid", "near", "radius"),
    [((3, 4), 8, 2), ((4, 5), 12, 4), ((2, 5), 4, 1), ((2, 2, 3), 6, 1)],
)
def test_near_symbols_are_those_within_a_radius(grid, near, radius, causal):
    """Against a loop over all pairs of places; 6 stands for the places beyond the border."""
    near, rows = near // 2 if causal else near, math.prod(grid)
    network, batch = make(grid, near=near, causal=causal), batch_of(2, rows)
    network.near.table.data = torch.eye(7 * near).double()  # shows which features are looked up
    found = network.near(batch["token"], batch.layouts["token"]).view(2, rows, near, 7)
    codes, places = batch["token"].view(2, rows).tolist(), places_of(grid)
    for sample in range(2):
        for i in range(rows):
            distance = (places - places[i]).square().sum(1).tolist()
            others = range(i) if causal else range(rows)
            seen = [codes[sample][j] for j in others if 0 < distance[j] <= radius]
            seen += [6] * (near - len(seen))
            assert sorted(found[sample, i].argmax(1).tolist()) == sorted(seen)


def test_rows_are_at_the_places_of_the_grid():
    """The same codes on a grid of another shape are another image, with the same weights."""
    batch = batch_of(2, 12)
    square, flat = make((3, 4), near=0), make((2, 6), near=0)
    flat.load_state_dict(square.state_dict())
    change = square(batch, CLOCK, None)["token"] - flat(batch, CLOCK, None)["token"]
    assert change.abs().max() > 1e-3


def test_an_image_alone_is_what_it_is_in_a_batch():
    network, batch = make(), batch_of(3, 12)
    together = network(batch, CLOCK, None)["token"]
    alone = network(batch.select([1]), CLOCK, None)["token"]
    torch.testing.assert_close(alone, together[12:24], rtol=0, atol=1e-12)


def test_a_causal_code_sees_exactly_what_is_before_it():
    network, batch = make(causal=True, near=4), batch_of(1, 12)
    plain = network(batch, CLOCK, None)["token"]
    for j in range(12):
        code = batch["token"].clone()
        code[j] = (code[j] + 1) % 5
        change = network(batch.with_leaves({"token": code}), CLOCK, None)["token"] - plain
        assert (change.abs().amax(1) > 1e-6).tolist() == [i >= j for i in range(12)]


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"samples must have 12 rows, .* \(3, 4\), got 8"):
        make()(batch_of(2, 8), CLOCK, None)


@pytest.mark.parametrize(
    "settings", [{"grid": (3, 0)}, {"grid": ()}, {"grid": (3, 4), "neighbours": 3}]
)
def test_grids_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match="a grid must have positive sizes and no neighbours, got"):
        make(**settings)
