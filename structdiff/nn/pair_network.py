r"""An E(3)-equivariant graph network on undirected pairs.

Each edge (i, j) carries features r, from a Gaussian basis of its log length. In each layer
u = silu(r + A h_i + A h_j) is its message (the first edge linear split into a term per row, N
products instead of E), rows are updated by the sums of u and of u (B h_i + B h_j), and r by W u.
Positions move along x_i - x_j by scalars of u, antisymmetrically, so the sum of all moves is zero;
translations drop out, and rotations and reflections go through.

References:
    E(n) Equivariant Graph Neural Networks (Satorras et al., 2021). https://arxiv.org/abs/2102.09844
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.casting import linear
from structdiff.nn.graph import GraphOutput, PackedNetwork
from structdiff.nn.pair_head import PairHead
from structdiff.nn.pair_messages import antisymmetric_sum, edge_messages, gaps, gaussian_basis
from structdiff.nn.pairs import Pairs

__all__ = ["PairNetwork"]


class _Layer(nn.Module):
    """Messages on the edges, an update of the rows, and maybe a move."""

    def __init__(self, width: int, hidden: int, basis: int, *, moves: bool) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        self.rows = nn.Linear(hidden, 2 * width + hidden)
        self.gathered = nn.Linear(2 * width, hidden, bias=False)
        self.update = nn.Linear(hidden, hidden)
        self.edge = nn.Linear(width, width, bias=False)
        self.move = nn.Linear(width, 1, bias=False) if moves else None
        self.see = nn.Linear(basis, width, bias=False) if moves else None
        for layer, scale in ((self.gathered, 0.5), (self.update, 0.3), (self.edge, 0.7)):
            _initialise(layer, scale)
        if self.move is not None and self.see is not None:
            _initialise(self.move, 0.1)
            _initialise(self.see, 0.5)


def _initialise(linear: nn.Linear, scale: float) -> nn.Linear:
    """Normal weights of variance scale^2 / inputs, zero bias."""
    nn.init.normal_(linear.weight, std=scale / math.sqrt(linear.in_features))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


class PairNetwork(PackedNetwork):
    """Invariant features and a vector per row, from features and positions.

    Heavy parts run in bfloat16 under autocast; positions and lengths never do.

    Arguments:
        inputs: Number of input features of a row.
        outputs: Number of output features of a row.
        pair_inputs: Number of input features of a pair.
        pair_outputs: Number of output features of a pair.
        layers: Number of rounds of messages, at least 1.
        width: Features of an edge.
        hidden: Features of a row.
        basis: Number of radial functions, at least 2.
        lengths: Shortest and longest length that the basis covers, in the units of the positions.
        every: Positions move after each such number of layers.

    Example:
        >>> network = PairNetwork(4, 2, layers=2, width=8, hidden=8)
        >>> layout = Layout.ragged([3, 2])
        >>> out = network(torch.randn(5, 4), torch.randn(5, 3), layout)
        >>> out.features.shape, out.vector.shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
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
        basis: int = 48,
        lengths: tuple[float, float] = (0.4, 12.0),
        every: int = 1,
    ) -> None:
        super().__init__()
        centres = torch.linspace(math.log(lengths[0]), math.log(lengths[1]), basis)
        self.register_buffer("centres", centres, persistent=False)
        self.spacing = float(centres[1] - centres[0])
        self.enter = _initialise(nn.Linear(inputs, hidden), 1.0)
        self.inputs, self.pair_inputs = inputs, pair_inputs
        self.see = _initialise(nn.Linear(basis, width), 1.0)
        self.known = (
            _initialise(nn.Linear(pair_inputs, width, bias=False), 1.0) if pair_inputs else None
        )
        self.layers = nn.ModuleList(
            _Layer(width, hidden, basis, moves=(k + 1) % every == 0 and k + 1 < layers)
            for k in range(layers)
        )
        self.told = PairHead(hidden, width, pair_outputs) if pair_outputs else None
        self.vector = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False)
        )
        _initialise(self.vector[2], 0.1)  # type: ignore[arg-type]
        self.leave = _initialise(nn.Linear(hidden, outputs), 1.0)

    def _see(self, x: Tensor, pairs: Pairs, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Direction (shorter than one) and radial basis of each edge."""
        gap = gaps(x, pairs)
        length = gap.square().sum(1, keepdim=True).add(1e-8).sqrt()
        seen = gaussian_basis(torch.log(length + 0.1), self.centres.to(x), self.spacing, dtype)
        return gap / (length + 1), seen

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
        h = linear(self.enter, features.to(dtype)).to(start.dtype)
        x = start
        direction, seen = self._see(x, pairs, dtype)
        r = linear(self.see, seen)
        if self.known is not None:
            r = r + linear(self.known, known.to(dtype))
        layers = cast("list[_Layer]", list(self.layers))
        for layer in layers:
            normed = F.layer_norm(h, h.shape[1:]).to(dtype)
            sizes = [layer.width, layer.width, layer.hidden]
            a, b, own = torch.split(linear(layer.rows, normed), sizes, 1)
            total, gated, r, u = edge_messages(
                r,
                a.contiguous(),
                b.contiguous(),
                None if layer is layers[-1] else layer.edge.weight.to(dtype),
                pairs,
            )
            gathered = linear(layer.gathered, torch.cat([total, gated], 1) * 0.25)
            h = h + linear(layer.update, F.silu(own + gathered)).to(h.dtype)
            if layer.move is not None and layer.see is not None:
                x = x + 0.3 * antisymmetric_sum(
                    direction * linear(layer.move, u).to(x.dtype), pairs
                )
                direction, seen = self._see(x, pairs, dtype)
                r = torch.addmm(r, seen, layer.see.weight.to(dtype).t())
        inner, _, outer = cast("tuple[nn.Linear, nn.SiLU, nn.Linear]", tuple(self.vector))
        scalar = linear(outer, F.silu(linear(inner, u))).to(x.dtype)
        vector = antisymmetric_sum(direction * scalar, pairs) + (x - start)
        h = F.layer_norm(h, h.shape[1:]).to(dtype)
        told = None if self.told is None else self.told(h, u, pairs).to(x.dtype)
        return GraphOutput(linear(self.leave, h).to(x.dtype), vector, told)
