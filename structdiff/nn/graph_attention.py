r"""Attention of rows to the rows that they are paired with, with its gradients written out.

For the edge e of row i and row j, and for each head of d channels,

    s_ij = (1 + m_e) <q_i, k_j> / sqrt(d) + b_e
    a_ij = softmax_j s_ij
    out_i = sum_j a_ij v_e

where the scale m, the bias b and the value v are of the pair, and the softmax is over the edges of
row i alone. Nothing is padded: work and memory are linear in the number of edges. All sums are
bags over sorted lists, one for each row and head, so that v is never copied to both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from structdiff.nn.pair_messages import sum_edges, sum_ends
from structdiff.nn.pairs import Pairs

__all__ = ["HeadIndex", "pair_attention", "pair_values"]


@dataclass(frozen=True, eq=False)
class HeadIndex:
    """Where the scores `(2 pairs, heads)` of directed edges are, for bags over rows and heads.

    Arguments:
        heads: Number of heads.
        order: Places in the flat scores, by row, then head, then edge, `(2 pairs heads,)`.
        back: The same of the edges in the other direction, `(2 pairs heads,)`.
        starts: Start of each row and head in these, `(rows heads,)`.
        source: Row and head of the other end, `(2 pairs heads,)`.
        edge: Pair and head, `(2 pairs heads,)`.
        ways: Places in the scores of the two directions of each pair, `(2 pairs,)`.
        way_heads: Places in the flat scores of the two directions, by pair, then head.
        end_heads: Row and head of the two ends, by pair, then head, `(2 pairs heads,)`.
        pair_starts: Start of each pair and head in these, `(pairs heads,)`.
        degree: Number of edges of each row, `(rows,)`.
    """

    heads: int
    order: Tensor
    back: Tensor
    starts: Tensor
    source: Tensor
    edge: Tensor
    ways: Tensor
    way_heads: Tensor
    end_heads: Tensor
    pair_starts: Tensor
    degree: Tensor

    @classmethod
    def of(cls, pairs: Pairs, heads: int) -> HeadIndex:
        """The index of these pairs; the last is kept, for all layers and steps of a walk."""
        return _index(pairs, heads)


@lru_cache(maxsize=1)
def _index(pairs: Pairs, heads: int) -> HeadIndex:
    target, first, device = pairs.target, pairs.row_starts, pairs.target.device
    edges = len(target)
    degree = torch.diff(first, append=first.new_full((1,), edges))
    head, place = torch.arange(heads, device=device), torch.arange(edges, device=device)
    begin = first[target]
    to = (begin * heads + place - begin)[:, None] + head * degree[target][:, None]
    order = _inverse(to.flatten())
    slot = 2 * pairs.edges_of + (pairs.signs < 0)
    ways = _inverse(slot)
    other = ways[slot ^ 1]

    def by_row(x: Tensor) -> Tensor:
        return (x[:, None] * heads + head).flatten()[order].int()

    def by_pair(x: Tensor) -> Tensor:
        return (x.reshape(-1, 1, 2) * heads + head[:, None]).flatten().int()

    return HeadIndex(
        heads,
        order.int(),
        by_row(other),
        (first[:, None] * heads + head * degree[:, None]).flatten().int(),
        by_row(pairs.source),
        by_row(pairs.edges_of),
        ways,
        by_pair(ways),
        by_pair(pairs.ends),
        torch.arange(0, edges * heads, 2, device=device, dtype=torch.int32),
        degree,
    )


def _inverse(order: Tensor) -> Tensor:
    """The inverse permutation."""
    return torch.empty_like(order).scatter_(
        0, order, torch.arange(len(order), device=order.device)
    )


def _bags(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor, heads: int) -> Tensor:
    """Weighted sums of the rows of a table, for each bag and head."""
    channels = table.shape[1] // heads
    table = table.contiguous().view(-1, channels)
    bags = torch.embedding_bag(table, rows, starts, mode=0, per_sample_weights=weights)[0]
    return bags.view(-1, heads * channels)


def _dots(x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Inner product of each row and head, `(edges, heads)`; overwrites `x`."""
    channels = x.shape[1] // heads
    return torch.mv(x.mul_(y).view(-1, channels), x.new_ones(channels)).view(-1, heads)


def _softmax(s: Tensor, pairs: Pairs, degree: Tensor) -> Tensor:
    """Softmax over the edges of each row, `(2 pairs, heads)`; overwrites `s`."""
    most = torch.segment_reduce(s, "max", lengths=degree, unsafe=True)
    s = s.sub_(most.index_select(0, pairs.target)).exp_()
    total = _over_rows(s, pairs)
    return s.div_(total.index_select(0, pairs.target))


def _over_rows(x: Tensor, pairs: Pairs) -> Tensor:
    """Sum of what directed edges have, over the edges of each row."""
    places = torch.arange(len(x), device=x.device)
    return torch.embedding_bag(x, places, pairs.row_starts, mode=0)[0]


