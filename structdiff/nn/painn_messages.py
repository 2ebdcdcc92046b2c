r"""Sums over neighbours of scalars and vectors on undirected pairs, with gradients written out.

With g_e a filter of the pair e = (i, j) and d_e its direction, from j to i, rows need

    sum_e g_e * (a_i + a_j)                                     scalars,
    sum_e f_e * (b_i + b_j) + (+-d_e) k_e * (c_i + c_j)         vectors, component by component,

where * is feature by feature and the direction is + for the first row of a pair and - for the
second. A filter is linear in what is seen of a pair: g = W s. So a pair is worked on once for both
of its ends, nothing has the size (edges, 3, features): components are blocks of rows, and each sum
is one call of bags. The backward pass makes filters again and keeps tensors of rows alone: all
layers share the s and d of the pairs. It cannot be differentiated again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from structdiff.nn.pairs import Pairs

__all__ = ["Bags", "scalar_messages", "sum_pairs", "vector_messages"]


def _sum(x: Tensor, index: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sums of rows, one after the other in `index`."""
    # Of a table that asks for a gradient, torch makes lists for it that nothing here needs.
    table = x.detach().contiguous()
    return torch.embedding_bag(table, index, starts, mode=0, per_sample_weights=weights)[0]


@dataclass(frozen=True)
class _Lists:
    """Lists of rows and pairs in blocks: a block for x, y, z (and one more for pairs).

    Arguments:
        ends, ends_starts: The ends of each pair in each of four blocks.
        edges, edges_starts: Their transpose: the pairs of each row.
        spread, spread_starts: What the vectors of rows hear: of each component the block of the
            pairs, and the fourth along the direction.
        gather, gather_starts: Their transpose.
    """

    ends: Tensor
    ends_starts: Tensor
    edges: Tensor
    edges_starts: Tensor
    spread: Tensor
    spread_starts: Tensor
    gather: Tensor
    gather_starts: Tensor


@lru_cache(maxsize=2)
def _lists(pairs: Pairs) -> _Lists:
    """A walk asks for the same ones at every step."""
    number, rows = len(pairs.first), pairs.rows
    block = torch.arange(4, device=pairs.first.device).unsqueeze(1)
    axis = block[:3]
    of_axis = pairs.edges_of + number * axis
    along = (pairs.edges_of + 3 * number).expand(3, -1)
    ends = pairs.ends + rows * block
    starts = pairs.edge_starts + 2 * number * block
    crossed = (pairs.ends + rows * axis).view(3, number, 2).transpose(0, 1)
    tail = 6 * number + 6 * torch.arange(number, device=pairs.first.device)
    return _Lists(
        ends=ends.reshape(-1),
        ends_starts=starts.reshape(-1),
        edges=(pairs.edges_of + number * block).reshape(-1),
        edges_starts=(pairs.row_starts + 2 * number * block).reshape(-1),
        spread=torch.stack([of_axis, along], 2).reshape(-1),
        spread_starts=(2 * pairs.row_starts + 4 * number * axis).reshape(-1),
        gather=torch.cat([ends[:3].reshape(-1), crossed.reshape(-1)]),
        gather_starts=torch.cat([starts[:3].reshape(-1), tail]),
    )


@dataclass(frozen=True)
class Bags:
    """The sums of one graph with its directions.

    Arguments:
        pairs: The edges.
        lists: What is added to what.
        spread_weights: For `lists.spread`: 1, and the directions.
        gather_weights: For `lists.gather`, the same.
    """

    pairs: Pairs
    lists: _Lists
    spread_weights: Tensor
    gather_weights: Tensor

    @classmethod
    def of(cls, pairs: Pairs, direction: Tensor, dtype: torch.dtype) -> Bags:
        """From the directions of the pairs, `(pairs, 3)`, for tables of that dtype."""
        d = direction.detach().t()
        signed = d.index_select(1, pairs.edges_of) * pairs.signs.to(d)
        spread = torch.stack([torch.ones_like(signed), signed], 2)
        both = torch.stack([d, -d], 2).transpose(0, 1)
        gather = torch.cat([d.new_ones(6 * len(pairs.first)), both.reshape(-1)])
        return cls(pairs, _lists(pairs), spread.reshape(-1).to(dtype), gather.to(dtype))

    def ends(self, x: Tensor) -> Tensor:
        """x_i + x_j, `(4 rows, width)` to `(4 pairs, width)`."""
        return _sum(x, self.lists.ends, self.lists.ends_starts)

    def edges(self, x: Tensor) -> Tensor:
        """The transpose of `ends`."""
        return _sum(x, self.lists.edges, self.lists.edges_starts)

    def spread(self, x: Tensor) -> Tensor:
        """Vectors of rows from the blocks of pairs, `(4 pairs, width)` to `(3 rows, width)`."""
        lists = self.lists
        return _sum(x, lists.spread, lists.spread_starts, self.spread_weights)

    def gather(self, x: Tensor) -> Tensor:
        """The transpose of `spread`."""
        lists = self.lists
        return _sum(x, lists.gather, lists.gather_starts, self.gather_weights)


