"""PaiNN: its formula edge by edge, its symmetries, and hands that a chiral one tells apart."""

import math

import pytest
import torch
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn.painn import PaiNN
from structdiff.nn.pairs import Pairs
from structdiff.testing.symmetry import check_equivariance

COUNTS = [5, 2, 1, 8]
ROWS = sum(COUNTS)
CORNERS = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]).double()
MIRROR = [1, 0, 2]  # swaps x and y, so the second and third corner


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def make(dtype=torch.float64, inputs=4, **settings):
    torch.manual_seed(0)
    chosen = {"layers": 3, "width": 6, "hidden": 10, "basis": 9} | settings
    return PaiNN(inputs, 3, **chosen).to(dtype)


@pytest.fixture
def layout():
    return Layout.ragged(COUNTS)


def naive(network, features, x, pairs, known):
    """The formulas edge by edge, with vectors `(rows, channels, 3)`, and autograd throughout."""

    def add(m):
        return m.new_zeros(len(x), *m.shape[1:]).index_add(0, i, m)

    def normed(h):
        return F.layer_norm(h, h.shape[1:])

    def tamed(v):
        return v / (0.1 + v.norm(dim=2, keepdim=True).square().mean(1, keepdim=True)).sqrt()

    i, j = pairs.target, pairs.source
    gap = x[i] - x[j]
    length = (gap.square().sum(1, keepdim=True) + 1e-8).sqrt()
    place = ((length + 0.1).log() - network.centres.to(x)) / network.spacing
    near = torch.ones_like(length)
    if network.cutoff is not None:
        near = torch.cos(math.pi / 2 * (length / network.cutoff).clamp(max=1)).square()
    seen = (
        torch.cat([(-place.square() / 2).exp(), near.new_ones(len(i), 1), pairs.both(known)], 1)
        * near
    )
    direction = (gap / (length + 1)).unsqueeze(1)
    share = 1 / (1 + add(near)).sqrt()
    h, v = network.enter(features), x.new_zeros(len(x), network.width, 3)
    for message, update in zip(network.messages, network.updates, strict=True):
        a, b, c = message.say(normed(h)).split(message.sizes, 1)
        f, g, k = (seen @ message.filter.T).split(message.sizes, 1)
        said = b.unsqueeze(2) * tamed(v)
        along = (k * (c[i] + c[j])).unsqueeze(2) * direction
        h = h + share * add(f * (a[i] + a[j]))
        v = v + share.unsqueeze(2) * add(g.unsqueeze(2) * (said[i] + said[j]) + along)
        q = tamed(v)
        left = torch.einsum("of,nfc->noc", update.left.weight, q)
        right = torch.einsum("of,nfc->noc", update.right.weight, q)
        known_of_row = [
            normed(h),
            (right.square().sum(2) + 1e-6).sqrt(),
            (left * right).sum(2),
        ]
        cross = torch.linalg.cross(left, right)
        if update.chiral:
            known_of_row.append(torch.linalg.det(torch.stack([q, left, right], 3)))
        move, *gates = update.mix(torch.cat(known_of_row, 1)).split(update.sizes, 1)
        h = h + move
        for gate, turned in zip(gates, [left, cross], strict=False):
            v = v + gate.unsqueeze(2) * turned
    vector = (network.gate(normed(h)).unsqueeze(2) * v).sum(1)
    first, second, q = pairs.first, pairs.second, tamed(v)
    of_pairs = network.pair(pairs.joined(seen)) + (q[first] * q[second]).sum(2)
    head, rows = network.told, normed(h)
    ends = head.rows(rows)[first] + head.rows(rows)[second]
    told = head.out(F.silu(ends + head.pairs(of_pairs)))
    return network.leave(rows), vector, told


