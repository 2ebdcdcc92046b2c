"""Independence, causality and relative positions of the transformer and the network of tokens."""

import math

import pytest
import torch

from structdiff.batch import Batch
from structdiff.layout import Layout
from structdiff.nn import TokenNetwork, Transformer
from structdiff.nn.attention import attention, rotate
from tests.nn.networks import awake, random

COUNTS = [5, 2, 0, 8, 1]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def make(*, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    return awake(Transformer(8, 2, 2, **settings), dtype=dtype)


def make_tokens(**settings):
    torch.manual_seed(0)
    chosen = {"width": 8, "layers": 2, "heads": 2} | settings
    return awake(TokenNetwork(5, 4, **chosen))


def slices(counts):
    starts = [sum(counts[:k]) for k in range(len(counts))]
    return [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]


def reach(network, length):
    """Which inputs (columns) each output (rows) looks at, by autograd."""
    x, layout = random(length, 8), Layout.ragged([length])
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x, layout), x)
    return jacobian.abs().amax((1, 3)) > 1e-12


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_alone_is_what_it_is_in_a_batch(dtype, causal):
    """Also: a sample alone is not padded, one of a ragged batch is."""
    network = make(dtype=dtype, causal=causal, condition=3)
    x, condition = random(16, 8, dtype=dtype), random(5, 3, seed=1, dtype=dtype)
    together = network(x, Layout.ragged(COUNTS), condition)
    for k, rows in enumerate(slices(COUNTS)):
        alone = network(x[rows], Layout.ragged([COUNTS[k]]), condition[k : k + 1])
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=TOLERANCE[dtype])


def test_samples_may_be_permuted():
    network, parts = make(), slices(COUNTS)
    x, order = random(16, 8), [3, 0, 4, 2, 1]
    plain = network(x, Layout.ragged(COUNTS))
    rows = torch.cat([torch.arange(16)[parts[k]] for k in order])
    moved = network(x[rows], Layout.ragged([COUNTS[k] for k in order]))
    torch.testing.assert_close(moved, plain[rows], rtol=0, atol=1e-12)


def test_padding_is_no_padding():
    """Three samples of one length are a view; a longer one beside them makes them padded."""
    network, x = make(), random(23, 8)
    view = network(x[:12], Layout.ragged([4, 4, 4]))
    padded = network(x, Layout.ragged([4, 4, 4, 11]))
    torch.testing.assert_close(view, padded[:12], rtol=0, atol=1e-12)


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [0, 3]])
def test_samples_without_rows_have_finite_gradients(counts):
    network, layout = make(), Layout.ragged(counts)
    x = random(layout.rows, 8).requires_grad_()
    out = network(x, layout)
    alone = network(x, Layout.ragged([count for count in counts if count] or [0]))
    torch.testing.assert_close(out, alone, rtol=0, atol=1e-12)
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("neighbours", [0, 2, 3])
def test_a_causal_row_sees_exactly_what_is_before_it(neighbours):
    seen = reach(make(causal=True, neighbours=neighbours), 6)
    assert seen.tolist() == torch.ones(6, 6).tril().bool().tolist()


def test_a_row_sees_all_of_its_sample():
    assert reach(make(), 6).all()


@pytest.mark.parametrize(("causal", "taps"), [(False, [-1, 0, 1]), (True, [-2, -1, 0])])
def test_neighbours_are_mixed_entry_by_entry(causal, taps):
    mix = make(causal=causal).layers[0].mix
    h = random(2, 5, 8)
    want = h.clone()
    for i in range(5):
        for weight, k in zip(mix.weight, taps, strict=True):
            if 0 <= i + k < 5:
                want[:, i] += weight * h[:, i + k]
    torch.testing.assert_close(mix(h, None), want, rtol=0, atol=1e-12)


