"""Molecules per second of equivariant networks in training, beside plain ones, and their memory.

Three plain networks are written out here, in the way of the public EDM molecules code (Hoogeboom
et al., 2022, https://arxiv.org/abs/2203.17003): a two-layer message network on [h_i; h_j; lengths]
with an attention gate, a node network, and a second network on the same input that moves the
positions. They differ in where they work:

    dense     all N x N pairs of molecules padded to the largest of the batch, as published
    packed    the ordered pairs of real atoms only
    split     packed, and the first linear layers as A h_i + B h_j + C d

Ours are `EGNN`, which computes what the published one does (edge networks split and packed, with
gradients written out), the same with blocks computed again in the backward pass, and
`PairNetwork`, whose messages are symmetric in the ends of an edge. A step is forward, backward
and Adam. The edges of plain networks are made outside the clock (that code caches them); ours make
theirs inside.

The real repository is run by `edm.py`, and cost against the number of atoms by `graph_costs.py`.

    OMP_NUM_THREADS=1 python tests/benchmarks/egnn.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timing import Contestant, ratios, where
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.domains.molecules.data import embedded
from structdiff.layout import Layout
from structdiff.nn import PairNetwork
from structdiff.nn.egnn import EGNN

INPUTS, OUTPUTS = 16, 5


@dataclass(frozen=True)
class Molecules:
    """Random features on the positions of real molecules, packed and padded."""

    features: Tensor
    position: Tensor
    layout: Layout

    def padded(self) -> Molecules:
        """Every molecule padded with atoms at the origin to the largest."""
        most = max(self.layout.counts)
        place = self.layout.sample * most + self.layout.row
        rows = self.layout.samples * most
        return Molecules(
            self.features.new_zeros(rows, INPUTS).index_copy(0, place, self.features),
            self.position.new_zeros(rows, 3).index_copy(0, place, self.position),
            Layout.ragged([most] * self.layout.samples),
        )


@dataclass(frozen=True)
class Graph:
    """Ordered pairs, and masks of what is no padding."""

    first: Tensor
    second: Tensor
    edge_mask: Tensor
    row_mask: Tensor

    @classmethod
    def of(cls, molecules: Molecules, *, dense: bool) -> Graph:
        """All pairs of the padded molecules, or those of real atoms."""
        counts = molecules.layout.counts
        most = max(counts)
        sizes = [most] * len(counts) if dense else list(counts)
        firsts, seconds, masks, rows, start = [], [], [], [], 0
        for count, size in zip(counts, sizes, strict=True):
            i = torch.arange(size).repeat_interleave(size)
            j = torch.arange(size).repeat(size)
            real = (i < count) & (j < count) & (i != j)
            keep = torch.ones_like(real) if dense else real
            firsts.append(start + i[keep])
            seconds.append(start + j[keep])
            masks.append(real[keep])
            rows.append(torch.arange(size) < count)
            start += size
        edge_mask, row_mask = torch.cat(masks), torch.cat(rows)
        return cls(
            torch.cat(firsts),
            torch.cat(seconds),
            edge_mask.float().unsqueeze(1),
            row_mask.float().unsqueeze(1),
        )


class First(nn.Module):
    """The first linear layer of a network on [h_i; h_j; lengths]."""

    def __init__(self, width: int, *, split: bool) -> None:
        super().__init__()
        self.split, self.width = split, width
        self.whole = nn.Linear(2 * width + 2, width)

    def forward(self, h: Tensor, lengths: Tensor, graph: Graph) -> Tensor:
        """Per edge."""
        if not self.split:
            return self.whole(torch.cat([h[graph.first], h[graph.second], lengths], 1))
        a, b, c = self.whole.weight.split([self.width, self.width, 2], 1)
        ours = F.linear(h, a, self.whole.bias)[graph.first]
        return ours + F.linear(h, b)[graph.second] + F.linear(lengths, c)


class PlainLayer(nn.Module):
    """Messages, node update, move."""

    def __init__(self, width: int, *, split: bool) -> None:
        super().__init__()
        self.message = First(width, split=split)
        self.second = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.node = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.move = First(width, split=split)
        self.move_rest = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1, bias=False)
        )

    def forward(self, h: Tensor, x: Tensor, start: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """New features and positions."""
        gap = x[graph.first] - x[graph.second]
        square = gap.square().sum(1, keepdim=True)
        lengths = torch.cat([square, start], 1)
        m = F.silu(self.second(F.silu(self.message(h, lengths, graph))))
        m = m * torch.sigmoid(self.gate(m)) * graph.edge_mask
        total = h.new_zeros(h.shape).index_add(0, graph.first, m) / 100
        h = (h + self.node(torch.cat([h, total], 1))) * graph.row_mask
        scalar = torch.tanh(self.move_rest(self.move(h, lengths, graph))) * graph.edge_mask
        moved = scalar * gap / ((square + 1e-8).sqrt() + 1)
        x = x + x.new_zeros(x.shape).index_add(0, graph.first, moved) / 100
        return h, x * graph.row_mask


class Plain(nn.Module):
    """A plain network of that many layers."""

    def __init__(self, layers: int, width: int, *, split: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUTS, width), nn.Linear(width, OUTPUTS)
        self.layers = nn.ModuleList(PlainLayer(width, split=split) for _ in range(layers))

    def forward(self, features: Tensor, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Features and moves."""
        begin = x
        start = (x[graph.first] - x[graph.second]).square().sum(1, keepdim=True)
        h = self.enter(features)
        for layer in self.layers:
            h, x = layer(h, x, start, graph)
        return self.leave(h), x - begin