class _PairAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, value: Tensor, change: Tensor, pairs: Pairs, heads: int
    ) -> Tensor:
        index = HeadIndex.of(pairs, heads)
        dots = _dots(q.index_select(0, pairs.target), k.index_select(0, pairs.source), heads)
        dots = dots.to(change.dtype)
        scale, bias = torch.split(pairs.both(change), heads, 1)
        a = _softmax(torch.addcmul(dots + bias, dots, scale), pairs, index.degree)
        ctx.pairs, ctx.index = pairs, index
        ctx.save_for_backward(q, k, value, change, dots, a)
        weights = a.to(value.dtype).flatten().index_select(0, index.order)
        return _bags(value, index.edge, index.starts, weights, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        q, k, value, change, dots, a = ctx.saved_tensors
        pairs, index = ctx.pairs, ctx.index
        heads = index.heads
        weights = a.to(value.dtype).flatten().index_select(0, index.way_heads)
        d_value = _bags(d, index.end_heads, index.pair_starts, weights, heads)
        d_a = _dots(d.index_select(0, pairs.target), pairs.both(value), heads)
        d_s = d_a.to(a.dtype).mul_(a)
        d_s.addcmul_(a, _over_rows(d_s, pairs).index_select(0, pairs.target), value=-1)
        d_dots = torch.addcmul(d_s, d_s, pairs.both(change[:, :heads])).to(q.dtype).flatten()
        d_change = torch.cat([d_s * dots, d_s], 1)
        d_change = torch.embedding_bag(d_change, index.ways, pairs.edge_starts, mode=0)[0]
        toward = d_dots.index_select(0, index.order)
        d_q = _bags(k, index.source, index.starts, toward, heads)
        away = d_dots.index_select(0, index.back)
        d_k = _bags(q, index.source, index.starts, away, heads)
        return d_q, d_k, d_value, d_change, None, None


def pair_attention(
    q: Tensor, k: Tensor, value: Tensor, change: Tensor, pairs: Pairs, heads: int
) -> Tensor:
    """Attention of each row to its pairs; zero for a row without pairs.

    Arguments:
        q: Queries, already divided by the root of a head's channels, `(rows, heads channels)`.
        k: Keys, `(rows, heads channels)`.
        value: Values of the pairs, `(pairs, heads channels)`.
        change: Scale and bias of the scores, `(pairs, 2 heads)`; the softmax is in their dtype.
        pairs: The edges.
        heads: Number of heads.

    Returns:
        `(rows, heads channels)`, the channels of the values.
    """
    result: Tensor = _PairAttention.apply(q, k, value, change, pairs, heads)  # type: ignore[no-untyped-call]
    return result


class _PairValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, r: Tensor, a: Tensor, b: Tensor, heard: Tensor, turn: Tensor | None, pairs: Pairs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        inside = sum_ends(a, pairs).add_(r)
        u = F.silu(inside)
        gate = sum_ends(b, pairs)
        ctx.pairs = pairs
        ctx.save_for_backward(inside, u, gate, heard, turn)
        after = r.new_empty(0) if turn is None else torch.addmm(r, u, turn.t())
        return sum_edges(u, pairs), u * gate, torch.mm(u, heard.t()), after, u

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_sum: Tensor, d_value: Tensor, d_heard: Tensor, d_next: Tensor, d_u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, None]:
        inside, u, gate, heard, turn = ctx.saved_tensors
        pairs = ctx.pairs
        d_message = sum_ends(d_sum.contiguous(), pairs).addcmul_(d_value, gate)
        d_message.add_(d_u).addmm_(d_heard, heard)
        if turn is not None:
            d_message.addmm_(d_next, turn)
        d_inside = torch.ops.aten.silu_backward(d_message, inside)
        d_b = sum_edges(d_value * u, pairs)
        d_a = sum_edges(d_inside, pairs)
        if turn is None:
            return d_inside, d_a, d_b, d_heard.t() @ u, None, None
        return d_inside.add_(d_next), d_a, d_b, d_heard.t() @ u, d_next.t() @ u, None


def pair_values(
    r: Tensor, a: Tensor, b: Tensor, heard: Tensor, turn: Tensor | None, pairs: Pairs
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What each pair says: u_e = silu(r_e + a_i + a_j) and the value u_e (b_i + b_j).

    Arguments:
        r: Features of the pairs, `(pairs, width)`.
        a: What each row adds inside the activation, `(rows, width)`.
        b: What each row gates with, `(rows, width)`.
        heard: Scores and moves from u, `(outputs, width)`.
        turn: Update of the features, `(width, width)`; None where they are not updated, as in the
            last layer, and then there are no next ones.
        pairs: The edges.

    Returns:
        Sum of u per row, values, what is heard of u, next features, u.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    result = _PairValues.apply(r, a, b, heard, turn, pairs)  # type: ignore[no-untyped-call]
    return result
