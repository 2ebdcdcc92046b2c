"""Pairs and what is summed over them, against loops and finite differences."""

import itertools
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.graph_networks import GraphKind, graph_network
from structdiff.nn.pair_messages import antisymmetric_sum, edge_messages, gaps, gaussian_basis
from structdiff.nn.pairs import Pairs

COUNTS = [[3, 1, 4], [1], [], [0, 2, 0], [5], [2, 2, 2]]


def brute(counts):
    start, pairs = 0, []
    for count in counts:
        pairs += itertools.combinations(range(start, start + count), 2)
        start += count
    return pairs


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("counts", COUNTS)
def test_complete_is_the_loop_over_all_pairs(counts):
    pairs = Pairs.complete(Layout.ragged(counts))
    found = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found == brute(counts)
    assert pairs.rows == sum(counts)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("bucket", [None, (4, 8)])
def test_lists_of_ends_and_edges_agree_with_the_pairs(counts, bucket):
    pairs = Pairs.complete(Layout.ragged(counts), bucket=bucket)
    assert (
        pairs.ends.reshape(-1, 2).tolist() == torch.stack([pairs.first, pairs.second], 1).tolist()
    )
    assert pairs.edge_starts.tolist() == list(range(0, 2 * len(pairs.first), 2))
    ends = [*pairs.row_starts.tolist()[1:], len(pairs.edges_of)] if pairs.rows else []
    for row, (low, high) in enumerate(zip(pairs.row_starts.tolist(), ends, strict=True)):
        touching = [
            e
            for e, both in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
            for end in both
            if end == row
        ]
        assert pairs.edges_of[low:high].tolist() == touching


@pytest.mark.parametrize("counts", COUNTS)
def test_a_bucket_adds_spare_rows_and_edges_that_touch_no_other(counts):
    plain = Pairs.complete(Layout.ragged(counts))
    padded = Pairs.complete(Layout.ragged(counts), bucket=(4, 8))
    edges = len(plain.first)
    assert padded.rows % 4 == 0
    assert padded.rows > sum(counts)
    assert len(padded.first) % 8 == 0
    assert padded.first[:edges].tolist() == plain.first.tolist()
    assert padded.second[:edges].tolist() == plain.second.tolist()
    assert (padded.first[edges:] == sum(counts)).all()
    assert (padded.second[edges:] == sum(counts)).all()


def formula(r, a, b, weight, pairs):
    """Edge messages as a loop over edges."""
    total, gated = torch.zeros_like(a), torch.zeros_like(a)
    messages = []
    for e, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        u = F.silu(r[e] + a[i] + a[j])
        hot = F.one_hot(torch.tensor([i, j]), len(a)).to(a).sum(0)[:, None]
        total, gated = total + hot * u, gated + hot * (u * (b[i] + b[j]))
        messages.append(u)
    u = torch.stack(messages)
    return total, gated, r + u @ weight.t(), u


@pytest.fixture
def inputs():
    pairs = Pairs.complete(Layout.ragged([3, 1, 2]))
    edges, rows, width = len(pairs.first), pairs.rows, 3
    shapes = (edges, width), (rows, width), (rows, width), (width, width)
    return [random(*shape, seed=k).requires_grad_() for k, shape in enumerate(shapes)], pairs


def test_edge_messages_are_the_loop(inputs):
    tensors, pairs = inputs
    for fast, slow in zip(edge_messages(*tensors, pairs), formula(*tensors, pairs), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


def test_edge_messages_pass_gradcheck(inputs):
    tensors, pairs = inputs
    assert torch.autograd.gradcheck(lambda *x: edge_messages(*x, pairs), tensors)


@pytest.mark.parametrize("used", [(0,), (2,), (3,), (0, 1, 3)])
def test_gradients_are_right_when_some_results_are_unused(inputs, used):
    """The last layer's next edge features go nowhere."""
    tensors, pairs = inputs
    grads = []
    for function in (edge_messages, formula):
        results = function(*tensors, pairs)
        loss = sum(results[k].mul(random(*results[k].shape, seed=9)).sum() for k in used)
        grads.append(torch.autograd.grad(loss, tensors, allow_unused=True))
    for fast, slow, x in zip(*grads, tensors, strict=True):
        zero = torch.zeros_like(x)
        expected = zero if slow is None else slow
        torch.testing.assert_close(
            zero if fast is None else fast, expected, rtol=1e-10, atol=1e-12
        )


def test_edge_messages_change_no_argument(inputs):
    tensors, pairs = inputs
    before = [x.detach().clone() for x in tensors]
    results = edge_messages(*tensors, pairs)
    kept = [x.detach().clone() for x in results]
    downstream = [random(*x.shape, seed=5) for x in results]
    given = [x.clone() for x in downstream]
    torch.autograd.backward(results, downstream)
    for now, old in zip([*tensors, *results, *downstream], [*before, *kept, *given], strict=True):
        assert torch.equal(now, old)


def test_antisymmetric_sum_is_the_loop_and_sums_to_zero():
    pairs = Pairs.complete(Layout.ragged([3, 1, 4]))
    x = random(len(pairs.first), 3).requires_grad_()
    expected = torch.zeros(8, 3, dtype=torch.float64)
    for e, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        expected[i] += x[e].detach()
        expected[j] -= x[e].detach()
    total = antisymmetric_sum(x, pairs)
    torch.testing.assert_close(total.detach(), expected, rtol=1e-12, atol=1e-12)
    assert total.detach()[:3].sum(0).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda y: antisymmetric_sum(y, pairs), x)


