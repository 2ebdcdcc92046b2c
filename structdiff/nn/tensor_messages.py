r"""Sums of turned and weighted features over the directed edges of each row, with their gradients.

The edge from row j to row i has a small matrix T_ij, which turns features of one degree into those
of several paths, and weights that it shares with the edge from i to j,

    s_i^{kc} = sum_j w_{ij}^{p(k) c} sum_d T_ij^{kd} x_j^{dc},

for component k of path p(k) and channel c. Messages are larger than anything else; written as one
function, none is kept for the backward pass, which makes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from structdiff.nn.pairs import Pairs

__all__ = ["Edges", "turned_sum"]


@dataclass(frozen=True)
class Edges:
    """The directed edges of pairs, both of one pair after the other: first to its first row.

    Arguments:
        source: The row that each edge begins at, `(2 pairs,)`.
        target: The row that it ends at.
        arriving: The edges of each target, one row after the other.
        leaving: The edges of each source, in the same places.
        starts: Where each row begins in both, `(rows,)`.

    Example:
        >>> edges = Edges.of(Pairs.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3))
        >>> edges.source.tolist(), edges.target.tolist(), edges.arriving.tolist()
        ([1, 0, 2, 1], [0, 1, 1, 2], [0, 1, 2, 3])
    """

    source: Tensor
    target: Tensor
    arriving: Tensor
    leaving: Tensor
    starts: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> Edges:
        """Of an undirected graph."""
        source = torch.stack([pairs.second, pairs.first], 1).flatten()
        second = (pairs.signs < 0).long()
        arriving = 2 * pairs.edges_of + second
        return cls(source, pairs.ends, arriving, arriving + 1 - 2 * second, pairs.row_starts)


def _sum(x: Tensor, edges: Tensor, starts: Tensor) -> Tensor:
    """Sums over the edges of each row, `(2 pairs, width)` to `(rows, width)`."""
    return torch.embedding_bag(x, edges, starts, mode=0)[0]


class _TurnedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, turns: Tensor, weights: Tensor, path: Tensor, edges: Edges
    ) -> Tensor:
        ctx.edges = edges
        ctx.save_for_backward(x, turns, weights, path)
        messages = _turned(turns, x.index_select(0, edges.source))
        _both(messages).mul_(weights.index_select(1, path).unsqueeze(1))
        total = _sum(messages.flatten(1), edges.arriving, edges.starts)
        return total.view(len(x), len(path), x.shape[2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None]:
        x, turns, weights, path = ctx.saved_tensors
        edges: Edges = ctx.edges
        sent = x.index_select(0, edges.source)
        d_messages = d.index_select(0, edges.target)
        products = _both(_turned(turns, sent).mul_(d_messages))
        d_weights = torch.zeros_like(weights)
        d_weights.index_add_(1, path, products[:, 0] + products[:, 1])
        _both(d_messages).mul_(weights.index_select(1, path).unsqueeze(1))
        d_turns = None
        if ctx.needs_input_grad[1]:
            d_turns = torch.bmm(d_messages, sent.transpose(1, 2))
        d_sent = _turned_back(turns, d_messages)
        d_x = _sum(d_sent.flatten(1), edges.leaving, edges.starts).view_as(x)
        return d_x, d_turns, d_weights, None, None


def _turned(turns: Tensor, x: Tensor) -> Tensor:
    """T x; batched products of a column and a row are slow."""
    return turns * x if turns.shape[2] == 1 else torch.bmm(turns, x)


def _turned_back(turns: Tensor, x: Tensor) -> Tensor:
    """T^t x."""
    if turns.shape[2] == 1:
        return (turns * x).sum(1, keepdim=True)
    return torch.bmm(turns.transpose(1, 2), x)


def _both(x: Tensor) -> Tensor:
    """The two edges of a pair together, `(pairs, 2, components, channels)`."""
    return x.view(len(x) // 2, 2, *x.shape[1:])


def turned_sum(x: Tensor, turns: Tensor, weights: Tensor, path: Tensor, edges: Edges) -> Tensor:
    """Sum of the messages that arrive at each row, `(rows, components, channels)`.

    Arguments:
        x: Features of one degree, `(rows, 2 degree + 1, channels)`.
        turns: T, `(2 pairs, components, 2 degree + 1)`.
        weights: w, `(pairs, paths, channels)`.
        path: The path of each component, `(components,)`.
        edges: The edges.
    """
    result: Tensor = _TurnedSum.apply(x, turns, weights, path, edges)  # type: ignore[no-untyped-call]
    return result