class _SumPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        return _sum(x, pairs.edges_of, pairs.row_starts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return _sum(d, ctx.pairs.ends, ctx.pairs.edge_starts), None


def sum_pairs(x: Tensor, pairs: Pairs) -> Tensor:
    """Sum over the pairs of each row, `(pairs, width)` to `(rows, width)`."""
    result: Tensor = _SumPairs.apply(x, pairs)  # type: ignore[no-untyped-call]
    return result


class _ScalarMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, seen: Tensor, weight: Tensor, a: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        ctx.save_for_backward(seen, weight, a)
        message = _sum(a, pairs.ends, pairs.edge_starts).mul_(seen @ weight.t())
        return _sum(message, pairs.edges_of, pairs.row_starts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        seen, weight, a = ctx.saved_tensors
        pairs = ctx.pairs
        d_message = _sum(d, pairs.ends, pairs.edge_starts)
        d_filter = _sum(a, pairs.ends, pairs.edge_starts).mul_(d_message)
        d_a = _sum(d_message.mul_(seen @ weight.t()), pairs.edges_of, pairs.row_starts)
        d_seen = d_filter @ weight if ctx.needs_input_grad[0] else None
        return d_seen, d_filter.t() @ seen, d_a, None


def scalar_messages(seen: Tensor, weight: Tensor, a: Tensor, pairs: Pairs) -> Tensor:
    """Sum of (W s_e) * (a_i + a_j) over the pairs of each row.

    Arguments:
        seen: What is seen of each pair, `(pairs, basis)`.
        weight: W, `(width, basis)`.
        a: What each row says, `(rows, width)`.
        pairs: The edges.
    """
    result: Tensor = _ScalarMessages.apply(seen, weight, a, pairs)  # type: ignore[no-untyped-call]
    return result


class _VectorMessages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        seen: Tensor,
        direction: Tensor,
        keep: Tensor,
        turn: Tensor,
        table: Tensor,
        bags: Bags,
    ) -> Tensor:
        ctx.bags = bags
        ctx.dtype = direction.dtype
        ctx.save_for_backward(seen, keep, turn, table)
        blocks, along = _blocks(message := bags.ends(table))
        blocks.mul_(seen @ keep.t())
        along.mul_(seen @ turn.t())
        return bags.spread(message)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor, None]:
        seen, keep, turn, table = ctx.saved_tensors
        bags = ctx.bags
        blocks, along = _blocks(bags.ends(table))
        d_blocks, d_along = _blocks(d_message := bags.gather(d))
        d_seen, d_direction, turning = None, None, seen @ turn.t()
        if ctx.needs_input_grad[1]:
            d_direction = _products(d, along * turning, bags.pairs).to(ctx.dtype)
        d_turn = along.mul_(d_along)
        x, y, z = blocks.mul_(d_blocks)
        d_keep = x.add_(y).add_(z)
        if ctx.needs_input_grad[0]:
            d_seen = (d_keep @ keep).addmm_(d_turn, turn)
        d_blocks.mul_(seen @ keep.t())
        d_along.mul_(turning)
        d_table = bags.edges(d_message)
        return d_seen, d_direction, d_keep.t() @ seen, d_turn.t() @ seen, d_table, None


def _blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks of x, y, z and the fourth, of a table of four."""
    blocks = x.view(4, len(x) // 4, x.shape[1])
    return blocks[:3], blocks[3]


def _products(d: Tensor, message: Tensor, pairs: Pairs) -> Tensor:
    """Inner products of what the ends of each pair hear, one minus the other, and a message."""
    heard = d.view(3, pairs.rows, d.shape[1])
    return torch.stack([((x[pairs.first] - x[pairs.second]) * message).sum(1) for x in heard], 1)


def vector_messages(
    seen: Tensor, direction: Tensor, keep: Tensor, turn: Tensor, table: Tensor, bags: Bags
) -> Tensor:
    """Sum of (W s_e) * (b_i + b_j) +- d_e (U s_e) * (c_i + c_j) over the pairs of each row.

    Arguments:
        seen: What is seen of each pair, `(pairs, basis)`.
        direction: d, `(pairs, 3)`, the one that the bags were made with.
        keep: W, `(width, basis)`.
        turn: U, `(width, basis)`.
        table: b_x, b_y, b_z and c of all rows, block after block, `(4 rows, width)`.
        bags: The sums.

    Returns:
        The x, y and z of all rows, block after block, `(3 rows, width)`.
    """
    result: Tensor = _VectorMessages.apply(seen, direction, keep, turn, table, bags)  # type: ignore[no-untyped-call]
    return result