@dataclass(frozen=True)
class Ours:
    """A network of ours, what its constructor gets beside its sizes, and the precision."""

    network: type[nn.Module]
    low: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


OURS = {
    "EGNN, float32": Ours(EGNN),
    "EGNN, bfloat16": Ours(EGNN, low=True),
    "EGNN, float32, checkpointed": Ours(EGNN, options={"checkpointed": True}),
    "PairNetwork, float32": Ours(PairNetwork),
    "PairNetwork, bfloat16": Ours(PairNetwork, low=True),
}

Run = Callable[[], tuple[Tensor, Tensor]]


def batches(size: int, number: int) -> list[Molecules]:
    """Batches of molecules of QM9."""
    data = embedded()
    chosen = np.random.default_rng(0).permutation(len(data))[: size * number].reshape(number, size)
    found = []
    for index in chosen:
        part = data.select(index)
        layout = Layout.ragged(part.count.tolist())
        position = torch.from_numpy(np.asarray(part.position, np.float32).copy())
        found.append(Molecules(torch.randn(layout.rows, INPUTS), position, layout))
    return found


def ours(
    found: list[Molecules], layers: int, width: int, kind: Ours
) -> tuple[nn.Module, list[Run]]:
    """A network of ours, and its forward pass on each batch."""
    sizes = {"layers": layers, "width": width, "hidden": width}
    network = kind.network(INPUTS, OUTPUTS, **sizes, **kind.options)

    def run(m: Molecules) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16) if kind.low else nullcontext():
            out = network(m.features, m.position, m.layout)
        return out.features, out.vector

    return network, [lambda m=m: run(m) for m in found]


def plain(
    found: list[Molecules], layers: int, width: int, kind: str
) -> tuple[nn.Module, list[Run]]:
    """A plain network, and its forward pass on each batch."""
    network = Plain(layers, width, split=kind == "split")
    ready = []
    for m in found:
        seen = m.padded() if kind == "dense" else m
        ready.append((seen.features, seen.position, Graph.of(m, dense=kind == "dense")))
    return network, [lambda r=r: network(*r) for r in ready]


def contestant(network: nn.Module, runs: list[Run], molecules: int) -> Contestant:
    """A step of training on each batch."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-4)

    def walk(_: object) -> None:
        for run in runs:
            optimiser.zero_grad()
            features, vector = run()
            (features.square().mean() + vector.square().mean()).backward()
            optimiser.step()

    return Contestant(walk, molecules)


def kept(run: Run) -> float:
    """MB that the forward pass keeps for the backward pass, the weights not counted."""
    storages: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter) and not (x.is_leaf and x.requires_grad):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        _held = run()
    return sum(storages.values()) / 1e6


def compare(size: int, layers: int, width: int, options: Any) -> str:
    """Rates of all networks at one setting, as a table."""
    found = batches(size, options.batches)
    ready = {
        "dense, padded (as published)": plain(found, layers, width, "dense"),
        "packed": plain(found, layers, width, "packed"),
        "packed, first linear split": plain(found, layers, width, "split"),
    } | {name: ours(found, layers, width, kind) for name, kind in OURS.items()}
    floor = next(iter(ready))
    many = {name: contestant(*each, size * options.batches) for name, each in ready.items()}
    times = ratios(many, floor, rounds=options.rounds, seconds=options.seconds, grad=True)
    lines = [
        "| network | molecules/s | times dense | lowest to highest round | kept, MB |",
        "|---|---|---|---|---|",
    ]
    for name, ratio in times.items():
        lines.append(
            f"| {name} | {1 / ratio.seconds:,.0f} | {1 / ratio.median:.1f} "
            f"| {1 / ratio.high:.1f} to {1 / ratio.low:.1f} | {kept(ready[name][1][0]):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU time of a turn")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--large", action="store_true", help="9 layers x 256 too: 4 GB, minutes")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(where())
    for layers, width in ((4, 64), (9, 256))[: 1 + options.large]:
        print(f"\n{layers} layers x {width} features, batches of 32\n")
        print(compare(32, layers, width, options))


if __name__ == "__main__":
    main()
