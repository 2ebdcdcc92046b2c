r"""A graph transformer in space: attention over pairs that updates rows, pairs and samples.

A row has features h, a pair (i, j) has r, one row for both directions, and a sample has g. With
the lengths of the pairs in a radial basis, added to r before each layer that follows a move,

    u_e  = silu(r_e + A h_i + A h_j)                                    message of the pair
    s_ij = (1 + M u_e) <Q h_i, K h_j> / sqrt(d) + B u_e                 scores, one for each head
    v_e  = u_e (V h_i + V h_j)                                          values
    h_i <- h_i + W silu(O h_i + P [sum_j u_e, sum_j softmax_j(s_ij) v_e])
    r_e <- r_e + R u_e
    x_i <- x_i + sum_j (x_i - x_j) / (|x_i - x_j| + 1) (c u_e)
    g   <- g + F silu(G [g, mean_i h_i, mean_e u_e])

where A, Q, K, V and O also see g, so the sample speaks to its rows and, through both ends, to its
pairs. What acts on the ends of a pair is computed per row; pairs keep a few tensors of `width`
features, which should be small beside `hidden`. A move is antisymmetric in the ends, so all moves
of a sample sum to zero, translations drop out, and rotations and reflections go through.

References:
    MiDi: Mixed Graph and 3D Denoising Diffusion for Molecule Generation (Vignac et al., 2023).
    https://arxiv.org/abs/2302.09048
    Learning Joint 2D & 3D Diffusion Models for Complete Molecule Generation (Huang et al., 2023).
    https://arxiv.org/abs/2305.12347
    DiGress: Discrete Denoising diffusion for graph generation (Vignac et al., 2023), appendix B:
    attention modulated by edges, with updates of nodes, edges and the graph; here a head has one
    score, not one for each channel. https://arxiv.org/abs/2209.14734
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.casting import linear
from structdiff.nn.graph import GraphOutput, PackedNetwork
from structdiff.nn.graph_attention import HeadIndex, pair_attention, pair_values
from structdiff.nn.pair_head import PairHead
from structdiff.nn.pair_messages import antisymmetric_sum, gaps, gaussian_basis
from structdiff.nn.pairs import Pairs

__all__ = ["GraphTransformer"]


class State(NamedTuple):
    """Features of rows, pairs and samples between two layers."""

    rows: Tensor
    pairs: Tensor
    samples: Tensor


class _Layer(nn.Module):
    """One round of attention, with an update of rows, pairs and samples."""

    def __init__(self, width: int, hidden: int, heads: int, *, moves: bool, last: bool) -> None:
        super().__init__()
        self.heads, self.sizes = heads, [width, width, width, width, hidden]
        self.rows = _linear(hidden, 4 * width + hidden, 0.6)
        self.whole = _linear(width, 4 * width + hidden, 0.2, bias=False)
        self.scores = _linear(width, 2 * heads, 0.2, bias=False)
        self.move = _linear(width, 1, 0.1, bias=False) if moves else None
        self.gathered = _linear(2 * width, hidden, 0.5, bias=False)
        with torch.no_grad():  # sums teach at once, attention once it looks somewhere
            self.gathered.weight[:, width:] *= 0.5
        self.update = _linear(hidden, hidden, 0.3)
        self.last = last
        if not last:
            self.turn = _linear(width, width, 0.7, bias=False)
            self.pooled = _linear(2 * width + hidden, width, 1.0)
            self.global_update = _linear(width, width, 0.5)

    def forward(
        self, state: State, pairs: Pairs, layout: Layout, dtype: torch.dtype
    ) -> tuple[State, Tensor, Tensor]:
        """The next state, the scalar that each pair moves by (if it moves), and its message."""
        h, r, g = state
        normed = F.layer_norm(h, h.shape[1:])
        whole = F.layer_norm(g, g.shape[1:])
        told = linear(self.rows, normed.to(dtype))
        told = told + layout.spread(linear(self.whole, whole.to(dtype)))
        a, b, q, k, own = torch.split(told, self.sizes, 1)
        turn = None if self.last else self.turn.weight.to(dtype)
        scalars = torch.cat([part.weight for part in (self.scores, self.move) if part])
        total, value, heard, r, u = pair_values(
            r, a.contiguous(), b.contiguous(), scalars.to(dtype), turn, pairs
        )
        change, move = torch.tensor_split(heard.to(h.dtype), [2 * self.heads], 1)
        q = q * (self.heads / q.shape[1]) ** 0.5
        out = pair_attention(q, k, value, change, pairs, self.heads)
        gathered = linear(self.gathered, torch.cat([total * 0.25, out], 1))
        h = h + linear(self.update, F.silu(own + gathered)).to(h.dtype)
        if not self.last:
            g = g + self._pool(whole, normed, total.to(h.dtype), pairs, layout)
        return State(h, r, g), move, u

    def _pool(
        self, whole: Tensor, normed: Tensor, total: Tensor, pairs: Pairs, layout: Layout
    ) -> Tensor:
        """The change of the features of the samples, from means over rows and over pairs."""
        degree = HeadIndex.of(pairs, self.heads).degree
        edges = layout.sum(degree).clamp(min=1).to(total.dtype)
        seen = torch.cat([whole, layout.mean(normed), layout.sum(total) / edges.unsqueeze(1)], 1)
        return linear(self.global_update, F.silu(linear(self.pooled, seen)))


def _linear(inputs: int, outputs: int, scale: float, *, bias: bool = True) -> nn.Linear:
    """Normal weights of variance scale^2 / inputs, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=scale / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class GraphTransformer(PackedNetwork):
    """Features and a vector per row, and features per pair, by attention over the pairs.

    Heavy parts run in bfloat16 under autocast; positions, lengths and the softmax never do.

    Arguments:
        inputs: Number of input features of a row.
        outputs: Number of output features of a row.
        pair_inputs: Number of input features of a pair.
        pair_outputs: Number of output features of a pair.
        layers: Number of rounds of attention, at least 1.
        width: Features of a pair and of a sample; a multiple of `heads`.
        hidden: Features of a row.
        heads: Number of heads.
        basis: Number of radial functions, at least 2.
        lengths: Shortest and longest length that the basis covers, in the units of the positions.
        every: Positions move after each such number of layers.

    Raises:
        ValueError: If `width` is not a multiple of `heads`, or there is no layer.

    Example:
        >>> network = GraphTransformer(4, 2, pair_outputs=3, layers=2, width=8, hidden=8, heads=2)
        >>> layout = Layout.ragged([3, 2])
        >>> out = network(torch.randn(5, 4), torch.randn(5, 3), layout)
        >>> out.features.shape, out.vector.shape, out.pairs.shape
        (torch.Size([5, 2]), torch.Size([5, 3]), torch.Size([4, 3]))
    """

    centres: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        pair_inputs: int = 0,
        pair_outputs: int = 0,
        layers: int = 6,
        width: int = 64,
        hidden: int = 128,
        heads: int = 8,
        basis: int = 48,
        lengths: tuple[float, float] = (0.4, 12.0),
        every: int = 1,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            msg = f"width must be a multiple of heads, got width = {width} and heads = {heads}"
            raise ValueError(f"{msg}: each head has width / heads channels")
        if layers < 1:
            msg = f"layers must be at least 1, got {layers}: each is a round of attention"
            raise ValueError(msg)
        centres = torch.linspace(math.log(lengths[0]), math.log(lengths[1]), basis)
        self.register_buffer("centres", centres, persistent=False)
        self.spacing = float(centres[1] - centres[0])
        self.inputs, self.pair_inputs = inputs, pair_inputs
        self.enter = _linear(inputs, hidden, 1.0)
        self.whole = _linear(hidden, width, 1.0)
        self.known = _linear(pair_inputs, width, 1.0, bias=False) if pair_inputs else None
        self.moves = [(n + 1) % every == 0 and n + 1 < layers for n in range(layers)]
        self.see = nn.ModuleList(
            _linear(basis, width, 0.5 if n else 1.0, bias=False)
            for n in range(1 + sum(self.moves))
        )
        self.layers = nn.ModuleList(
            _Layer(width, hidden, heads, moves=moves, last=n + 1 == layers)
            for n, moves in enumerate(self.moves)
        )
        self.told = PairHead(hidden, width, pair_outputs) if pair_outputs else None
        self.vector = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), _linear(width, 1, 0.1, bias=False)
        )
        self.leave = _linear(hidden, outputs, 1.0)

    def _see(self, x: Tensor, pairs: Pairs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Direction (shorter than one) and radial basis of each pair."""
        gap = gaps(x, pairs)
        length = gap.square().sum(1, keepdim=True).add(1e-8).sqrt()
        seen = gaussian_basis(torch.log(length + 0.1), self.centres.to(x), self.spacing, dtype)
        return gap / (length + 1), seen

    def _start(self, features: Tensor, seen: Tensor, known: Tensor, layout: Layout) -> State:
        """Features of rows, pairs and samples before the first layer."""
        h = linear(self.enter, features.to(seen.dtype)).to(features.dtype)
        r = linear(cast("nn.Linear", self.see[0]), seen)
        if self.known is not None:
            r = r + linear(self.known, known.to(seen.dtype))
        return State(h, r, linear(self.whole, layout.mean(h)))

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
        spare = pairs.rows - layout.rows
        if spare:  # rows of a sample of their own
            layout = Layout.ragged([*layout.counts, spare], start.device)
        x = start
        direction, seen = self._see(x, pairs, dtype)
        state = self._start(features, seen, known, layout)
        sight = iter(cast("list[nn.Linear]", list(self.see)[1:]))
        for layer, moves in zip(self.layers, self.moves, strict=True):
            state, move, u = layer(state, pairs, layout, dtype)
            if moves:
                x = x + 0.3 * antisymmetric_sum(direction * move.to(x.dtype), pairs)
                direction, seen = self._see(x, pairs, dtype)
                r = torch.addmm(state.pairs, seen, next(sight).weight.to(dtype).t())
                state = state._replace(pairs=r)
        inner, _, outer = cast("tuple[nn.Linear, nn.SiLU, nn.Linear]", tuple(self.vector))
        scalar = linear(outer, F.silu(linear(inner, u))).to(x.dtype)
        vector = antisymmetric_sum(direction * scalar, pairs) + (x - start)
        h = F.layer_norm(state.rows, state.rows.shape[1:]).to(dtype)
        told = None if self.told is None else self.told(h, u, pairs).to(x.dtype)
        return GraphOutput(linear(self.leave, h).to(x.dtype), vector, told)
