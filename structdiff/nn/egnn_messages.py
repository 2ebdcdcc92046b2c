r"""Two-layer networks of directed edges, with their gradients written out.

For the edge from row j to row i, with columns d_ij that are known of it (squared lengths, noisy
bonds), such a network is

    p = a_i + b_j + C d_ij        its first linear layer, as a term per row and one per edge
    q = W silu(p) + bias          its second

and then either silu(q) goes to row i through a gate, or w . silu(q) is a number of the edge. p is
one weighted bag of rows of a, b and C: nothing of [h_i; h_j; d_ij] is ever written out, and of all
tensors of edges only p, q and what silu makes of them are kept for the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from structdiff.nn.pairs import Pairs

__all__ = ["Directed", "EdgeNetwork", "edge_scalars", "gated_sum", "moves", "spread"]


@dataclass(frozen=True, eq=False)
class EdgeNetwork:
    """What an edge network is made of, for one set of rows.

    Arguments:
        ends: a of all rows and then b of all rows, `(2 rows, width)`.
        see: C, transposed, `(columns, width)`.
        weight: W, `(width, width)`.
        bias: Bias of the second layer, `(width,)`.
    """

    ends: Tensor
    see: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Directed:
    """The directed edges of pairs, as lists of what to add up.

    Arguments:
        pairs: The pairs.
        terms: For each edge the places of a_i, b_j and the rows of C, one edge after the other.
        term_starts: Start of each edge in `terms`, `(2 pairs,)`.
        places: All edges, `(2 pairs,)`: those to row 0, those to row 1, ...
        both_ways: The edges to row 0, to row 1, ..., then those from row 0, from row 1, ...
        both_starts: Start of each of these `2 rows` bags.
        of_pairs: The two edges of each pair, one pair after the other, `(2 pairs,)`.
    """

    pairs: Pairs
    terms: Tensor
    term_starts: Tensor
    places: Tensor
    both_ways: Tensor
    both_starts: Tensor
    of_pairs: Tensor

    @classmethod
    def of(cls, pairs: Pairs, columns: int) -> Directed:
        """The edges of these pairs, for networks that see so many columns."""
        target, edges = pairs.target, len(pairs.target)
        place = torch.arange(edges, device=target.device)
        end = 2 * pairs.edges_of + (pairs.signs < 0)
        of_end = torch.empty_like(end).scatter_(0, end, place)
        see = torch.arange(columns, device=target.device) + 2 * pairs.rows
        rows = torch.stack([target, pairs.source + pairs.rows], 1)
        return cls(
            pairs,
            torch.cat([rows, see.expand(edges, columns)], 1).reshape(-1),
            place * (2 + columns),
            place,
            torch.cat([place, of_end[end ^ 1]]),
            torch.cat([pairs.row_starts, pairs.row_starts + edges]),
            of_end,
        )

    def sum_to(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Sum over the edges to each row, `(edges, width)` to `(rows, width)`."""
        return _bags(x, self.places, self.pairs.row_starts, weights)


