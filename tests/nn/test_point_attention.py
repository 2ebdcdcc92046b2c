"""Invariant point attention: its formula row by row, and motions of all frames."""

import math

import pytest
import torch
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.pairs import Pairs
from structdiff.nn.point_attention import FrameUpdate, InvariantPointAttention

COUNTS = [4, 1, 3]
ROWS = sum(COUNTS)
HEADS, WIDTH, POINTS, VALUE_POINTS = 2, 5, 3, 4


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def turns(rows, seed, dtype=torch.float64):
    q, _ = torch.linalg.qr(random(rows, 3, 3, seed=seed))
    return (q * torch.linalg.det(q)[:, None, None]).to(dtype)


def make(dtype=torch.float64, **settings):
    torch.manual_seed(0)
    sizes = {"heads": HEADS, "width": WIDTH, "points": POINTS, "value_points": VALUE_POINTS}
    network = InvariantPointAttention(6, **sizes, unit=2.0, **settings).to(dtype)
    with torch.no_grad():
        network.strength.copy_(torch.tensor([0.3, -0.4]))
    return network


def scene(counts=COUNTS, dtype=torch.float64):
    layout = Layout.ragged(counts)
    rows = layout.rows
    place = 3 * random(rows, 3, seed=2, dtype=dtype)
    return random(rows, 6, seed=1, dtype=dtype), turns(rows, 3, dtype), place, layout


def naive(network, features, rotation, translation, layout, known=None):
    """Row by row, head by head, point by point."""
    t = translation / network.unit
    said = (features @ network.scalars.weight.T).view(len(t), HEADS, -1)
    local = F.linear(features, network.places.weight, network.places.bias)
    local = local.view(len(t), 3, HEADS, -1)
    world = torch.einsum("ncd,ndhp->nhpc", rotation, local) + t[:, None, None]
    q, k, v = said.split(WIDTH, 2)
    x, y, z = world.split([POINTS, POINTS, VALUE_POINTS], 2)
    between = {}
    if known is not None:
        pairs = Pairs.complete(layout)
        for row, (a, b) in enumerate(torch.stack([pairs.first, pairs.second], 1).tolist()):
            between[a, b] = between[b, a] = known[row]
    out = []
    for i in range(len(t)):
        mates = [j for j in range(len(t)) if layout.sample[j] == layout.sample[i]]
        values, points, lengths, told = [], [], [], []
        for h in range(HEADS):
            strength = F.softplus(network.strength[h]) * math.sqrt(2 / (9 * POINTS)) / 2
            scores, terms = [], 2 if known is None else 3
            for j in mates:
                score = q[i, h] @ k[j, h] / math.sqrt(WIDTH)
                score = score - strength * (x[i, h] - y[j, h]).square().sum()
                if (i, j) in between:
                    score = score + network.bias.weight[h] @ between[i, j]
                scores.append(score / math.sqrt(terms))
            a = torch.softmax(torch.stack(scores), 0)
            values.append(sum(w * v[j, h] for w, j in zip(a, mates, strict=True)))
            mean = sum(w * z[j, h] for w, j in zip(a, mates, strict=True))
            mine = (mean - t[i]) @ rotation[i]
            points.append(mine)
            lengths.append((mine.square().sum(1) + 1e-8).sqrt())
            if known is not None:
                nothing = torch.zeros_like(known[0])
                told.append(
                    sum(w * between.get((i, j), nothing) for w, j in zip(a, mates, strict=True))
                )
        blocks = [*values, torch.stack(points, 2).permute(1, 2, 0).flatten(), *lengths, *told]
        out.append(network.leave(torch.cat(blocks)))
    return torch.stack(out)