@pytest.mark.parametrize("chiral", [False, True])
@pytest.mark.parametrize("cutoff", [None, 3.5])
def test_the_bags_are_the_formula_edge_by_edge_and_so_are_their_gradients(chiral, cutoff, layout):
    network = make(pair_inputs=2, pair_outputs=3, chiral=chiral, cutoff=cutoff)
    position = 2 * random(ROWS, 3, seed=1)
    pairs = Pairs.within(position, layout, cutoff) if cutoff else Pairs.complete(layout)
    assert len(pairs.first) > 0
    given = (
        random(ROWS, 4).requires_grad_(),
        position.requires_grad_(),
        random(len(pairs.first), 2, seed=2).requires_grad_(),
    )
    leaves = [*given, *network.parameters()]
    found = network(given[0], given[1], layout, pairs=pairs, pair_features=given[2])
    want = naive(network, given[0], given[1], pairs, given[2])
    toward = [random(*x.shape, seed=5) for x in want]
    gradients = [
        torch.autograd.grad(sum((a * b).sum() for a, b in zip(x, toward, strict=True)), leaves)
        for x in (found, want)
    ]
    for one, other in zip([*found, *gradients[0]], [*want, *gradients[1]], strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def record(dtype, counts=COUNTS):
    rows = Layout.ragged(counts)
    pairs = Layout.pairs(rows)
    leaves = {
        "features": random(rows.rows, 4, dtype=dtype),
        "position": 2 * random(rows.rows, 3, seed=1, dtype=dtype),
        "pairs": random(pairs.rows, 2, seed=2, dtype=dtype),
    }
    return Batch(leaves, {"features": rows, "position": rows, "pairs": pairs})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cutoff", [None, 4.0])
def test_is_equivariant_under_rotations_reflections_translations_and_permutations(dtype, cutoff):
    network = make(dtype, pair_inputs=2, pair_outputs=3, cutoff=cutoff)
    for group in ("E(3)", "S_n"):
        check_equivariance(network, group, record(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chiral_one_is_equivariant_under_rotations_but_not_under_reflections(dtype):
    network = make(dtype, pair_inputs=2, pair_outputs=3, chiral=True)
    for group in ("SE(3)", "S_n"):
        check_equivariance(network, group, record(dtype))
    with pytest.raises(AssertionError, match="reflection"):
        check_equivariance(network, "O(3)", record(dtype), tolerance=1e-3)


def turned(x, seed):
    """By a random rotation."""
    turn, _ = torch.linalg.qr(random(3, 3, seed=seed))
    return x @ (turn * torch.linalg.det(turn)).T


def hands(kinds):
    """Features and positions of a carbon with four neighbours, and of its mirror image, turned."""
    features = F.one_hot(torch.tensor([0, *kinds]), 5).double()
    position = torch.cat([torch.zeros(1, 3).double(), 1.2 * CORNERS])
    return features, turned(position, 1), turned(position[:, MIRROR], 2)


@pytest.mark.parametrize("chiral", [False, True])
def test_mirror_images_differ_only_if_the_molecule_and_the_network_are_chiral(chiral):
    """CHFClBr and its mirror image; CHF2Cl, whose image is itself with the two F changed round."""
    network, layout = make(inputs=5, chiral=chiral), Layout.ragged([5])
    features, left, right = hands([1, 2, 3, 4])
    one, other = (network(features, x, layout).features for x in (left, right))
    assert ((one - other).abs().max() > 1e-2) == chiral
    if not chiral:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    features, left, right = hands([1, 2, 2, 3])
    one, other = (network(features, x, layout).features for x in (left, right))
    torch.testing.assert_close(one, other[[0, 1, 3, 2, 4]], rtol=1e-10, atol=1e-10)


def test_a_chiral_one_learns_to_tell_left_from_right():
    """Of a molecule that it sees with other noise each time; the other kind has equal answers."""
    network = make(torch.float32, inputs=5, chiral=True, layers=2, width=16, hidden=16)
    features, left, right = (x.float() for x in hands([1, 2, 3, 4]))
    layout, target = Layout.ragged([5] * 32), torch.arange(2.0).repeat_interleave(16)

    def answers(seed):
        noise = 0.1 * random(16, 5, 3, seed=seed, dtype=torch.float32)
        position = torch.cat([left + noise, right + noise]).flatten(0, 1)
        return layout.sum(network(features.repeat(32, 1), position, layout).features[:, 0])

    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(90):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(answers(step), target).backward()
        optimiser.step()
    with torch.no_grad():
        assert ((answers(1000) > 0) == (target > 0.5)).all()


def test_vectors_are_not_small_at_initialisation(layout):
    """So that a denoiser moves from its first step."""
    network = PaiNN(4, 3, layers=9)
    vector = network(random(ROWS, 4).float(), 2 * random(ROWS, 3, seed=1).float(), layout).vector
    assert 0.05 < vector[layout.size[layout.sample] > 1].std() < 5


@pytest.mark.parametrize("chiral", [False, True])
def test_a_sample_alone_is_what_it_is_in_a_batch(layout, chiral):
    network = make(pair_outputs=2, chiral=chiral)
    features, position = random(ROWS, 4), random(ROWS, 3, seed=1)
    together = network(features, position, layout)
    start, edge = 0, 0
    for count in COUNTS:
        rows, edges = slice(start, start + count), slice(edge, edge + count * (count - 1) // 2)
        alone = network(features[rows], position[rows], Layout.ragged([count]))
        for one, all_, part in zip(alone, together, (rows, rows, edges), strict=True):
            torch.testing.assert_close(one, all_[part], rtol=1e-12, atol=1e-12)
        start, edge = rows.stop, edges.stop


def test_parts_of_a_disconnected_graph_do_not_hear_each_other():
    network, layout = make(pair_outputs=2), Layout.ragged([7])
    features, position = random(7, 4), random(7, 3, seed=1)
    two = Pairs.from_edge_index(torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]]), 7)
    both = network(features, position, layout, pairs=two)
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        alone = network(features[rows], position[rows], Layout.ragged([rows.stop - rows.start]))
        torch.testing.assert_close(both.features[rows], alone.features, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(both.vector[rows], alone.vector, rtol=1e-12, atol=1e-12)
    assert both.vector[6].tolist() == [0.0] * 3


@pytest.mark.parametrize("cutoff", [None, 2.0])
def test_outputs_jump_where_an_atom_enters_the_radius_unless_there_is_a_cutoff(cutoff):
    network, layout = make(cutoff=cutoff), Layout.ragged([3])

    def outputs(length):
        position = torch.tensor([[0.0, 0, 0], [1, 0.3, 0], [-length, 0, 0]]).double()
        pairs = Pairs.within(position, layout, 2.0)
        return len(pairs.first), *network(random(3, 4), position, layout, pairs=pairs)[:2]

    (more, *inside), (fewer, *outside) = outputs(2 - 1e-6), outputs(2 + 1e-6)
    assert (more, fewer) == (2, 1)
    for a, b in zip(inside, outside, strict=True):
        assert ((a - b).abs().max() < 1e-5) == (cutoff is not None)


def test_with_a_cutoff_the_radius_graph_is_all_that_matters(layout):
    network = make(cutoff=2.5)
    features, position = random(ROWS, 4), 2 * random(ROWS, 3, seed=1)
    near = Pairs.within(position, layout, 2.5)
    assert len(near.first) < len(Pairs.complete(layout).first)
    some = network(features, position, layout, pairs=near)
    for one, other in zip(some[:2], network(features, position, layout)[:2], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_features_of_rows_and_pairs_matter_to_their_sample_alone(layout):
    network = make(pair_inputs=2, pair_outputs=3)
    features, position, known = random(ROWS, 4), random(ROWS, 3, seed=1), random(39, 2, seed=2)
    plain = network(features, position, layout, pair_features=known)
    louder, bonded = features.clone(), known.clone()
    louder[0] += 1
    bonded[0] += 1
    for f, k in ((louder, known), (features, bonded)):
        other = network(f, position, layout, pair_features=k)
        rows = [(a - b).abs().amax(1) > 1e-4 for a, b in zip(plain, other, strict=True)]
        assert rows[0].tolist() == rows[1].tolist() == [True] * 5 + [False] * 11
        assert rows[2].tolist() == [True] * 10 + [False] * 29


@pytest.mark.parametrize("chiral", [False, True])
def test_the_order_of_the_ends_of_a_pair_changes_nothing(layout, chiral):
    network = make(pair_inputs=2, pair_outputs=3, chiral=chiral)
    pairs, known = Pairs.complete(layout), random(39, 2, seed=2)
    back = Pairs.of(pairs.second.numpy(), pairs.first.numpy(), ROWS, pairs.first.device)
    one, other = (
        network(random(ROWS, 4), random(ROWS, 3, seed=1), layout, pairs=p, pair_features=known)
        for p in (pairs, back)
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_spare_rows_change_nothing(layout, monkeypatch):
    network = make(pair_inputs=2, pair_outputs=3, chiral=True)
    given = random(ROWS, 4), random(ROWS, 3, seed=1), layout
    known, complete = random(39, 2, seed=2), Pairs.complete
    plain = network(*given, pair_features=known)
    spare = {"bucket": (32, 64)}
    monkeypatch.setattr(Pairs, "complete", lambda x, **asked: complete(x, **(asked and spare)))
    for a, b in zip(plain, network(*given, pair_features=known), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chiral", [False, True])
def test_bfloat16_is_close_to_float32(layout, chiral):
    network = make(torch.float32, pair_outputs=2, chiral=chiral)
    features = random(ROWS, 4, dtype=torch.float32)
    position = random(ROWS, 3, seed=1, dtype=torch.float32)
    plain = network(features, position, layout)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(features, position, layout)
    for a, b in zip(plain, low, strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * a.norm()


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("counts", [[1], [], [0, 1], [1, 0, 1]])
def test_samples_without_pairs_do_not_move(counts, low):
    network, layout = make(torch.float32, pair_outputs=2), Layout.ragged(counts)
    position = torch.zeros(layout.rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        features, vector, told = network(torch.ones(layout.rows, 4), position, layout)
    assert features.shape == (layout.rows, 3)
    assert told.shape == (0, 2)
    assert vector.tolist() == [[0.0] * 3] * layout.rows
    (features.sum() + vector.sum()).backward()
    assert position.grad.tolist() == [[0.0] * 3] * layout.rows


@pytest.mark.parametrize("chiral", [False, True])
def test_coincident_atoms_have_finite_values_and_gradients(chiral):
    position = torch.zeros(3, 3, requires_grad=True)
    network = make(torch.float32, chiral=chiral)
    features, vector, _ = network(torch.ones(3, 4), position, Layout.ragged([3]))
    (features.sum() + vector.sum()).backward()
    assert vector.abs().max() == 0
    assert features.isfinite().all()
    assert position.grad.isfinite().all()


@pytest.mark.parametrize("chiral", [False, True])
def test_gradients_reach_every_weight(layout, chiral):
    network = make(pair_inputs=2, pair_outputs=3, chiral=chiral)
    given = random(ROWS, 4), random(ROWS, 3, seed=1), layout
    sum(x.square().sum() for x in network(*given, pair_features=random(39, 2))).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"basis": 1}, "basis must be at least 2, got 1"),
        ({"lengths": (2.0, 1.0)}, "lengths must be positive and rise, got"),
        ({"cutoff": 0.0}, "cutoff must be positive, got 0.0"),
    ],
)
def test_what_makes_no_network_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        make(**settings)


def test_a_second_derivative_is_refused(layout):
    position = random(ROWS, 3, seed=1).requires_grad_()
    vector = make()(random(ROWS, 4), position, layout).vector
    (slope,) = torch.autograd.grad(vector.square().sum(), position, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
