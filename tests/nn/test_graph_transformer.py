"""The graph transformer: its attention against dense tensors, its symmetries, what sees what."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.domains.molecules.bonding import bonds
from structdiff.domains.molecules.data import embedded
from structdiff.layout import Layout
from structdiff.nn.graph_attention import pair_attention, pair_values
from structdiff.nn.graph_transformer import GraphTransformer, State
from structdiff.nn.pairs import Pairs
from structdiff.testing.symmetry import check_equivariance

COUNTS = [5, 2, 1, 0, 8]
ROWS, PAIRS = 16, 39


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def make(dtype=torch.float64, **settings):
    torch.manual_seed(0)
    chosen = {"layers": 3, "width": 8, "hidden": 12, "heads": 2, "basis": 10} | settings
    return GraphTransformer(4, 3, pair_inputs=2, pair_outputs=5, **chosen).to(dtype)


def inputs(dtype=torch.float64):
    known = random(PAIRS, 2, seed=2, dtype=dtype)
    return random(ROWS, 4, dtype=dtype), 2 * random(ROWS, 3, seed=1, dtype=dtype), known


def sparse(layout):
    """Some of the pairs: two in three, and none of row 0."""
    nodes = Layout.pairs(layout).nodes
    kept = (torch.arange(nodes.shape[1]) % 3 != 0) & (nodes[0] != 0)
    return Pairs.from_edge_index(nodes[:, kept], layout.rows), kept


@pytest.fixture
def layout():
    return Layout.ragged(COUNTS)


def dense(x, pairs):
    """Features of pairs as a symmetric tensor (rows, rows, *), and where there is a pair."""
    table = x.new_zeros(pairs.rows, pairs.rows, *x.shape[1:])
    table = table.index_put((pairs.first, pairs.second), x)
    there = torch.zeros(pairs.rows, pairs.rows, dtype=torch.bool)
    there[pairs.first, pairs.second] = True
    return table + table.transpose(0, 1), there | there.T


def dense_attention(q, k, value, change, pairs, heads):
    """The same attention on (rows, rows, heads, channels), with -inf where there is no pair."""
    (v, there), (c, _) = dense(value, pairs), dense(change, pairs)
    split = (pairs.rows, heads, q.shape[1] // heads)
    dots = torch.einsum("ihc,jhc->ijh", q.reshape(split), k.reshape(split))
    s = (1 + c[..., :heads]) * dots + c[..., heads:]
    a = s.masked_fill(~there.unsqueeze(2), -torch.inf).softmax(1)
    a = torch.where(there.any(1)[:, None, None], a, 0.0)
    return torch.einsum("ijh,ijhc->ihc", a, v.unflatten(2, split[1:])).flatten(1)


@pytest.mark.parametrize("heads", [1, 2, 6])
@pytest.mark.parametrize("complete", [True, False])
def test_attention_is_the_dense_one_with_its_gradients(layout, heads, complete):
    pairs = Pairs.complete(layout) if complete else sparse(layout)[0]
    edges = len(pairs.first)
    shapes = [(ROWS, 6), (ROWS, 6), (edges, 6), (edges, 2 * heads)]
    given = [random(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    found = pair_attention(*given, pairs, heads)
    want = dense_attention(*given, pairs, heads)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    d = random(ROWS, 6, seed=9)
    slopes = zip(
        torch.autograd.grad(found, given, d), torch.autograd.grad(want, given, d), strict=True
    )
    for ours, theirs in slopes:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_attention_of_scores_beyond_the_range_of_exp_is_the_largest_alone(layout):
    pairs = Pairs.complete(layout)
    value, change = random(PAIRS, 6), 1e6 * random(PAIRS, 4, seed=1)
    zero = torch.zeros(ROWS, 6, dtype=torch.float64)
    found = pair_attention(zero, zero, value, change.requires_grad_(), pairs, 2)
    found.sum().backward()
    assert change.grad.isfinite().all()
    (v, there), (c, _) = dense(value, pairs), dense(change, pairs)
    best = c[..., 2:].masked_fill(~there.unsqueeze(2), -torch.inf).argmax(1)
    for row in [*range(7), *range(8, 16)]:
        want = torch.cat([v[row, best[row, h], 3 * h : 3 * h + 3] for h in range(2)])
        torch.testing.assert_close(found[row], want, rtol=1e-10, atol=1e-10)
    assert not found[7].any()


def test_values_and_their_sums_are_the_plain_formulas_with_their_gradients(layout):
    pairs = Pairs.complete(layout)
    shapes = [(PAIRS, 6), (ROWS, 6), (ROWS, 6), (3, 6), (6, 6)]
    given = [random(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]

    def plain(r, a, b, heard, turn):
        u = F.silu(r + a[pairs.first] + a[pairs.second])
        total = sum(
            u.new_zeros(ROWS, 6).index_add(0, end, u) for end in (pairs.first, pairs.second)
        )
        return total, u * (b[pairs.first] + b[pairs.second]), u @ heard.T, r + u @ turn.T, u

    found, want = pair_values(*given, pairs), plain(*given)
    for ours, theirs in zip(found, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    d = [random(*x.shape, seed=9 + n) for n, x in enumerate(want)]
    slopes = zip(
        torch.autograd.grad(found, given, d), torch.autograd.grad(want, given, d), strict=True
    )
    for ours, theirs in slopes:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_layer_is_its_formula_on_dense_tensors():
    """The update of h, r, g and the scalar of the moves, for one sample of (n, n) pairs."""
    layout, layer = Layout.ragged([5]), make().layers[0]
    pairs = Pairs.complete(layout)
    h, r, g = random(5, 12), random(10, 8, seed=1), random(1, 8, seed=2)
    found, move, _ = layer(State(h, r, g), pairs, layout, h.dtype)
    normed, whole = F.layer_norm(h, (12,)), F.layer_norm(g, (8,))
    a, b, q, k, own = (layer.rows(normed) + layer.whole(whole)).split([8, 8, 8, 8, 12], 1)
    full, there = dense(r, pairs)
    u = F.silu(full + a[:, None] + a[None]) * there.unsqueeze(2)
    heard = torch.cat([layer.scores(u), layer.move(u)], -1)
    dots = torch.einsum("ihc,jhc->ijh", q.view(5, 2, 4), k.view(5, 2, 4)) / 2
    s = dots * (1 + heard[..., :2]) + heard[..., 2:4]
    weights = s.masked_fill(~there.unsqueeze(2), -torch.inf).softmax(1).repeat_interleave(4, 2)
    out = (weights * u * (b[:, None] + b[None])).sum(1)
    gathered = layer.gathered(torch.cat([u.sum(1) / 4, out], 1))
    rows = h + layer.update(F.silu(own + gathered))
    torch.testing.assert_close(found.rows, rows, rtol=1e-10, atol=1e-10)
    turned = (full + u @ layer.turn.weight.T)[pairs.first, pairs.second]
    torch.testing.assert_close(found.pairs, turned, rtol=1e-10, atol=1e-10)
    seen = torch.cat([whole, normed.mean(0, keepdim=True), u.sum((0, 1))[None] / 20], 1)
    samples = g + layer.global_update(F.silu(layer.pooled(seen)))
    torch.testing.assert_close(found.samples, samples, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(move, heard[pairs.first, pairs.second, 4:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", ["E(3)", "S_n"])
@pytest.mark.parametrize("every", [1, 2])
def test_rows_pairs_and_vectors_are_equivariant(dtype, group, every, layout):
    """Rotation, reflection, translation, and permutations that carry the pairs with them."""
    features, position, known = inputs(dtype)
    leaves = {"features": features, "position": position, "pairs": known}
    layouts = {"features": layout, "position": layout, "pairs": Layout.pairs(layout)}
    check_equivariance(make(dtype, every=every), group, Batch(leaves, layouts))


def test_moves_sum_to_zero_in_each_sample(layout):
    features, position, known = inputs()
    vector = make()(features, position, layout, pair_features=known).vector
    assert vector.abs().max() > 1e-2
    assert layout.sum(vector).abs().max() < 1e-12


def test_a_sample_alone_is_what_it_is_in_a_batch(layout):
    network, (features, position, known) = make(), inputs()
    together = network(features, position, layout, pair_features=known)
    row = pair = 0
    for count in COUNTS:
        rows, edges = slice(row, row + count), slice(pair, pair + count * (count - 1) // 2)
        one = Layout.ragged([count])
        alone = network(features[rows], position[rows], one, pair_features=known[edges])
        for ours, theirs, part in zip(alone, together, (rows, rows, edges), strict=True):
            torch.testing.assert_close(ours, theirs[part], rtol=1e-12, atol=1e-12)
        row, pair = rows.stop, edges.stop


def test_pairs_are_the_same_whichever_end_is_named_first(layout):
    """All pairs given with their ends exchanged, or in another order, say what they said."""
    network, (features, position, known) = make(), inputs()
    want = network(features, position, layout, pair_features=known)
    first, second = Layout.pairs(layout).nodes.numpy()
    swap = np.arange(PAIRS) % 2 == 0
    order = np.random.default_rng(0).permutation(PAIRS)
    ends = np.where(swap, second, first)[order], np.where(swap, first, second)[order]
    pairs = Pairs.of(*ends, ROWS, position.device)
    found = network(features, position, layout, pairs=pairs, pair_features=known[order])
    for ours, theirs in zip(found, want._replace(pairs=want.pairs[order]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def changed(network, layout, pairs, known, row):
    """Which rows' features and vectors notice other features of one row."""
    features, position, _ = inputs()
    other = features.clone()
    other[row] += 1
    plain, found = (
        network(x, position, layout, pairs=pairs, pair_features=known) for x in (features, other)
    )
    return tuple(
        ((ours - theirs).abs().amax(1) > 1e-7).tolist()
        for ours, theirs in zip(found[:2], plain[:2], strict=True)
    )