def _bags(x: Tensor, which: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of chosen rows, weighted."""
    return torch.embedding_bag(x, which, starts, mode=0, per_sample_weights=weights)[0]


def _layers(
    ends: Tensor, see: Tensor, weight: Tensor, bias: Tensor, seen: Tensor, edges: Directed
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, silu(p), q and silu(q)."""
    weights = torch.cat([seen.new_ones(len(seen), 2), seen], 1).reshape(-1)
    p = _bags(torch.cat([ends, see]), edges.terms, edges.term_starts, weights)
    u = F.silu(p)
    q = F.linear(u, weight, bias)
    return p, u, q, F.silu(q)


def _through_layers(
    d_q: Tensor,
    p: Tensor,
    u: Tensor,
    see: Tensor,
    weight: Tensor,
    seen: Tensor,
    edges: Directed,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ends, see, weight, bias and seen."""
    d_p = d_q @ weight
    torch.ops.aten.silu_backward.grad_input(d_p, p, grad_input=d_p)
    d_ends = _bags(d_p, edges.both_ways, edges.both_starts)
    return d_ends, seen.t() @ d_p, d_q.t() @ u, d_q.sum(0), d_p @ see.t()


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ends: Tensor,
        see: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        gate: Tensor,
        offset: Tensor,
        edges: Directed,
    ) -> tuple[Tensor, Tensor]:
        p, u, q, m = _layers(ends, see, weight, bias, seen, edges)
        open_ = torch.addmm(offset, m, gate.unsqueeze(1)).squeeze(1).sigmoid_()
        ctx.edges = edges
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(p, u, q, m, open_, see, weight, seen, gate)
        return edges.sum_to(m, open_), m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_sum: Tensor | None, d_m: Tensor | None) -> tuple[Tensor | None, ...]:
        p, u, q, m, open_, see, weight, seen, gate = ctx.saved_tensors
        edges = ctx.edges
        if d_sum is None:
            d_sum = q.new_zeros(edges.pairs.rows, q.shape[1])
        d_q = d_sum.index_select(0, edges.pairs.target)
        d_open = (m * d_q).sum(1).mul_(open_ * (1 - open_))
        d_gate, d_offset = d_open.unsqueeze(0) @ m, d_open.sum().unsqueeze(0)
        d_q.mul_(open_.unsqueeze(1)).addcmul_(d_open.unsqueeze(1), gate)
        if d_m is not None:
            d_q.add_(d_m)
        torch.ops.aten.silu_backward.grad_input(d_q, q, grad_input=d_q)
        through = _through_layers(d_q, p, u, see, weight, seen, edges)
        return *through, d_gate.squeeze(0), d_offset, None


def gated_sum(
    network: EdgeNetwork, seen: Tensor, gate: Tensor, offset: Tensor, edges: Directed
) -> tuple[Tensor, Tensor]:
    """Sum of m sigmoid(gate . m + offset) over the edges to each row, for m = silu(q).

    Arguments:
        network: The edge network.
        seen: What is known of each edge, `(edges, columns)`.
        gate: Weights of the gate, `(width,)`.
        offset: Bias of the gate, `(1,)`.
        edges: The edges.

    Returns:
        The sums `(rows, width)` and m, `(edges, width)`.
    """
    of_rows = network.ends, network.see, network.weight, network.bias
    result: tuple[Tensor, Tensor] = _GatedSum.apply(*of_rows, seen, gate, offset, edges)  # type: ignore[no-untyped-call]
    return result


class _EdgeScalars(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        ends: Tensor,
        see: Tensor,
        weight: Tensor,
        bias: Tensor,
        seen: Tensor,
        last: Tensor,
        edges: Directed,
    ) -> Tensor:
        p, u, q, m = _layers(ends, see, weight, bias, seen, edges)
        ctx.edges = edges
        ctx.save_for_backward(p, u, q, m, see, weight, seen, last)
        return (m @ last.unsqueeze(1)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        p, u, q, m, see, weight, seen, last = ctx.saved_tensors
        d_last = d.unsqueeze(0) @ m
        d_q = d.unsqueeze(1) * last
        torch.ops.aten.silu_backward.grad_input(d_q, q, grad_input=d_q)
        through = _through_layers(d_q, p, u, see, weight, seen, ctx.edges)
        return *through, d_last.squeeze(0), None


def edge_scalars(network: EdgeNetwork, seen: Tensor, last: Tensor, edges: Directed) -> Tensor:
    """The number last . silu(q) of each edge, `(edges,)`.

    Arguments:
        network: The edge network.
        seen: What is known of each edge, `(edges, columns)`.
        last: Weights of the last layer, `(width,)`.
        edges: The edges.
    """
    of_rows = network.ends, network.see, network.weight, network.bias
    result: Tensor = _EdgeScalars.apply(*of_rows, seen, last, edges)  # type: ignore[no-untyped-call]
    return result


class _Moves(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, direction: Tensor, scalar: Tensor, edges: Directed) -> Tensor:
        pairs = edges.pairs
        signed = scalar * pairs.signs.to(scalar)
        ctx.edges = edges
        ctx.save_for_backward(direction, signed)
        return _bags(direction, pairs.edges_of, pairs.row_starts, signed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor, None]:
        direction, signed = ctx.saved_tensors
        pairs = ctx.edges.pairs
        of_edges = d.index_select(0, pairs.target)
        d_scalar = (of_edges * pairs.both(direction)).sum(1).mul_(pairs.signs.to(d))
        of_edges.mul_(signed.unsqueeze(1))
        return _bags(of_edges, ctx.edges.of_pairs, pairs.edge_starts), d_scalar, None


def moves(direction: Tensor, scalar: Tensor, edges: Directed) -> Tensor:
    """Sum over the edges to row i of x_i - x_j, shortened, times their numbers, `(rows, 3)`.

    Arguments:
        direction: A multiple of x_first - x_second for each pair, `(pairs, 3)`.
        scalar: A number for each edge, `(edges,)`.
        edges: The edges.
    """
    result: Tensor = _Moves.apply(direction, scalar, edges)  # type: ignore[no-untyped-call]
    return result


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, edges: Directed) -> Tensor:
        ctx.edges = edges
        return edges.pairs.both(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return _bags(d.contiguous(), ctx.edges.of_pairs, ctx.edges.pairs.edge_starts), None


def spread(x: Tensor, edges: Directed) -> Tensor:
    """What is known of pairs, for each directed edge: `Pairs.both`, with a faster gradient."""
    result: Tensor = _Spread.apply(x, edges)  # type: ignore[no-untyped-call]
    return result
