"""Rows and samples."""

import pytest
import torch

from structdiff import Layout

COUNTS = [3, 0, 1, 4]


def test_ragged_says_where_rows_are() -> None:
    layout = Layout.ragged(COUNTS)
    assert layout.sample.tolist() == [0, 0, 0, 2, 3, 3, 3, 3]
    assert layout.size.tolist() == COUNTS
    assert layout.start.tolist() == [0, 3, 3, 4]
    assert layout.row.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert (layout.samples, layout.rows) == (4, 8)


def test_regular_is_one_row_each() -> None:
    layout = Layout.regular(3)
    assert layout.counts == (1, 1, 1)
    assert layout.sample.tolist() == [0, 1, 2]


def test_sum_mean_and_spread_are_those_of_a_loop() -> None:
    layout = Layout.ragged(COUNTS)
    x = torch.randn(8, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = x.split(COUNTS)
    torch.testing.assert_close(layout.sum(x), torch.stack([part.sum(0) for part in parts]))
    means = [part.sum(0) / max(1, len(part)) for part in parts]
    torch.testing.assert_close(layout.mean(x), torch.stack(means))
    per_sample = torch.arange(4.0)
    assert layout.spread(per_sample).tolist() == [0, 0, 0, 2, 3, 3, 3, 3]


def test_sum_is_the_transpose_of_spread() -> None:
    layout = Layout.ragged(COUNTS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, dtype=torch.float64, generator=generator)
    y = torch.randn(4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(layout.sum(x) @ y, x @ layout.spread(y))


def test_select_takes_the_rows_along() -> None:
    layout = Layout.ragged(COUNTS)
    chosen = torch.tensor([3, 0, 3, 1])
    assert layout.rows_of(chosen).tolist() == [4, 5, 6, 7, 0, 1, 2, 4, 5, 6, 7]
    assert layout.select(chosen).counts == (4, 3, 4, 0)
    assert layout.rows_of(torch.tensor([], dtype=torch.long)).tolist() == []


def test_to_keeps_edges() -> None:
    nodes = torch.tensor([[0, 0], [1, 2]])
    layout = Layout((2,), torch.zeros(2, dtype=torch.long), nodes).to("cpu")
    assert layout.nodes is not None
    assert layout.nodes.tolist() == nodes.tolist()
    assert layout.sample.tolist() == [0, 0]


def test_counts_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="counts must not be negative, got -2"):
        Layout.ragged([1, -2])


def test_edges_over_unknown_nodes_forget_their_ends() -> None:
    edges = Layout((1, 1), torch.arange(2), torch.tensor([[0, 2], [1, 3]]))
    chosen = edges.select(torch.tensor([1]))
    assert chosen.nodes is None
    assert chosen.counts == (1,)


def test_pairs_survive_a_move_and_can_be_selected() -> None:
    moved = Layout.pairs(Layout.ragged([3, 2])).to("cpu")
    chosen = moved.select(torch.tensor([1, 0]))
    assert chosen.nodes is not None
    assert chosen.nodes.tolist() == [[0, 2, 2, 3], [1, 3, 4, 4]]
