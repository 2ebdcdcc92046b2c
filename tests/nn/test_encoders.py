"""Encoders of conditions: classes, several at once, vectors, pictures, sets, sequences, graphs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from structdiff import (
    Batch,
    Cosine,
    Denoising,
    Gaussian,
    Generator,
    Product,
    fit,
    sample,
)
from structdiff.codecs import minimum_risk
from structdiff.nn import ClockEmbedding
from structdiff.nn.encoders import EncodedConditions, GraphEncoder, SequenceEncoder, SetEncoder
from structdiff.objectives import ConditionDropout
from structdiff.parameterisations import Velocity

WIDTH = 6


def encoder() -> EncodedConditions:
    torch.manual_seed(0)
    return EncodedConditions(
        {
            "kind": nn.Embedding(3, WIDTH),
            "tags": nn.Linear(4, WIDTH),
            "size": nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, WIDTH)),
            "picture": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, WIDTH)),
            "points": SetEncoder(2, WIDTH),
            "words": SequenceEncoder(9, WIDTH),
            "molecule": GraphEncoder(2, WIDTH),
        },
        WIDTH,
    )


def values(samples: int = 3) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {
        "kind": torch.tensor([0, 2, 1])[:samples],
        "tags": torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])[:samples],
        "size": torch.randn(samples, 2, generator=source),
        "picture": torch.randn(samples, 1, 4, 4, generator=source),
        "points": torch.randn(samples, 5, 2, generator=source),
        "words": torch.tensor([[3, 7, -1], [7, 3, 0], [1, -1, -1]])[:samples],
        "molecule": torch.randn(samples, 4, 2 + 4, generator=source),
    }


BLANK = Batch.of(torch.zeros(3))
MASK = torch.tensor([True, False, True])


def test_conditions_add_up_and_nothing_is_zero():
    """G14, G16: each alone is what it adds to the others."""
    one, told = encoder(), values()
    assert torch.equal(one(BLANK), torch.zeros(3, WIDTH))
    parts = [one(BLANK.with_condition({name: value})) for name, value in told.items()]
    whole = one(BLANK.with_condition(told))
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))
    assert all(float(part.detach().abs().min()) > 0 for part in parts)


@pytest.mark.parametrize("name", list(values()))
def test_a_condition_is_absent_whatever_its_value(name):
    """Bit for bit, in value and gradient, be it NaN."""
    one, told = encoder(), values()
    batch = BLANK.with_condition(told).with_present({name: MASK})
    found = one(batch)
    rest = one(BLANK.with_condition({n: x for n, x in told.items() if n != name}))
    torch.testing.assert_close(found[1], rest[1])
    torch.testing.assert_close(found[MASK], one(BLANK.with_condition(told))[MASK])
    if told[name].is_floating_point():
        lost = told[name].clone()
        lost[1] = torch.nan
        batch = batch.with_condition({**told, name: lost}).with_present({name: MASK})
        assert torch.equal(one(batch), found)
        one(batch).square().sum().backward()
        assert all(bool(torch.isfinite(w.grad).all()) for w in one.parameters())


def test_dropped_keys_are_dropped_for_the_encoder():
    """G14: per-key dropout acts on any tensor."""
    told = values()
    objective = ConditionDropout(Denoising(), {n: float(n == "words") for n in told})
    dropped = objective.dropped(BLANK.with_condition(told), Generator(0))
    one = encoder()
    others = {n: x for n, x in told.items() if n != "words"}
    torch.testing.assert_close(one(dropped), one(BLANK.with_condition(others)))


def test_a_set_has_no_order_and_no_padding():
    torch.manual_seed(0)
    one, x = SetEncoder(2, WIDTH).double(), torch.randn(4, 5, 2).double()
    torch.testing.assert_close(one(x), one(x[:, [3, 0, 4, 2, 1]]), rtol=1e-12, atol=1e-12)
    padded = torch.cat([x, torch.full((4, 3, 2), torch.nan).double()], 1)
    torch.testing.assert_close(one(padded), one(x), rtol=1e-12, atol=1e-12)
    each = one.member(x).mean(1)
    torch.testing.assert_close(one(x), one.whole(each), rtol=1e-12, atol=1e-12)
    empty = one(torch.full((1, 3, 2), torch.nan).double())
    torch.testing.assert_close(empty, one.whole(torch.zeros(1, WIDTH).double()))
    assert (one(x) - one(x[:, :4])).abs().min() > 1e-6


def test_a_sequence_has_an_order_and_no_padding():
    torch.manual_seed(0)
    one = SequenceEncoder(9, 8)
    words = torch.tensor([[3, 7, 1], [7, 3, 1], [3, 7, 7]])
    found = one(words)
    gaps = torch.cdist(found, found) + torch.eye(3)
    assert gaps.min() > 1e-3
    padded = torch.cat([words, torch.full((3, 2), -1)], 1)
    torch.testing.assert_close(one(padded), found)


class Policy(nn.Module):
    """An action, of the symbols that were observed before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = EncodedConditions({"seen": SequenceEncoder(2, 16)}, 16)
        self.clock = ClockEmbedding(16, lowest=0.25, highest=2.0)
        self.layers = nn.Sequential(nn.Linear(33, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.leave = nn.Linear(64, 1)

    def forward(self, batch, clock, previous):
        x = batch["x"][:, None]
        level = self.clock(clock["x"].to(x).expand(len(x)))
        return {"x": self.leave(self.layers(torch.cat([x, level, self.seen(batch)], 1)))[:, 0]}


def test_the_likelier_of_two_actions_is_chosen_among_draws():
    """By the density of a kernel on 32 draws; their mean is no action that was ever seen.

    After 0 then 1 the action is near 1 with probability 0.75, after 1 then 0 near -1.
    """
    torch.manual_seed(0)
    source = torch.Generator().manual_seed(0)
    orders = torch.tensor([[0, 1], [1, 0]])
    order = torch.randint(2, (4000,), generator=source)
    sign = (1 - 2 * order) * torch.where(torch.rand(4000, generator=source) < 0.75, 1, -1)
    action = sign + 0.1 * torch.randn(4000, generator=source)
    process = Product({"x": Gaussian(Cosine(), Velocity())})
    denoiser = fit(
        {"x": action},
        process,
        Policy(),
        condition={"seen": orders[order]},
        steps=800,
        learning_rate=6e-3,
    )

    def risk(answer: float, truth: float) -> float:
        return -math.exp(-0.5 * ((answer - truth) / 0.2) ** 2)

    for seen, likelier in zip(orders, (1.0, -1.0), strict=True):
        drawn = sample(denoiser, 20 * 32, steps=30, condition={"seen": seen})
        assert 0.6 < (drawn * likelier > 0).double().mean() < 0.95
        assert (drawn.mean() - likelier).abs() > 0.3
        chosen = [minimum_risk(each, risk) for each in drawn.reshape(20, 32).tolist()]
        assert max(abs(one - likelier) for one in chosen) < 0.3


def graphs(samples: int = 4, nodes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Entries of nodes, and weights of directed edges, about half of which are there."""
    source = torch.Generator().manual_seed(2)
    edges = torch.randn(samples, nodes, nodes, generator=source, dtype=torch.float64)
    entries = torch.randn(samples, nodes, 2, generator=source, dtype=torch.float64)
    return entries, edges.relu()


def graph_encoder(layers: int = 2) -> GraphEncoder:
    torch.manual_seed(0)
    return GraphEncoder(2, WIDTH, layers).double()


def test_a_graph_is_what_sums_over_lists_of_edges_make_it():
    """Node by node and edge by edge, against the product with the matrix."""
    one, (entries, edges) = graph_encoder(), graphs()
    found = one(torch.cat([entries, edges], -1))
    for x, table, features in zip(entries, edges, found, strict=True):
        nodes = [one.enter(row) for row in x]
        for layer in one.layers:
            heard = [torch.zeros(WIDTH).double() for _ in nodes]
            for i, j in torch.nonzero(table).tolist():
                heard[i] = heard[i] + table[i, j] * nodes[j]
            nodes = [
                own + layer(torch.cat([own, each])) for own, each in zip(nodes, heard, strict=True)
            ]
        torch.testing.assert_close(one.members(torch.stack(nodes)[None])[0], features)


def test_the_nodes_of_a_graph_have_no_order():
    one, (entries, edges) = graph_encoder(), graphs()
    order = torch.tensor([3, 0, 4, 2, 1])
    found = one(torch.cat([entries, edges], -1))
    turned = one(torch.cat([entries[:, order], edges[:, order][:, :, order]], -1))
    torch.testing.assert_close(turned, found, rtol=1e-10, atol=1e-10)
    alone = one(torch.cat([entries[:, order], edges], -1))  # nodes without their edges
    assert (alone - found).abs().amax(1).min() > 1e-4
    single = one.float()(torch.cat([entries[:, order], edges[:, order][:, :, order]], -1).float())
    torch.testing.assert_close(single, found.float(), rtol=0, atol=1e-6)


def test_a_graph_has_no_padding():
    """Whatever the edges of rows that are no nodes."""
    one, (entries, edges) = graph_encoder(), graphs()
    nowhere = torch.full((4, 2, 2), torch.nan, dtype=torch.float64)
    found = one(torch.cat([entries, edges], -1))
    for filling in (0.0, 3.0, torch.nan):
        whole = torch.full((4, 7, 7), filling, dtype=torch.float64)
        whole[:, :5, :5] = edges
        padded = torch.cat([torch.cat([entries, nowhere], 1), whole], -1).requires_grad_()
        torch.testing.assert_close(one(padded), found, rtol=1e-12, atol=1e-12)
        one(padded).square().sum().backward()
        assert all(bool(torch.isfinite(w.grad).all()) for w in one.parameters())


def test_an_edge_of_a_graph_matters_as_far_as_layers_see():
    """A path and a triangle differ; two triangles and a hexagon, node for node alike, do not."""
    one, entries = graph_encoder(), torch.ones(1, 6, 2).double()
    step, half = torch.arange(6), torch.arange(6) % 3
    ring = ((step[:, None] - step).abs() % 4 == 1).double()
    same = step[:, None] // 3 == step // 3
    triangles = (same & (half[:, None] != half)).double()
    path = ring.clone()
    path[0, 5] = path[5, 0] = 0.0
    hexagon, pair, opened = (
        one(torch.cat([entries, edges[None]], -1)) for edges in (ring, triangles, path)
    )
    assert ring.sum() == triangles.sum() == 12
    torch.testing.assert_close(hexagon, pair, rtol=1e-12, atol=1e-12)
    assert (hexagon - opened).abs().max() > 1e-3


def test_what_does_not_fit_is_refused():
    one = encoder()
    with pytest.raises(ValueError, match=r"knows the conditions .* not \['colour'\]"):
        one(BLANK.with_condition({"colour": torch.zeros(3)}))
    with pytest.raises(ValueError, match="encoders must have at least one condition"):
        EncodedConditions({}, WIDTH)
    narrow = EncodedConditions({"size": nn.Linear(2, 4)}, WIDTH)
    with pytest.raises(ValueError, match=r"'size' must give \(3, 6\), got \(3, 4\)"):
        narrow(BLANK.with_condition({"size": torch.zeros(3, 2)}))
    with pytest.raises(ValueError, match="features must be even"):
        SequenceEncoder(3, 5)
    with pytest.raises(
        ValueError, match=r"must be \(samples, nodes, 2 \+ nodes\), got \(3, 4, 5\)"
    ):
        GraphEncoder(2, WIDTH)(torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        GraphEncoder(2, WIDTH, 0)