def test_gaps_are_differences_and_transposed_antisymmetric_sums():
    pairs = Pairs.complete(Layout.ragged([3, 1, 4]), bucket=(4, 8))
    x = random(pairs.rows, 3).requires_grad_()
    expected = x.detach()[pairs.first] - x.detach()[pairs.second]
    assert torch.equal(gaps(x, pairs).detach(), expected)
    assert torch.autograd.gradcheck(lambda y: gaps(y, pairs), x)
    y = random(len(pairs.first), 3, seed=1)
    forth, back = (gaps(x, pairs) * y).sum(), (x * antisymmetric_sum(y, pairs)).sum()
    torch.testing.assert_close(forth, back, rtol=1e-12, atol=1e-12)


def test_the_last_layer_has_no_next_features_and_the_same_gradients(inputs):
    (r, a, b, weight), pairs = inputs
    grads = []
    for chosen in (weight, None):
        total, gated, after, u = edge_messages(r, a, b, chosen, pairs)
        loss = total.square().sum() + gated.sum() + u.exp().sum()
        grads.append(torch.autograd.grad(loss, (r, a, b)))
    assert after.numel() == 0
    for known, found in zip(*grads, strict=True):
        torch.testing.assert_close(known, found, rtol=1e-12, atol=1e-12)


def test_gaussian_basis_is_its_formula_and_passes_gradcheck():
    centres = torch.linspace(-1, 2, 7, dtype=torch.float64)
    x = random(5, 1).requires_grad_()
    value = gaussian_basis(x, centres, 0.5, torch.float64)
    expected = [
        [float(torch.exp(-(((p - c) / 0.5) ** 2) / 2)) for c in centres] for p in x.detach()
    ]
    torch.testing.assert_close(value.detach(), torch.tensor(expected, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda y: gaussian_basis(y, centres, 0.5, torch.float64), x)


def test_a_radius_joins_no_two_samples():
    """Two samples at the same places: a pair of them would be as near as can be."""
    position = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [3.0, 0, 0]]).repeat(3, 1)
    pairs = Pairs.within(position, Layout.ragged([3, 3, 3]), 1.0)
    assert torch.stack([pairs.first, pairs.second]).T.tolist() == [[0, 1], [3, 4], [6, 7]]


def test_edges_of_torch_geometric_become_pairs():
    edges = torch.tensor([[1, 0, 4, 2], [0, 1, 3, 0]])
    pairs = Pairs.from_edge_index(edges, 5)
    assert torch.stack([pairs.first, pairs.second]).T.tolist() == [[0, 1], [0, 2], [3, 4]]
    both = {tuple(edge) for edge in pairs.edge_index.T.tolist()}
    assert both == {(0, 1), (1, 0), (0, 2), (2, 0), (3, 4), (4, 3)}
    for wrong, says in (([[0], [0]], "to itself"), ([[0], [5]], "within 0 to 4")):
        with pytest.raises(ValueError, match=says):
            Pairs.from_edge_index(torch.tensor(wrong), 5)
    with pytest.raises(ValueError, match="radius must be positive"):
        Pairs.within(torch.zeros(2, 3), Layout.ragged([2]), 0.0)


@pytest.mark.parametrize("kind", get_args(GraphKind))
def test_second_derivatives_of_written_out_networks_are_refused(kind):
    torch.manual_seed(0)
    network = graph_network(kind, 3, 2, layers=2, width=8, hidden=8, basis=6)
    features = torch.randn(4, 3, requires_grad=True)
    out = network(features, torch.randn(4, 3), Layout.ragged([4])).features
    (slope,) = torch.autograd.grad(out.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()
