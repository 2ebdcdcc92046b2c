"""Conditions of any kind as features: one encoder for each.

An encoder is a module from the value of a condition, `(samples, *event)`, to features
`(samples, width)`: an `nn.Embedding` of class indices, an `nn.Linear` of real vectors or of
multi-hot ones, any network of images; here are those of sets, of sequences and of graphs.
`EncodedConditions` adds up what is present, so that one network stands for every conditional law
and, where nothing is present, the unconditional one.

References:
    Deep Sets (Zaheer et al., 2017), theorem 2. https://arxiv.org/abs/1703.06114
    How Powerful are Graph Neural Networks? (Xu et al., 2019), section 4: sums over neighbours.
    https://arxiv.org/abs/1810.00826
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.batch import Batch
from structdiff.nn.embedding import ClockEmbedding

__all__ = ["EncodedConditions", "GraphEncoder", "SequenceEncoder", "SetEncoder"]


class EncodedConditions(nn.Module):
    """Features of the conditions of a batch, added up.

    A condition that is present adds its encoding and a learned vector that says that it is; one
    that is absent adds nothing, whatever its value.

    Arguments:
        encoders: Name to encoder.
        width: Features that each encoder gives.

    Raises:
        ValueError: If there is no encoder; on a call, if the batch has a condition that is not
            known here, or an encoder gives features of another shape.

    Example:
        >>> encoder = EncodedConditions({"kind": nn.Embedding(3, 4), "size": nn.Linear(1, 4)}, 4)
        >>> batch = Batch.of(torch.zeros(2)).with_condition({"kind": torch.tensor([0, 2])})
        >>> encoder(batch).shape
        torch.Size([2, 4])
    """

    def __init__(self, encoders: Mapping[str, nn.Module], width: int) -> None:
        super().__init__()
        if not encoders:
            msg = "encoders must have at least one condition: {'kind': nn.Embedding(3, width)}"
            raise ValueError(msg)
        self.names, self.encoders = tuple(encoders), nn.ModuleList(encoders.values())
        self.known = nn.Parameter(torch.randn(len(encoders), width) / width**0.5)

    def forward(self, batch: Batch) -> Tensor:
        """Features of each sample, `(samples, width)`."""
        unknown = batch.condition.keys() - set(self.names)
        if unknown:
            msg = f"the model knows the conditions {sorted(self.names)}, not {sorted(unknown)}"
            raise ValueError(msg)
        total = self.known.new_zeros(batch.samples, self.known.shape[1])
        for name, encoder, known in zip(self.names, self.encoders, self.known, strict=True):
            if name in batch.condition:
                value, present = batch.condition[name], batch.present.get(name)
                if present is None:
                    total = total + self.encode(name, encoder, value) + known
                else:
                    there = present.reshape(-1, *(1,) * (value.ndim - 1))
                    found = self.encode(name, encoder, torch.where(there, value, 0)) + known
                    total = total + torch.where(present.unsqueeze(1), found, 0.0)
        return total

    def encode(self, name: str, encoder: nn.Module, value: Tensor) -> Tensor:
        """What the encoder makes of a condition."""
        found: Tensor = encoder(value)
        if found.shape != (len(value), self.known.shape[1]):
            must = f"({len(value)}, {self.known.shape[1]})"
            msg = f"the encoder of {name!r} must give {must}, got {tuple(found.shape)}"
            raise ValueError(msg)
        return found


class SetEncoder(nn.Module):
    """Features of a set of vectors, whatever their order.

    The mean over the members of a network of each, and a network of that. Rows of NaN are no
    members, so sets of different sizes share a tensor; a set may be empty.

    Arguments:
        inputs: Entries of a member.
        width: Features of the set.

    Example:
        >>> encoder = SetEncoder(2, 8)
        >>> x = torch.randn(3, 5, 2)
        >>> bool(torch.allclose(encoder(x), encoder(x.flip(1)), atol=1e-6))
        True
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.member = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
        self.whole = nn.Sequential(nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, members, inputs)` to `(samples, width)`."""
        there = ~torch.isnan(x).any(-1, keepdim=True)
        each = torch.where(there, self.member(torch.where(there, x, 0.0)), 0.0)
        mean = each.sum(1) / there.sum(1).clamp(min=1)
        found: Tensor = self.whole(mean)
        return found


class SequenceEncoder(nn.Module):
    """Features of a sequence of symbols, with their order: a set of pairs (symbol, position).

    Arguments:
        symbols: Number of symbols; negative ones are no part of the sequence.
        width: Features, even.

    Raises:
        ValueError: If the width is odd.

    Example:
        >>> encoder = SequenceEncoder(10, 8)
        >>> short, long = torch.tensor([[3, 7]]), torch.tensor([[3, 7, -1, -1]])
        >>> bool(torch.allclose(encoder(short), encoder(long)))
        True
    """

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = symbols
        self.position = ClockEmbedding(width, lowest=0.01, highest=1.5)
        self.members = SetEncoder(symbols + width, width)

    def forward(self, symbol: Tensor) -> Tensor:
        """`(samples, length)` to `(samples, width)`."""
        one_hot = F.one_hot(symbol.clamp(min=0), self.symbols).to(self.position.frequency.dtype)
        place = torch.arange(symbol.shape[1], device=symbol.device, dtype=one_hot.dtype)
        where = self.position(place).expand(*symbol.shape, -1)
        pairs = torch.cat([one_hot, where], -1)
        found: Tensor = self.members(torch.where((symbol < 0).unsqueeze(-1), torch.nan, pairs))
        return found


class GraphEncoder(nn.Module):
    """Features of a graph, whatever the order of its nodes.

    A graph is one tensor: of each node, its entries and the weights of its edges to all nodes, 0
    where there is none; `torch.cat([nodes, edges], -1)`. Each layer adds to a node a network of
    itself and of the weighted sum of its neighbours; then the nodes are a set. Rows whose entries
    are NaN are no nodes, whatever the weights of their edges, so graphs of different sizes share a
    tensor. Graphs that no comparison of neighbourhoods tells apart (two triangles and a hexagon)
    have the same features.

    Arguments:
        inputs: Entries of a node.
        width: Features of the graph.
        layers: How far a node sees, at least 1.

    Raises:
        ValueError: If there is no layer; on a call, if there is not one weight for each node.

    Example:
        >>> encoder = GraphEncoder(2, 8)
        >>> nodes, path = torch.randn(1, 3, 2), torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
        >>> there, back = (torch.cat([x, path[None]], -1) for x in (nodes, nodes.flip(1)))
        >>> bool(torch.allclose(encoder(there), encoder(back), atol=1e-6))
        True
    """

    def __init__(self, inputs: int, width: int, layers: int = 2) -> None:
        super().__init__()
        if layers < 1:
            msg = f"layers must be at least 1, got {layers}: without edges use SetEncoder"
            raise ValueError(msg)
        self.inputs, self.enter = inputs, nn.Linear(inputs, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(layers)
        )
        self.members = SetEncoder(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(samples, nodes, inputs + nodes)` to `(samples, width)`."""
        if x.ndim != 3 or x.shape[2] != self.inputs + x.shape[1]:
            must = f"(samples, nodes, {self.inputs} + nodes)"
            msg = (
                f"a graph must be {must}, got {tuple(x.shape)}: give torch.cat([nodes, edges], -1)"
            )
            raise ValueError(msg)
        entries, weights = x[..., : self.inputs], x[..., self.inputs :]
        there = ~torch.isnan(entries).any(-1, keepdim=True)
        weights = torch.where(there & there.mT, weights, 0.0)
        nodes = self.enter(torch.where(there, entries, 0.0))
        for layer in self.layers:
            nodes = nodes + layer(torch.cat([nodes, weights @ nodes], -1))
        found: Tensor = self.members(torch.where(there, nodes, torch.nan))
        return found
