"""The published equivariant network against its formulas written out, and its symmetries."""

import pytest
import torch
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn.egnn import EGNN, _fine
from structdiff.nn.egnn_messages import (
    Directed,
    EdgeNetwork,
    edge_scalars,
    gated_sum,
    moves,
    spread,
)
from structdiff.nn.pairs import Pairs
from structdiff.testing.symmetry import check_equivariance

COUNTS = [5, 2, 1, 8, 0]
LAYOUT = Layout.ragged(COUNTS)
ROWS = sum(COUNTS)


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def make(dtype=torch.float64, **settings):
    """A network whose moves are as large as those of a trained one."""
    torch.manual_seed(0)
    network = EGNN(4, 3, **({"layers": 3, "width": 8, "hidden": 12} | settings)).to(dtype)
    with torch.no_grad():
        for block in network.blocks:
            block.move.weight.mul_(300)
    return network


def inputs(dtype=torch.float64):
    return random(ROWS, 4, dtype=dtype), 1.5 * random(ROWS, 3, seed=1, dtype=dtype)


def known(pairs, dtype=torch.float64):
    return random(len(pairs.first), 2, seed=2, dtype=dtype)


def edge_linear(layers, h, columns):
    """Both linear layers on [h_i; h_j; columns] of all ordered pairs, the first not split."""
    rows = len(h)
    both = h.unsqueeze(1).expand(-1, rows, -1), h.unsqueeze(0).expand(rows, -1, -1)
    return layers.second(F.silu(layers.first(torch.cat([*both, columns], 2))))


def published(network, features, position, mask, bonds, *, reach, softness, divisor):
    """The network with all rows x rows edges and a mask, as its docstring has it."""

    def gaps(x):
        gap = x.unsqueeze(1) - x.unsqueeze(0)
        return gap, gap.square().sum(2, keepdim=True)

    h, x, mask = network.enter(features), position, mask.unsqueeze(2)
    start = gaps(x)[1]
    for block in network.blocks:
        gap, square = gaps(x)
        columns = torch.cat([square, start, bonds], 2)
        for each in block.rounds:
            m = F.silu(edge_linear(each.edge, h, columns))
            total = (m * torch.sigmoid(each.gate(m)) * mask).sum(1) / divisor
            h = h + each.update(F.silu(each.row(torch.cat([h, total], 1))))
        s = block.move(F.silu(edge_linear(block.edge, h, columns)))
        s = s if reach is None else reach * torch.tanh(s)
        x = x + (mask * s * gap / ((square + 1e-8).sqrt() + softness)).sum(1) / divisor
    told = None
    if network.told is not None:
        sides = network.told.rows(h)
        m = network.told.pairs((m + m.transpose(0, 1)) / 2)
        told = network.told.out(F.silu(sides.unsqueeze(1) + sides.unsqueeze(0) + m))
    return network.leave(h), x - position, told


def dense(pairs, values=None):
    """Mask `(rows, rows)` of the edges of pairs, or their values at both places."""
    shape = () if values is None else values.shape[1:]
    table = torch.zeros(pairs.rows, pairs.rows, *shape, dtype=torch.float64)
    table[pairs.first, pairs.second] = 1.0 if values is None else values
    return table + table.transpose(0, 1)


SETTINGS = [
    {},
    {"rounds": 2, "reach": None, "divisor": 7.0, "softness": 0.5},
    {"pair_inputs": 2, "pair_outputs": 3, "width": 6},
]