@pytest.mark.parametrize("pair_inputs", [0, 2])
def test_one_product_is_the_formula_row_by_row(pair_inputs):
    network = make(pair_inputs=pair_inputs)
    features, rotation, translation, layout = scene()
    known = random(9, pair_inputs, seed=4).requires_grad_() if pair_inputs else None
    leaves = [features, rotation, translation, *([known] if pair_inputs else [])]
    leaves = [x.requires_grad_() for x in leaves] + list(network.parameters())
    found = network(features, rotation, translation, layout, pair_features=known)
    want = naive(network, features, rotation, translation, layout, known)
    toward = random(*want.shape, seed=5)
    gradients = [torch.autograd.grad((x * toward).sum(), leaves) for x in (found, want)]
    for one, other in zip([found, *gradients[0]], [want, *gradients[1]], strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_motion_of_all_frames_changes_no_feature_and_moves_new_frames_along(dtype, limit):
    network, update = make(dtype), FrameUpdate(6, unit=2.0).to(dtype)
    features, rotation, translation, layout = scene(dtype=dtype)
    turn, shift = turns(1, 7, dtype)[0], torch.tensor([30.0, -20.0, 5.0], dtype=dtype)

    def act(rotation, translation):
        heard = network(features, rotation, translation, layout)
        return heard, *update(features + heard, rotation, translation)

    plain = act(rotation, translation)
    moved = act(turn @ rotation, translation @ turn.T + shift)
    want = plain[0], turn @ plain[1], plain[2] @ turn.T + shift
    for one, other in zip(moved, want, strict=True):
        assert (one - other).abs().max() < limit * (1 + other.abs().max())
    assert (plain[1] - rotation).abs().max() > 0.1
    assert (plain[2] - translation).abs().max() > 0.1
    single = network(features, turn @ rotation, translation, layout)
    assert (single - plain[0]).abs().max() > 1e-2, "frames do not matter: nothing was tested"


def test_new_frames_are_rotations_and_stay_where_nothing_is_said():
    update = FrameUpdate(6).double()
    features, rotation, translation, _ = scene()
    turned, _ = update(5 * features, rotation, translation)
    eye = torch.eye(3).double().expand_as(turned)
    torch.testing.assert_close(turned @ turned.transpose(1, 2), eye, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(ROWS).double())
    still = update(0 * features, rotation, translation)
    assert all(torch.equal(a, b) for a, b in zip(still, (rotation, translation), strict=True))


def test_rows_follow_a_permutation_and_far_rows_are_not_heard():
    network = make()
    features, rotation, translation, layout = scene([5])
    order = torch.tensor([3, 0, 4, 1, 2])
    plain = network(features, rotation, translation, layout)
    moved = network(features[order], rotation[order], translation[order], layout)
    torch.testing.assert_close(moved, plain[order], rtol=1e-12, atol=1e-12)
    away = translation.clone()
    away[4] += 1000.0
    alone = network(features[:4], rotation[:4], translation[:4], Layout.ragged([4]))
    with_one = network(features, rotation, away, layout)
    torch.testing.assert_close(with_one[:4], alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pair_inputs", [0, 2])
def test_a_sample_alone_is_what_it_is_in_a_batch(pair_inputs):
    network = make(pair_inputs=pair_inputs)
    features, rotation, translation, layout = scene([4, 0, 1, 3])
    known = random(9, 2, seed=4) if pair_inputs else None
    together = network(features, rotation, translation, layout, pair_features=known)
    assert together.shape == (ROWS, 6)
    start, edge = 0, 0
    for count in COUNTS:
        rows, edges = slice(start, start + count), slice(edge, edge + count * (count - 1) // 2)
        alone = network(
            features[rows],
            rotation[rows],
            translation[rows],
            Layout.ragged([count]),
            pair_features=None if known is None else known[edges],
        )
        torch.testing.assert_close(alone, together[rows], rtol=1e-12, atol=1e-12)
        start, edge = rows.stop, edges.stop


@pytest.mark.parametrize("counts", [[], [1], [0, 1]])
def test_a_row_alone_hears_itself(counts):
    network = make()
    features, rotation, translation, layout = scene(counts)
    leaves = [x.requires_grad_() for x in (features, rotation, translation)]
    found = network(*leaves, layout)
    want = [naive(network, *leaves, layout)] if layout.rows else [found.new_zeros(0, 6)]
    torch.testing.assert_close(found, want[0], rtol=1e-12, atol=1e-12)
    found.sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


def test_coincident_frames_have_finite_gradients():
    network = make()
    leaves = [torch.zeros(3, 6), torch.eye(3).repeat(3, 1, 1), torch.zeros(3, 3)]
    leaves = [x.double().requires_grad_() for x in leaves]
    with torch.no_grad():
        network.places.bias.zero_()
    network(*leaves, Layout.ragged([3])).sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


def test_bfloat16_is_close_to_float32():
    network = make(torch.float32)
    given = scene(dtype=torch.float32)
    plain = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(*given)
    assert 0 < (plain - low).norm() < 0.03 * plain.norm()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"heads": 0}, "heads must be positive, got 0"),
        ({"points": 0}, "points must be positive, got 0"),
        ({"unit": -1.0}, "unit must be positive, got -1.0"),
    ],
)
def test_what_makes_no_attention_is_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        InvariantPointAttention(6, **settings)


def test_inputs_of_another_shape_are_refused():
    features, rotation, translation, layout = scene()
    with pytest.raises(ValueError, match=r"features must be \(8, 6\), got \(8, 5\)"):
        make()(features[:, :5], rotation, translation, layout)
    with pytest.raises(ValueError, match=r"rotation must be \(8, 3, 3\), got \(7, 3, 3\)"):
        make()(features, rotation[1:], translation, layout)
    with pytest.raises(ValueError, match=r"pair_features must be .* = \(9, 2\), got None"):
        make(pair_inputs=2)(features, rotation, translation, layout)
