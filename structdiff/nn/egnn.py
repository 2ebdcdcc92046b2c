r"""The E(n)-equivariant graph network in the published form of molecules, made fast.

With d_ij = |x_i - x_j|^2 now, d0_ij the same at the start, and [...] columns side by side, a block
is one or more rounds of messages on directed edges, from row j to row i, and then a move:

    m_ij = silu(W2 silu(W1 [h_i; h_j; d_ij; d0_ij] + b1) + b2)
    h_i <- h_i + V2 silu(V1 [h_i; sum_j m_ij sigmoid(w . m_ij + b) / z] + c1) + c2
    s_ij = r tanh(w3 . silu(U2 silu(U1 [h_i; h_j; d_ij; d0_ij] + u1) + u2))
    x_i <- x_i + sum_j s_ij (x_i - x_j) / (|x_i - x_j| + c) / z

The first linear layers are split into a term per row and one per edge, N products instead of E;
the rest of an edge network is one function with its gradient (`structdiff.nn.egnn_messages`).

`EGNN(n, n, layers=L, width=F, hidden=F)` is the network of the public EDM code with its settings
for QM9, of `nf` = F and `n_layers` = L. Its weights go here, of the same shapes:

    embedding, embedding_out                    enter, leave
    e_block_K.gcl_J.edge_mlp.{0,2}              blocks.K.rounds.J.edge.{first,second}
    e_block_K.gcl_J.att_mlp.0                   blocks.K.rounds.J.gate
    e_block_K.gcl_J.node_mlp.{0,2}              blocks.K.rounds.J.{row,update}
    e_block_K.gcl_equiv.coord_mlp.{0,2}, .4     blocks.K.edge.{first,second}, blocks.K.move

References:
    E(n) Equivariant Graph Neural Networks (Satorras et al., 2021). https://arxiv.org/abs/2102.09844
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from structdiff.layout import Layout
from structdiff.nn.casting import linear
from structdiff.nn.egnn_messages import (
    Directed,
    EdgeNetwork,
    edge_scalars,
    gated_sum,
    moves,
    spread,
)
from structdiff.nn.graph import GraphOutput, PackedNetwork
from structdiff.nn.pair_head import PairHead
from structdiff.nn.pair_messages import gaps
from structdiff.nn.pairs import Pairs

__all__ = ["EGNN"]


class _EdgeLayers(nn.Module):
    """Two linear layers on [h_i; h_j; columns], the first of them split."""

    def __init__(self, hidden: int, width: int, columns: int) -> None:
        super().__init__()
        self.hidden, self.columns = hidden, columns
        self.first = nn.Linear(2 * hidden + columns, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor) -> EdgeNetwork:
        """The edge network for these rows, in their dtype."""
        sizes = [self.hidden, self.hidden, self.columns]
        own, other, see = torch.split(self.first.weight.to(h.dtype), sizes, 1)
        ends = torch.cat([F.linear(h, own, self.first.bias.to(h.dtype)), F.linear(h, other)])
        seen = see.t() if h.dtype == self.first.weight.dtype else torch.cat([see.t(), see.t()])
        second = self.second.weight.to(h.dtype), self.second.bias.to(h.dtype)
        return EdgeNetwork(ends, seen.contiguous(), *second)


def _fine(columns: Tensor, dtype: torch.dtype) -> Tensor:
    """Columns in another dtype, and beside them what that left out, so that lengths stay exact."""
    if dtype == columns.dtype:
        return columns
    low = columns.to(dtype)
    return torch.cat([low, (columns - low).detach().to(dtype)], 1)


class _Round(nn.Module):
    """Messages to the rows."""

    def __init__(self, hidden: int, width: int, columns: int) -> None:
        super().__init__()
        self.edge = _EdgeLayers(hidden, width, columns)
        self.gate = nn.Linear(width, 1)
        self.row = nn.Linear(hidden + width, hidden)
        self.update = nn.Linear(hidden, hidden)

    def forward(
        self, h: Tensor, seen: Tensor, edges: Directed, scale: float
    ) -> tuple[Tensor, Tensor]:
        """New features of the rows, and the messages."""
        rows = h.to(seen.dtype)
        gate = self.gate.weight[0].to(rows.dtype), self.gate.bias.to(rows.dtype)
        total, m = gated_sum(self.edge(rows), seen, *gate, edges)
        inside = linear(self.row, torch.cat([rows, total * scale], 1))
        return h + linear(self.update, F.silu(inside)).to(h.dtype), m


class _Block(nn.Module):
    """Rounds of messages and a move."""

    def __init__(
        self,
        hidden: int,
        width: int,
        columns: int,
        rounds: int,
        reach: float | None,
        softness: float,
        scale: float,
    ) -> None:
        super().__init__()
        self.reach, self.softness, self.scale = reach, softness, scale
        self.rounds = nn.ModuleList(_Round(hidden, width, columns) for _ in range(rounds))
        self.edge = _EdgeLayers(hidden, width, columns)
        self.move = nn.Linear(width, 1, bias=False)
        nn.init.xavier_uniform_(self.move.weight, gain=0.001)

    def forward(
        self, h: Tensor, x: Tensor, known: Tensor, edges: Directed, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New features and positions, and the last messages; `known` is all but d_ij."""
        gap = gaps(x, edges.pairs)
        square = gap.square().sum(1, keepdim=True)
        seen = _fine(spread(torch.cat([square, known], 1), edges), dtype)
        for each in self.rounds:
            h, m = cast(_Round, each)(h, seen, edges, self.scale)
        last = self.move.weight[0].to(dtype)
        scalar = edge_scalars(self.edge(h.to(dtype)), seen, last, edges).to(x.dtype)
        if self.reach is not None:
            scalar = torch.tanh(scalar) * self.reach
        direction = gap / ((square + 1e-8).sqrt() + self.softness)
        return h, x + moves(direction, scalar, edges) * self.scale, m