@pytest.mark.parametrize("radius", [None, 2.0])
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "others", "pairs"])
def test_the_network_and_its_gradients_are_the_published_formulas(settings, radius):
    """On all pairs, and on a radius graph, which is the mask of the full one."""
    network, (features, position) = make(**settings), inputs()
    complete = Pairs.complete(LAYOUT)
    pairs = complete if radius is None else Pairs.within(position, LAYOUT, radius)
    assert 0 < len(pairs.first) <= len(complete.first)
    assert radius is None or len(pairs.first) < len(complete.first)
    bonds = known(pairs)[:, : settings.get("pair_inputs", 0)]
    leaves = features.requires_grad_(), position.requires_grad_(), bonds.requires_grad_()
    given = bonds if bonds.shape[1] else None
    own = network(features, position, LAYOUT, pairs=pairs, pair_features=given)
    names = {"reach": 15.0, "softness": 1.0, "divisor": 1.0}
    others = {name: settings.get(name, value) for name, value in names.items()}
    plain = published(network, features, position, dense(pairs), dense(pairs, bonds), **others)
    told = None if plain[2] is None else plain[2][pairs.first, pairs.second]
    assert plain[1].abs().max() > 1e-3, "rows do not move: nothing would be tested"
    found, want = [], []
    wanted = [*network.parameters(), *leaves]
    for outputs, gradients in ((own, found), ((*plain[:2], told), want)):
        shown = [x for x in outputs if x is not None]
        loss = sum((x * random(*x.shape, seed=k)).sum() for k, x in enumerate(shown))
        gradients += shown
        gradients += torch.autograd.grad(loss, wanted, allow_unused=True)
    for a, b in zip(found, want, strict=True):
        if b is None or not b.numel():
            assert a is None or not a.any()
        else:
            assert (a - b).abs().max() <= 1e-10 * (1 + b.abs().max())