def test_one_atom_changes_all_of_its_sample_and_nothing_else_even_without_pairs(layout):
    """Without pairs what one row knows can reach the others through the sample only."""
    none = Pairs.from_edge_index(torch.zeros(2, 0, dtype=torch.int64), ROWS)
    features, _ = changed(make(), layout, none, torch.zeros(0, 2, dtype=torch.float64), 0)
    assert features == [True] * 5 + [False] * 11
    pairs, kept = sparse(layout)  # row 0 has no pair
    features, vector = changed(make(), layout, pairs, inputs()[2][kept], 0)
    assert features == [True] * 5 + [False] * 11
    assert vector == [False] + [True] * 4 + [False] * 11


def test_a_noisy_bond_changes_all_bonds_of_its_sample_and_no_other(layout):
    network, (features, position, known) = make(), inputs()
    want = network(features, position, layout, pair_features=known)
    known = known.clone()
    known[0] += 1
    found = network(features, position, layout, pair_features=known)
    noticed = (found.pairs - want.pairs).abs().amax(1) > 1e-7
    assert noticed.tolist() == [True] * 10 + [False] * 29


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("counts", [[1], [], [0, 1], [1, 0, 1]])
def test_samples_without_pairs_do_not_move(counts, low):
    network, layout = make(torch.float32), Layout.ragged(counts)
    position = torch.zeros(layout.rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        features, vector, pairs = network(
            torch.ones(layout.rows, 4), position, layout, pair_features=torch.zeros(0, 2)
        )
    assert features.shape == (layout.rows, 3)
    assert pairs.shape == (0, 5)
    assert vector.tolist() == [[0.0] * 3] * layout.rows
    (features.sum() + vector.sum() + pairs.sum()).backward()
    assert position.grad.tolist() == [[0.0] * 3] * layout.rows
    if counts == [1, 0, 1]:
        torch.testing.assert_close(features[0], features[1], rtol=0, atol=0)


def test_coincident_atoms_have_finite_values_and_gradients():
    network, layout = make(torch.float32), Layout.ragged([3])
    position = torch.zeros(3, 3, requires_grad=True)
    out = network(torch.ones(3, 4), position, layout, pair_features=torch.zeros(3, 2))
    assert out.vector.abs().max() < 1e-6  # no direction between them
    sum(part.sum() for part in out).backward()
    assert position.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_gradients_are_those_of_finite_differences():
    network, layout = make(layers=2, width=4, hidden=4), Layout.ragged([3, 1])
    features, position, known = random(4, 4), random(4, 3, seed=1), random(3, 2, seed=2)

    def ask(f, x, p):
        return tuple(network(f, x, layout, pair_features=p))

    given = [x.requires_grad_() for x in (features, position, known)]
    assert torch.autograd.gradcheck(ask, given, fast_mode=True)


def test_bfloat16_is_close_to_float32_and_spare_rows_change_nothing(layout, monkeypatch):
    network, (features, position, known) = make(torch.float32), inputs(torch.float32)
    plain = network(features, position, layout, pair_features=known)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(features, position, layout, pair_features=known)
    for ours, theirs in zip(low, plain, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).norm() < 0.03 * theirs.norm()
    complete = Pairs.complete
    monkeypatch.setattr(Pairs, "complete", lambda x, bucket=None: complete(x, bucket=(32, 64)))
    network, (features, position, known) = make(), inputs()
    padded = network(features, position, layout, pair_features=known)
    for ours, theirs in zip(padded, plain, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight(layout):
    network, (features, position, known) = make(), inputs()
    out = network(features, position, layout, pair_features=known)
    sum(part.square().sum() for part in out).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_bad_input_is_refused(layout):
    with pytest.raises(ValueError, match="width must be a multiple of heads, got width = 6"):
        GraphTransformer(1, 1, width=6, heads=4)
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        GraphTransformer(1, 1, layers=0)
    features, position, known = inputs()
    with pytest.raises(ValueError, match="pair_features must be"):
        make()(features, position, layout, pair_features=known[:-1])


def molecules(data, index):
    """Elements, positions and bond orders of all pairs of some molecules."""
    part = data.select(index)
    layout = Layout.ragged(part.count.tolist())
    known, first = bonds(part), Layout.pairs(layout).nodes
    place = first[0] * layout.rows + first[1]
    bonded = torch.from_numpy(np.sort(known.pair, 0))
    order = torch.zeros_like(place)
    order[torch.searchsorted(place, bonded[0] * layout.rows + bonded[1])] = torch.from_numpy(
        known.order
    )
    number = torch.from_numpy(np.asarray(part.number, np.int64))
    element = F.one_hot(torch.searchsorted(torch.tensor([1, 6, 7, 8, 9]), number), 5).float()
    return element, torch.from_numpy(np.asarray(part.position, np.float32)), layout, order


def test_learns_the_bonds_of_molecules_from_their_atoms():
    """Of molecules that it has not seen, from clean positions and elements."""
    torch.manual_seed(0)
    network = GraphTransformer(5, 1, pair_outputs=4, layers=2, width=32, hidden=32, heads=4)
    data, steps, draw = embedded(), 100, np.random.default_rng(0)
    optimizer = torch.optim.Adam(network.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    for _ in range(steps):
        *atoms, order = molecules(data, draw.integers(0, 1500, 16))
        loss = F.cross_entropy(network(*atoms).pairs, order, weight=torch.tensor([1.0, 3, 6, 20]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    *atoms, order = molecules(data, np.arange(1500, 1700))
    with torch.no_grad():
        right = network(*atoms).pairs.argmax(1) == order
    recalls = [float(right[order == kind].float().mean()) for kind in range(4)]
    assert right.float().mean() > 0.995
    assert np.mean(recalls) > 0.98