def test_scores_depend_on_differences_of_positions_only():
    """One query and one key at all positions: their products are constant along diagonals."""
    angle = torch.arange(7, dtype=torch.float64).unsqueeze(1) * torch.tensor([1.0, 0.3, 0.01])
    query, key = rotate(random(6).expand(7, 6), angle), rotate(random(6, seed=1), angle)
    score = query @ key.T
    for k in range(-6, 7):
        line = score.diagonal(k)
        assert (line - line[0]).abs().max() < 1e-12
    assert score[0].std() > 0.1, "the products do not depend on positions: nothing is tested"


def test_positions_matter_without_neighbours():
    """Attention without positions would give a row no news when two other rows are exchanged."""
    network, x = make(neighbours=0), random(6, 8)
    layout, swapped = Layout.ragged([6]), x[[0, 1, 2, 3, 5, 4]]
    assert (network(x, layout)[0] - network(swapped, layout)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("counts", [[5, 2, 0, 8, 1], [4, 4]])
def test_a_condition_of_rows_that_is_constant_is_that_of_samples(counts):
    network, layout = make(condition=3), Layout.ragged(counts)
    x, condition = random(layout.rows, 8), random(len(counts), 3, seed=1)
    whole = network(x, layout, condition)
    rows = network(x, layout, layout.spread(condition), condition_of_rows=True)
    torch.testing.assert_close(whole, rows, rtol=0, atol=1e-12)
    other = condition.clone()
    other[0] += 1
    moved = (network(x, layout, other) - whole).abs().amax(1) > 1e-3
    assert moved.tolist() == (layout.sample == 0).tolist()


def test_rows_have_conditions_of_their_own():
    """In a causal network, the condition of row 3 is seen by row 3 and later ones."""
    network, layout = make(condition=3, causal=True), Layout.ragged([6])
    x, condition = random(6, 8), random(6, 3, seed=1)
    other = condition.clone()
    other[3] += 1
    change = network(x, layout, other, condition_of_rows=True) - network(
        x, layout, condition, condition_of_rows=True
    )
    assert (change.abs().amax(1) > 1e-3).tolist() == [False] * 3 + [True] * 3


def test_a_fresh_condition_has_no_influence_but_a_gradient():
    torch.manual_seed(0)
    plain = Transformer(8, 2, 2).double()
    torch.manual_seed(0)
    network = Transformer(8, 2, 2, condition=3).double()
    network.load_state_dict(plain.state_dict(), strict=False)
    x, layout = random(7, 8), Layout.ragged([5, 2])
    out = network(x, layout, random(2, 3))
    torch.testing.assert_close(out, plain(x, layout), rtol=0, atol=1e-12)
    (out * random(7, 8, seed=2)).sum().backward()
    assert all(weight.grad.abs().max() > 1e-6 for weight in network.parameters())


def reference(query, key, value, allowed):
    """Attention, one query at a time, in float64."""
    query, key, value = query.double(), key.double(), value.double()
    out = torch.zeros_like(query)
    for sample, head, i in torch.cartesian_prod(*map(torch.arange, query.shape[:3])).tolist():
        seen = allowed[sample, i]
        score = key[sample, head, seen] @ query[sample, head, i] / math.sqrt(query.shape[-1])
        out[sample, head, i] = score.softmax(0) @ value[sample, head, seen]
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_attention_is_the_mean_over_what_is_seen(dtype, causal):
    query, key, value = (random(2, 2, 4, 6, seed=k, dtype=dtype) for k in range(3))
    real = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    allowed = real.unsqueeze(1).expand(2, 4, 4)
    if causal:
        allowed = torch.ones(4, 4).tril().bool().expand(2, 4, 4)
    found = attention(query, key, value, real, causal=causal)
    assert found.dtype == dtype
    tolerance = {torch.bfloat16: 2e-2, torch.float32: 1e-6, torch.float64: 1e-12}[dtype]
    want = reference(query, key, value, allowed)
    torch.testing.assert_close(found.double(), want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("counts", [COUNTS, [4, 4]])
def test_bfloat16_is_close_to_float32(counts):
    network, layout = make(dtype=torch.float32), Layout.ragged(counts)
    x = random(layout.rows, 8, dtype=torch.float32)
    plain = network(x, layout)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x, layout)
    assert low.dtype == torch.float32
    assert 0 < (low - plain).norm() < 0.03 * plain.norm()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"heads": 3}, "heads must divide width 8 into even parts, got 3"),
        ({"heads": 0}, "heads must divide width 8 into even parts, got 0"),
        ({"heads": 8}, "take a width that is a multiple of 16"),
        ({"neighbours": 2}, "neighbours must be 0, or odd where both sides are seen, got 2"),
        ({"neighbours": -1}, "got -1: take 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Transformer(8, 1, **({"heads": 2} | settings))


@pytest.mark.parametrize(
    ("width", "shape", "match"),
    [
        (3, None, r"condition must be shape \(2, 3\), got None"),
        (3, (2, 4), r"condition must be shape \(2, 3\), got \(2, 4\)"),
        (3, (5, 3), r"condition must be shape \(2, 3\), got \(5, 3\)"),
        (0, (2, 3), r"condition must be None, got \(2, 3\)"),
    ],
)
def test_conditions_of_another_shape_are_refused(width, shape, match):
    network = Transformer(8, 1, 2, condition=width)
    condition = None if shape is None else torch.zeros(shape)
    with pytest.raises(ValueError, match=match):
        network(torch.zeros(5, 8), Layout.ragged([3, 2]), condition)


def batch_of(counts, *, name="token", symbols=5):
    rows = sum(counts)
    token = torch.randint(0, symbols, (rows,), generator=torch.Generator().manual_seed(0))
    return Batch({name: token}, {name: Layout.ragged(counts)})


def test_a_class_is_read_by_the_embedding_that_it_is_written_with():
    """Logits are products with the embeddings; a symbol that is not there moves its class only."""
    network, batch = make_tokens(clocked=False), batch_of([4, 3], symbols=3)
    plain = network(batch, {}, None)["token"]
    with torch.no_grad():
        network.embedding.weight[3:] += random(2, 8)
    other = network(batch, {}, None)["token"]
    torch.testing.assert_close(other[:, :3], plain[:, :3], rtol=0, atol=1e-12)
    assert (other[:, 3] - plain[:, 3]).abs().max() > 1e-3
    shapes = [tuple(weight.shape) for weight in network.parameters()]
    assert shapes.count((5, 8)) == 1
    assert (4, 8) not in shapes


@pytest.mark.parametrize(("causal", "steps"), [(False, [-2, -1, 1, 2]), (True, [-4, -3, -2, -1])])
def test_near_symbols_are_those_of_the_same_sample(causal, steps):
    """Against a loop; a step over the border of a sample has the feature of no row."""
    near = make_tokens(near=4, causal=causal, clocked=False).near
    batch = batch_of(COUNTS)
    layout, table = batch.layouts["token"], near.table.view(4, 6, 8)
    found, want = near(batch["token"], layout), torch.zeros(16, 8).double()
    for rows in slices(COUNTS):
        own = batch["token"][rows].tolist()
        for i in range(len(own)):
            for k, step in enumerate(steps):
                want[rows.start + i] += table[k, own[i + step] if 0 <= i + step < len(own) else 5]
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_text_alone_is_what_it_is_in_a_batch(causal):
    network, batch = make_tokens(causal=causal), batch_of(COUNTS)
    clock = torch.linspace(-1, 1, 16).double()
    together = network(batch, {"token": clock}, None)["token"]
    for k, rows in enumerate(slices(COUNTS)):
        alone = network(batch.select([k]), {"token": clock[rows]}, None)["token"]
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-12)


