r"""PaiNN: an equivariant network whose rows carry scalars and vectors.

A row has features h and vectors v of several channels. With r, d the length and direction of a
pair, s(r) its radial basis and * feature by feature, a layer is a message

    h_i += sum_j W s(r_ij) * (a_i + a_j)
    v_i += sum_j U s(r_ij) * (b_i v_i + b_j v_j) + V s(r_ij) * (c_i + c_j) d_ij

with a, b, c = phi(h), and then, with two linear maps P, Q of the channels, an update

    h, g = h + psi(h, |Q v|, <P v, Q v>),    v += g * P v.

Outputs are a linear map of h, and the sum over channels of v gated by h. The positions stay where
they are, so that lengths and directions are seen once. Unlike in the paper, a message hears both
ends of its pair (one product then serves both), rows are normalised, sums are divided by the
square root of the number of neighbours, <P v, Q v> enters psi, and every length is seen: a
diffusion has noisy positions, of any size. A cutoff makes all that a pair says vanish smoothly.

With `chiral=True` the channels of (P v) x (Q v) are vectors too, and v . ((P v) x (Q v)) are
features: under a reflection these change sign, so mirror images look different, as left and right
hands do; rotations still go through.

References:
    Equivariant message passing for the prediction of tensorial properties and molecular spectra
    (Schuett, Unke, Gastegger, 2021). https://arxiv.org/abs/2102.03030
    Geometry-Complete Diffusion for 3D Molecule Generation and Optimization (Morehead and Cheng,
    2023): chirality in a denoiser. https://arxiv.org/abs/2302.04313
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.casting import linear
from structdiff.nn.graph import GraphOutput, PackedNetwork
from structdiff.nn.painn_messages import Bags, scalar_messages, sum_pairs, vector_messages
from structdiff.nn.pair_head import PairHead
from structdiff.nn.pair_messages import gaps, gaussian_basis
from structdiff.nn.pairs import Pairs

__all__ = ["PaiNN"]


def _linear(inputs: int, outputs: int, scale: float, *, bias: bool = True) -> nn.Linear:
    """A linear layer with normal weights of variance scale^2 / inputs, zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=scale / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class _Perceptron(nn.Module):
    """Two linear layers."""

    def __init__(self, inputs: int, hidden: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.first = _linear(inputs, hidden, 1.0)
        self.second = _linear(hidden, outputs, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Last axis to outputs."""
        return linear(self.second, F.silu(linear(self.first, x)))


def _normed(h: Tensor, dtype: torch.dtype) -> Tensor:
    """Features of mean 0 and variance 1."""
    return F.layer_norm(h, h.shape[1:]).to(dtype)


def _tamed(v: Tensor, dtype: torch.dtype) -> Tensor:
    """Vectors over (0.1 + mean square length of the channels)^(1/2): about one, smooth at zero."""
    square = v.square().sum(0).mean(1, keepdim=True)
    return (v * torch.rsqrt(square + 0.1)).to(dtype)


class _Message(nn.Module):
    """What rows hear of their neighbours."""

    def __init__(self, width: int, hidden: int, seen: int) -> None:
        super().__init__()
        self.sizes = [hidden, width, width]
        self.say = _Perceptron(hidden, hidden, hidden + 2 * width, 1.0)
        self.filter = nn.Parameter(torch.randn(hidden + 2 * width, seen) * 0.4)

    def forward(
        self, h: Tensor, v: Tensor, seen: Tensor, direction: Tensor, bags: Bags
    ) -> tuple[Tensor, Tensor]:
        """Sums for the features and for the vectors."""
        a, b, c = torch.split(self.say(_normed(h, seen.dtype)), self.sizes, 1)
        table = torch.cat([b * _tamed(v, seen.dtype), c.unsqueeze(0)]).flatten(0, 1)
        of_features, keep, turn = torch.split(self.filter.to(seen.dtype), self.sizes)
        scalars = scalar_messages(seen, of_features, a, bags.pairs)
        vectors = vector_messages(seen, direction, keep, turn, table, bags)
        return scalars.to(h.dtype), vectors.view(v.shape).to(v.dtype)


class _Update(nn.Module):
    """What a row makes of its features and vectors."""

    def __init__(self, width: int, hidden: int, *, chiral: bool) -> None:
        super().__init__()
        kinds = 2 if chiral else 1
        self.sizes, self.chiral = [hidden] + kinds * [width], chiral
        self.left = _linear(width, width, 1.0, bias=False)
        self.right = _linear(width, width, 1.0, bias=False)
        self.mix = _Perceptron(hidden + (1 + kinds) * width, hidden, hidden + kinds * width, 0.5)

    def forward(self, h: Tensor, v: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Moves of the features and of the vectors."""
        tamed = _tamed(v, dtype)
        left, right = linear(self.left, tamed), linear(self.right, tamed)
        length = right.square().sum(0).add(1e-6).sqrt()
        known = [_normed(h, dtype), length, (left * right).sum(0)]
        turned = [left]
        if self.chiral:
            cross = torch.linalg.cross(left, right, dim=0)
            known.append((tamed * cross).sum(0))
            turned.append(cross)
        mixed = self.mix(torch.cat(known, 1))
        move, *gates = torch.split(mixed, self.sizes, 1)
        moved = gates[0] * turned[0]
        for gate, x in zip(gates[1:], turned[1:], strict=True):
            moved = torch.addcmul(moved, gate, x)
        return move.to(h.dtype), moved.to(v.dtype)


class PaiNN(PackedNetwork):
    """Invariant features and a vector per row, from features and positions.

    Heavy parts run in bfloat16 under autocast; positions and lengths never do.

    Arguments:
        inputs: Number of input features of a row.
        outputs: Number of output features of a row.
        pair_inputs: Number of input features of a pair.
        pair_outputs: Number of output features of a pair.
        layers: Number of messages and updates, at least 1.
        width: Vectors of a row.
        hidden: Features of a row.
        basis: Number of radial functions, at least 2.
        lengths: Shortest and longest length that the basis resolves, in the units of the
            positions; all others are seen too.
        cutoff: Length at which what a pair says has faded to nothing, smoothly, so that no output
            jumps where a pair enters or leaves a radius graph; None for no end.
        chiral: Whether mirror images may differ: SE(3)-equivariant, no longer E(3).

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> network = PaiNN(4, 2, layers=2, width=8, hidden=8)
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
        basis: int = 31,
        lengths: tuple[float, float] = (0.4, 12.0),
        cutoff: float | None = None,
        chiral: bool = False,
    ) -> None:
        super().__init__()
        _check(layers, basis, lengths, cutoff)
        centres = torch.linspace(math.log(lengths[0]), math.log(lengths[1]), basis)
        self.register_buffer("centres", centres, persistent=False)
        self.spacing = float(centres[1] - centres[0])
        self.cutoff, self.inputs, self.pair_inputs = cutoff, inputs, pair_inputs
        self.width = width
        seen = basis + 1 + pair_inputs
        self.enter = _linear(inputs, hidden, 1.0)
        self.messages = nn.ModuleList(_Message(width, hidden, seen) for _ in range(layers))
        self.updates = nn.ModuleList(_Update(width, hidden, chiral=chiral) for _ in range(layers))
        self.leave = _linear(hidden, outputs, 1.0)
        self.gate = _Perceptron(hidden, hidden, width, 0.5 / math.sqrt(width))
        self.told = PairHead(hidden, width, pair_outputs) if pair_outputs else None
        self.pair = _linear(seen, width, 1.0, bias=False) if pair_outputs else None

    def run(
        self,
        features: Tensor,
        x: Tensor,
        layout: Layout,
        pairs: Pairs,
        known: Tensor,
        dtype: torch.dtype,
    ) -> GraphOutput:
        """See `PackedNetwork`."""
        seen, direction, near = self._see(x, pairs, known, dtype)
        bags = Bags.of(pairs, direction, dtype)
        share = torch.rsqrt(1 + sum_pairs(near, pairs))
        h = linear(self.enter, features.to(dtype)).to(x.dtype)
        v = x.new_zeros(3, pairs.rows, self.width)
        for message, update in zip(self.messages, self.updates, strict=True):
            scalars, vectors = message(h, v, seen, direction, bags)
            h, v = h + share * scalars, v + share * vectors
            scalars, vectors = update(h, v, dtype)
            h, v = h + scalars, v + vectors
        normed = _normed(h, dtype)
        vector = (self.gate(normed).to(x.dtype) * v).sum(2).t()
        told = None
        if self.told is not None and self.pair is not None:
            of_pairs = linear(self.pair, seen) + _inner(_tamed(v, dtype), pairs)
            told = self.told(normed, of_pairs, pairs).to(x.dtype)
        return GraphOutput(linear(self.leave, normed).to(x.dtype), vector, told)

    def _see(
        self, x: Tensor, pairs: Pairs, known: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each pair: basis, one and what is known, faded; direction, below one; how near."""
        gap = gaps(x, pairs)
        length = gap.square().sum(1, keepdim=True).add(1e-8).sqrt()
        centres = self.centres.to(x)
        basis = gaussian_basis(torch.log(length + 0.1), centres, self.spacing, dtype)
        near = torch.ones_like(length)
        seen = torch.cat([basis, near.to(dtype), known.to(dtype)], 1)
        if self.cutoff is not None:
            near = 0.5 + 0.5 * torch.cos(math.pi * (length / self.cutoff).clamp(max=1))
            seen = seen * near.to(dtype)
        return seen, gap / (length + 1), near


def _inner(v: Tensor, pairs: Pairs) -> Tensor:
    """Inner products of the vectors of the ends of each pair, channel by channel."""
    return (v.index_select(1, pairs.first) * v.index_select(1, pairs.second)).sum(0)


def _check(layers: int, basis: int, lengths: tuple[float, float], cutoff: float | None) -> None:
    """Refuse what makes no network.

    Raises:
        ValueError: If a number is out of range.
    """
    if layers < 1:
        msg = f"layers must be at least 1, got {layers}: without any no row hears of another"
        raise ValueError(msg)
    if basis < 2:
        msg = f"basis must be at least 2, got {basis}: give more radial functions"
        raise ValueError(msg)
    if not 0 < lengths[0] < lengths[1]:
        msg = f"lengths must be positive and rise, got {lengths}: give the shortest and longest"
        raise ValueError(msg)
    if cutoff is not None and not cutoff > 0:
        msg = f"cutoff must be positive, got {cutoff}: give a length, or None for no end"
        raise ValueError(msg)
