"""Sums of turned and weighted features over directed edges, against the plain formula."""

from __future__ import annotations

import pytest
import torch

from structdiff.layout import Layout
from structdiff.nn.pairs import Pairs
from structdiff.nn.tensor_messages import Edges, turned_sum

GRAPHS = {
    "complete": Pairs.complete(Layout.ragged([3, 1, 2])),
    "sparse": Pairs.from_edge_index(torch.tensor([[0, 1, 3], [4, 3, 4]]), 6),
    "none": Pairs.complete(Layout.ragged([1] * 6)),
}
PATH = torch.tensor([0, 1, 1, 1, 2])


def inputs(pairs, components):
    random = torch.Generator().manual_seed(0)
    shapes = (
        (pairs.rows, components, 2),
        (2 * len(pairs.first), len(PATH), components),
        (len(pairs.first), 3, 2),
    )
    return [
        torch.randn(*shape, generator=random, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("components", [1, 3])
def test_sums_are_those_of_a_loop_over_pairs(graph, components):
    pairs = GRAPHS[graph]
    x, turns, weights = inputs(pairs, components)
    found = turned_sum(x, turns, weights, PATH, Edges.of(pairs))
    want = torch.zeros(pairs.rows, len(PATH), 2, dtype=torch.float64)
    for p, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        want[i] += weights[p, PATH] * (turns[2 * p] @ x[j])
        want[j] += weights[p, PATH] * (turns[2 * p + 1] @ x[i])
    torch.testing.assert_close(found, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("graph", ["complete", "sparse"])
@pytest.mark.parametrize("components", [1, 3])
def test_gradients_are_those_of_differences(graph, components):
    pairs = GRAPHS[graph]
    edges = Edges.of(pairs)
    assert torch.autograd.gradcheck(
        lambda *given: turned_sum(*given, PATH, edges), inputs(pairs, components)
    )
