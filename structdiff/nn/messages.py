r"""Messages on pairs, with their gradients written out.

With u_e = silu(r_e + a_i + a_j) and v_e = u_e (b_i + b_j) for the edge e = (i, j), a layer needs the
sums of u and v over the edges of each row and the next edge features r_e + W u_e. Written as one
function, a layer keeps three edge tensors for the backward pass and touches memory half as often
as the same formulas op by op.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.nn.pairs import Pairs

__all__ = ["antisymmetric_sum", "edge_messages", "gaussian_basis"]


def _sum_ends(x: Tensor, pairs: Pairs) -> Tensor:
    """x_i + x_j for each edge."""
    return torch.embedding_bag(x, pairs.ends, pairs.edge_starts, mode=0)[0]


def _sum_edges(x: Tensor, pairs: Pairs) -> Tensor:
    """Sum over the edges of each row."""
    return torch.embedding_bag(x, pairs.edges_of, pairs.row_starts, mode=0)[0]


class _EdgeMessages(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, r: Tensor, a: Tensor, b: Tensor, weight: Tensor, pairs: Pairs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inside = _sum_ends(a, pairs).add_(r)
        u = F.silu(inside)
        gate = _sum_ends(b, pairs)
        ctx.pairs = pairs
        ctx.save_for_backward(inside, u, gate, weight)
        return _sum_edges(u, pairs), _sum_edges(u * gate, pairs), torch.addmm(r, u, weight.t()), u

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, d_sum: Tensor, d_gated: Tensor, d_next: Tensor, d_u: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        inside, u, gate, weight = ctx.saved_tensors
        pairs = ctx.pairs
        d_v = _sum_ends(d_gated.contiguous(), pairs)
        d_message = _sum_ends(d_sum.contiguous(), pairs).addcmul_(d_v, gate)
        d_message.add_(d_u).addmm_(d_next, weight)
        d_inside = torch.ops.aten.silu_backward(d_message, inside)
        d_b = _sum_edges(d_v.mul_(u), pairs)
        d_a = _sum_edges(d_inside, pairs)
        return d_inside.add_(d_next), d_a, d_b, d_next.t() @ u, None


def edge_messages(
    r: Tensor, a: Tensor, b: Tensor, weight: Tensor, pairs: Pairs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One round of messages.

    Arguments:
        r: Edge features, `(edges, width)`.
        a: What each row adds inside the activation, `(rows, width)`.
        b: What each row gates with, `(rows, width)`.
        weight: Update of the edge features, `(width, width)`.
        pairs: The edges.

    Returns:
        Sum of messages and of gated messages per row, next edge features, messages.
    """
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _EdgeMessages.apply(r, a, b, weight, pairs)
    return result


class _AntisymmetricSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pairs: Pairs) -> Tensor:  # type: ignore[override]
        ctx.pairs = pairs
        total = x.new_zeros(pairs.rows, *x.shape[1:])
        return total.index_add_(0, pairs.first, x).index_add_(0, pairs.second, x, alpha=-1)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return d.index_select(0, ctx.pairs.first) - d.index_select(0, ctx.pairs.second), None


def antisymmetric_sum(x: Tensor, pairs: Pairs) -> Tensor:
    """Add x_e to the first row of each edge and -x_e to the second."""
    result: Tensor = _AntisymmetricSum.apply(x, pairs)
    return result


class _GaussianBasis(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, centres: Tensor, width: float, dtype: torch.dtype
    ) -> Tensor:
        place = ((x - centres) / width).to(dtype)
        value = torch.square(place).mul_(-0.5).exp_()
        ctx.width = width
        ctx.dtype = x.dtype
        ctx.save_for_backward(place, value)
        return value

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        place, value = ctx.saved_tensors
        slope = (d * value).mul_(place).sum(1, keepdim=True)
        return slope.to(ctx.dtype).div_(-ctx.width), None, None, None


def gaussian_basis(x: Tensor, centres: Tensor, width: float, dtype: torch.dtype) -> Tensor:
    """exp(-((x - centre) / width)^2 / 2), `(edges, 1)` to `(edges, centres)` in `dtype`."""
    result: Tensor = _GaussianBasis.apply(x, centres, width, dtype)
    return result