def test_gradients_of_the_edge_functions_are_those_of_finite_differences():
    pairs = Pairs.complete(Layout.ragged([3, 1, 2]))
    edges = Directed.of(pairs, 2)
    shapes = (12, 4), (2, 4), (4, 4), (4,), (8, 2), (4,), (1,), (4, 3), (8,)
    values = [random(*shape, seed=k).requires_grad_() for k, shape in enumerate(shapes)]
    *network, seen, gate, offset, direction, scalar = values

    def gated(*x):
        return gated_sum(EdgeNetwork(*x[:4]), *x[4:], edges)

    def scalars(*x):
        return edge_scalars(EdgeNetwork(*x[:4]), *x[4:], edges)

    assert torch.autograd.gradcheck(gated, (*network, seen, gate, offset))
    assert torch.autograd.gradcheck(lambda *x: gated(*x)[1], (*network, seen, gate, offset))
    assert torch.autograd.gradcheck(scalars, (*network, seen, gate))
    assert torch.autograd.gradcheck(lambda *x: moves(*x, edges), (direction, scalar))
    assert torch.autograd.gradcheck(lambda x: spread(x, edges), (direction,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("group", ["E(3)", "S_n"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["default", "others", "pairs"])
def test_egnn_is_equivariant(group, settings, dtype):
    network, (features, position) = make(dtype, **settings), inputs(dtype)
    edges = Layout.pairs(LAYOUT)
    bonds = random(edges.rows, settings.get("pair_inputs", 0), seed=2, dtype=dtype)
    leaves = {"features": features, "position": position, "pairs": bonds}
    layouts = {"features": LAYOUT, "position": LAYOUT, "pairs": edges}
    check_equivariance(network, group, Batch(leaves, layouts))


@pytest.mark.parametrize("low", [False, True])
def test_a_sample_alone_is_what_it_is_in_a_batch(low):
    """In bfloat16 too: there spare rows and pairs fill the batch up."""
    network = make(torch.float32 if low else torch.float64, pair_inputs=2, pair_outputs=3)
    features, position = inputs(torch.float32 if low else torch.float64)
    edges = Layout.pairs(LAYOUT)
    bonds = known(Pairs.complete(LAYOUT), features.dtype)
    limit = 0.02 if low else 1e-12
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        together = network(features, position, LAYOUT, pair_features=bonds)
        for k, count in enumerate(COUNTS):
            mine, pairs = LAYOUT.sample == k, edges.sample == k
            alone = network(
                features[mine],
                position[mine],
                Layout.ragged([count]),
                pair_features=bonds[pairs],
            )
            for one, all_, which in zip(alone, together, (mine, mine, pairs), strict=True):
                torch.testing.assert_close(one, all_[which], rtol=limit, atol=limit)


def test_checkpointed_blocks_have_the_same_values_and_gradients_and_keep_less():
    def run(checkpointed):
        network, (features, position) = make(checkpointed=checkpointed), inputs()
        kept = []
        position.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: kept.append(x.numel()) or x, lambda x: x
        ):
            out = network(features, position, LAYOUT)
        loss = out.features.square().sum() + out.vector.square().sum()
        found = torch.autograd.grad(loss, [*network.parameters(), position])
        return [out.features, out.vector, *found], sum(kept)

    (plain, kept), (again, kept_again) = run(False), run(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert kept_again < 0.25 * kept


def test_features_pairs_and_far_atoms_matter():
    """What equivariance alone would not notice: a network that ignores its input."""
    network, (features, position) = make(pair_inputs=2, pair_outputs=3), inputs()
    bonds = known(Pairs.complete(LAYOUT))
    before = network(features, position, LAYOUT, pair_features=bonds)
    first = Layout.pairs(LAYOUT).sample == 0
    other_features, other_bonds = features.clone(), bonds.clone()
    other_features[0] += 1
    other_bonds[0] += 1
    for changed in ((other_features, bonds), (features, other_bonds)):
        after = network(changed[0], position, LAYOUT, pair_features=changed[1])
        moved = [(a - b).abs().amax(1) > 1e-6 for a, b in zip(before, after, strict=True)]
        assert torch.equal(moved[0], LAYOUT.sample == 0)
        assert torch.equal(moved[1], LAYOUT.sample == 0)
        assert torch.equal(moved[2], first)


def test_bfloat16_is_close_to_float32_and_sees_lengths_exactly():
    """Values, gradients, and a step of 0.001 at a length of 10, which bfloat16 would not see."""
    network, (features, position) = make(torch.float32), inputs(torch.float32)

    def run(low):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = network(features, position, LAYOUT)
        loss = out.features.square().sum() + out.vector.square().sum()
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return [out.features, out.vector, torch.cat([d.flatten() for d in gradients])]

    for a, b in zip(run(False), run(True), strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.05 * a.norm()
    squares = torch.tensor([[100.0], [100.02]])
    low = _fine(squares, torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert (low.float().sum(1, keepdim=True) - squares).abs().max() < 2e-3


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("counts", [[1], [], [0, 1], [1, 0, 1]])
def test_samples_without_pairs_do_not_move(counts, low):
    network, layout = make(torch.float32, pair_inputs=2, pair_outputs=3), Layout.ragged(counts)
    position = torch.zeros(layout.rows, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out = network(
            torch.ones(layout.rows, 4), position, layout, pair_features=torch.empty(0, 2)
        )
    assert out.features.shape == (layout.rows, 3)
    assert out.vector.tolist() == [[0.0] * 3] * layout.rows
    assert out.pairs.shape == (0, 3)
    (out.features.sum() + out.vector.sum()).backward()
    assert position.grad.tolist() == [[0.0] * 3] * layout.rows


def test_coincident_atoms_have_finite_values_and_gradients():
    position = torch.zeros(3, 3, requires_grad=True)
    out = make(torch.float32)(torch.ones(3, 4), position, Layout.ragged([3]))
    (out.features.sum() + out.vector.square().sum()).backward()
    assert out.vector.abs().max() == 0
    assert position.grad.isfinite().all()


def test_gradients_reach_every_weight():
    network, (features, position) = make(torch.float32), inputs(torch.float32)
    out = network(features, position, LAYOUT)
    (out.features.square().sum() + out.vector.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "layers and rounds must be at least 1, got 0 and 1"),
        ({"rounds": 0}, "got 3 and 0"),
        ({"divisor": 0.0}, "divisor must be positive, got 0.0"),
        ({"reach": -1.0}, "reach must be positive or None, got -1.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_inputs_of_another_shape_are_refused():
    network, (features, position) = make(pair_inputs=2), inputs()
    with pytest.raises(ValueError, match="pair_features must be"):
        network(features, position, LAYOUT)
    with pytest.raises(ValueError, match="features must be"):
        network(features[:, :3], position, LAYOUT, pair_features=known(Pairs.complete(LAYOUT)))