def test_the_mask_is_an_input():
    network, batch = make_tokens(clocked=False), batch_of([6], symbols=4)
    masked = batch.with_leaves({"token": torch.where(torch.arange(6) == 2, 4, batch["token"])})
    change = network(masked, {}, None)["token"] - network(batch, {}, None)["token"]
    assert (change.abs().amax(1) > 1e-4).all()


def test_a_constant_clock_of_rows_is_that_of_the_batch():
    network, batch = make_tokens(), batch_of([4, 3])
    one = network(batch, {"token": torch.tensor(0.7).double()}, None)["token"]
    rows = network(batch, {"token": torch.full((7,), 0.7).double()}, None)["token"]
    torch.testing.assert_close(one, rows, rtol=0, atol=1e-12)
    clock = torch.tensor([0.7] * 4 + [-1.0] * 3).double()
    other = network(batch, {"token": clock}, None)["token"]
    torch.testing.assert_close(other[:4], one[:4], rtol=0, atol=1e-12)
    assert ((other[4:] - one[4:]).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("clocked", [False, True])
def test_conditions_that_are_not_known_are_refused(clocked):
    network, batch = make_tokens(clocked=clocked), batch_of([4, 3])
    with pytest.raises(ValueError, match=r"the model knows the conditions \[\], not \['kind'\]"):
        network(batch.with_condition({"kind": torch.tensor([0, 1])}), {}, None)


@pytest.mark.parametrize("clocked", [False, True])
def test_conditions_move_their_sample_alone(clocked):
    network = make_tokens(clocked=clocked, kinds={"kind": 3}, numbers={"size": 1})
    clock = {"token": torch.full((7,), 0.3).double()}
    size = torch.tensor([0.5, -0.5])

    def logits(kinds):
        condition = {"kind": torch.tensor(kinds), "size": size}
        return network(batch_of([4, 3]).with_condition(condition), clock, None)["token"]

    moved = (logits([0, 1]) - logits([0, 2])).abs().amax(1) > 1e-4
    assert moved.tolist() == [False] * 4 + [True] * 3


def test_the_previous_estimate_is_an_input_where_asked_for():
    batch, clock = batch_of([4, 3], name="base"), {}
    before = {"base": random(7, 4).log_softmax(1)}
    other = {"base": random(7, 4, seed=1).log_softmax(1)}
    network = make_tokens(self_conditioning=True, clocked=False, leaf="base")
    none, one, two = (network(batch, clock, p)["base"] for p in (None, before, other))
    assert all((a - b).abs().max() > 1e-3 for a, b in ((none, one), (one, two)))
    plain = make_tokens(clocked=False, leaf="base")
    assert plain(batch, clock, before)["base"].equal(plain(batch, clock, None)["base"])


def test_logits_of_a_causal_network_do_not_look_ahead():
    network, batch = make_tokens(causal=True, clocked=False), batch_of([6])
    token = batch["token"].clone()
    token[3] = (token[3] + 1) % 4
    change = (
        network(batch.with_leaves({"token": token}), {}, None)["token"]
        - network(batch, {}, None)["token"]
    )
    moved = change.abs().amax(1)
    assert moved[:3].max() == 0
    assert (moved[3:] > 1e-4).all()


def test_every_weight_of_the_network_of_tokens_has_a_gradient():
    network = make_tokens(self_conditioning=True, kinds={"kind": 2})
    batch = batch_of([4, 3]).with_condition({"kind": torch.tensor([0, 1])})
    clock = {"token": torch.linspace(-1, 1, 7).double()}
    logits = network(batch, clock, {"token": random(7, 4).log_softmax(1)})["token"]
    logits.log_softmax(1)[:, 0].sum().backward()
    assert all(weight.grad.abs().max() > 1e-9 for weight in network.parameters())


@pytest.mark.parametrize(
    ("symbols", "settings", "match"),
    [
        (3, {}, "symbols must be at least the number of classes 4, got 3"),
        (4, {"near": 3}, "near must be 0, or even where both sides are seen, got 3"),
        (4, {"near": -2, "causal": True}, "near must be 0, .* got -2"),
    ],
)
def test_networks_of_tokens_that_cannot_be_are_refused(symbols, settings, match):
    with pytest.raises(ValueError, match=match):
        TokenNetwork(symbols, 4, width=8, layers=1, heads=2, **settings)