class EGNN(PackedNetwork):
    """Invariant features and a vector per row, from features and positions.

    The vector is how far a row moved. Its mean over a sample is not zero, as that of published
    code is not before it is taken off. Heavy parts run in bfloat16 under autocast; positions and
    lengths never do.

    Arguments:
        inputs: Number of input features of a row.
        outputs: Number of output features of a row.
        pair_inputs: Number of input features of a pair.
        pair_outputs: Number of output features of a pair.
        layers: Number of blocks, at least 1.
        width: Features of an edge.
        hidden: Features of a row.
        rounds: Rounds of messages in a block, before its move, at least 1.
        reach: Largest move along an edge in a block, by a tanh; None for no tanh.
        softness: Length added to that of an edge before the direction is divided by it.
        divisor: What sums over edges are divided by.
        checkpointed: Keep only rows between blocks for the backward pass, and compute the edges of
            a block again in it: memory of one block, for about 40 % more time.

    Raises:
        ValueError: If there is no block or no round, or the divisor or the reach is not
            positive.

    Example:
        >>> network = EGNN(4, 2, layers=2, width=8, hidden=8)
        >>> layout = Layout.ragged([3, 2])
        >>> out = network(torch.randn(5, 4), torch.randn(5, 3), layout)
        >>> out.features.shape, out.vector.shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        pair_inputs: int = 0,
        pair_outputs: int = 0,
        layers: int = 6,
        width: int = 64,
        hidden: int = 64,
        rounds: int = 1,
        reach: float | None = 15.0,
        softness: float = 1.0,
        divisor: float = 1.0,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1 or rounds < 1:
            msg = f"layers and rounds must be at least 1, got {layers} and {rounds}"
            raise ValueError(msg)
        if not divisor > 0:
            msg = f"divisor must be positive, got {divisor}: give about the edges of a row, or 1"
            raise ValueError(msg)
        if reach is not None and not reach > 0:
            msg = f"reach must be positive or None, got {reach}: give the largest move of an edge"
            raise ValueError(msg)
        self.inputs, self.pair_inputs, self.checkpointed = inputs, pair_inputs, checkpointed
        self.enter = nn.Linear(inputs, hidden)
        sizes = hidden, width, 2 + pair_inputs, rounds
        self.blocks = nn.ModuleList(
            _Block(*sizes, reach, softness, 1 / divisor) for _ in range(layers)
        )
        self.told = PairHead(hidden, width, pair_outputs) if pair_outputs else None
        self.leave = nn.Linear(hidden, outputs)

    def run(
        self,
        features: Tensor,
        start: Tensor,
        layout: Layout,
        pairs: Pairs,
        known: Tensor,
        dtype: torch.dtype,
    ) -> GraphOutput:
        """See `PackedNetwork`."""
        h, x = linear(self.enter, features.to(dtype)).to(start.dtype), start
        before = gaps(start, pairs).square().sum(1, keepdim=True)
        known = torch.cat([before, known], 1)
        columns = 1 + known.shape[1]
        edges = Directed.of(pairs, columns if dtype == start.dtype else 2 * columns)
        for block in self.blocks:
            if self.checkpointed:
                h, x, m = checkpoint(block, h, x, known, edges, dtype, use_reentrant=False)
            else:
                h, x, m = block(h, x, known, edges, dtype)
        h = h.to(dtype)
        told = None if self.told is None else self.told(h, pairs.joined(m), pairs).to(x.dtype)
        return GraphOutput(linear(self.leave, h).to(x.dtype), x - start, told)
