"""Time and memory of the networks of graphs against the number of atoms.

Clouds of atoms at the density of organic matter (0.1 per cubic Angstrom), either with all pairs as
edges or with those closer than a radius, for which the number of edges grows with the number of
atoms. A step is forward and backward; a batch has as many clouds as make about the same number of
pairs, so that small ones are not timed by their overhead. Linear in the edges is a flat line in
the last columns of the table: time and memory of a pair.

Memory is what the forward pass keeps for the backward pass.

    OMP_NUM_THREADS=1 python tests/benchmarks/graph_costs.py --plot costs.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from edm_speed import INPUTS, KINDS
from egnn import kept
from timing import Contestant, ratios, where
from torch import Tensor, nn

from structdiff.layout import Layout
from structdiff.nn.pairs import Pairs

ATOMS = (5, 10, 20, 50, 100, 200, 500)
DENSITY = 0.1


@dataclass(frozen=True)
class Clouds:
    """Clouds of atoms, and the radius inside which they are joined; None for all pairs."""

    features: Tensor
    position: Tensor
    layout: Layout
    pairs: Pairs

    @classmethod
    def drawn(cls, atoms: int, radius: float | None, pairs: int) -> Clouds:
        """As many as have about so many pairs, at least one."""
        each = cls.of(atoms, radius, 1)
        number = max(1, round(pairs / max(1, len(each.pairs.first))))
        return cls.of(atoms, radius, number)

    @classmethod
    def of(cls, atoms: int, radius: float | None, number: int) -> Clouds:
        """So many, each uniform in a ball."""
        layout = Layout.ragged([atoms] * number)
        ball = (3 * atoms / (4 * np.pi * DENSITY)) ** (1 / 3)
        way = nn.functional.normalize(torch.randn(layout.rows, 3))
        position = ball * torch.rand(layout.rows, 1) ** (1 / 3) * way
        pairs = (
            Pairs.complete(layout) if radius is None else Pairs.within(position, layout, radius)
        )
        return cls(torch.randn(layout.rows, INPUTS), position, layout, pairs)


@dataclass(frozen=True)
class Cost:
    """Of one network on clouds of one size, for one cloud."""

    network: str
    graph: str
    atoms: int
    pairs: float
    seconds: float
    megabytes: float


Run = Callable[[], tuple[Tensor, Tensor]]


def forward(network: nn.Module, clouds: Clouds) -> Run:
    """The forward pass."""

    def run() -> tuple[Tensor, Tensor]:
        out = network(clouds.features, clouds.position, clouds.layout, pairs=clouds.pairs)
        return out.features, out.vector

    return run


def step(run: Run) -> Callable[[object], None]:
    """Forward and backward."""

    def walk(_: object) -> None:
        features, vector = run()
        (features.square().mean() + vector.square().mean()).backward()

    return walk


def costs(clouds: Clouds, graph: str, options: argparse.Namespace) -> list[Cost]:
    """Of all networks, in turns."""
    samples, atoms = clouds.layout.samples, clouds.layout.counts[0]
    pairs = len(clouds.pairs.first) / samples
    runs = {
        name: forward(KINDS[name].make(options.layers, options.width), clouds)
        for name in options.networks
    }
    times = ratios(
        {name: Contestant(step(run), samples) for name, run in runs.items()},
        options.networks[0],
        rounds=options.rounds,
        seconds=0.0,
        grad=True,
    )
    return [
        Cost(name, graph, atoms, pairs, times[name].seconds, kept(run) / samples)
        for name, run in runs.items()
    ]


def table(found: list[Cost]) -> str:
    """Markdown, by network."""
    lines = [
        "| network | graph | atoms | pairs | ms | MB | microseconds a pair | kB a pair |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in sorted(found, key=lambda c: (c.network, c.graph, c.atoms)):
        lines.append(
            f"| {c.network} | {c.graph} | {c.atoms} | {c.pairs:,.0f} | {1e3 * c.seconds:.2f} "
            f"| {c.megabytes:.2f} | {1e6 * c.seconds / c.pairs:.2f} "
            f"| {1e3 * c.megabytes / c.pairs:.2f} |"
        )
    return "\n".join(lines)


def slopes(found: list[Cost], least: int) -> str:
    """Exponents of time and memory in the pairs: 1 is linear."""
    lines = ["| network | time ~ pairs^ | memory ~ pairs^ |", "|---|---|---|"]
    for name in dict.fromkeys(c.network for c in found):
        mine = [c for c in found if c.network == name and c.atoms >= least]
        pairs = np.log([c.pairs for c in mine])
        time, memory = (
            np.polyfit(pairs, np.log(values), 1)[0]
            for values in ([c.seconds for c in mine], [c.megabytes for c in mine])
        )
        lines.append(f"| {name} | {time:.2f} | {memory:.2f} |")
    return "\n".join(lines)


def plot(found: list[Cost], path: Path) -> None:
    """Time and memory of a cloud, above: against atoms, below: against pairs."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 8), sharey="col", layout="constrained")
    for row, (along, name) in enumerate((("atoms", "atoms"), ("pairs", "pairs of atoms"))):
        for axis, what, label in zip(
            axes[row],
            ("seconds", "megabytes"),
            ("forward and backward, s", "kept for the backward pass, MB"),
            strict=True,
        ):
            for colour, network in enumerate(dict.fromkeys(c.network for c in found)):
                for graph in dict.fromkeys(c.graph for c in found):
                    mine = [c for c in found if (c.network, c.graph) == (network, graph)]
                    axis.loglog(
                        [getattr(c, along) for c in mine],
                        [getattr(c, what) for c in mine],
                        "o-" if graph == "all pairs" else "s--",
                        color=f"C{colour}",
                        markersize=4,
                        label=f"{network}, {graph}",
                    )
            axis.set(xlabel=name, ylabel=label)
            axis.grid(alpha=0.3)
    low, high = axes[1, 0].get_xlim()
    for axis in axes[1]:
        middle = np.exp(np.mean(np.log(axis.get_ylim())))
        ends = np.array([low, high])
        axis.plot(ends, middle * ends / np.sqrt(low * high), ":", color="grey", label="linear")
    figure.legend(handles=[*axes[1, 1].lines], loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Print the tables and draw the plot."""
    here = [name for name, kind in KINDS.items() if kind.here()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=here, default=here)
    parser.add_argument("--atoms", nargs="+", type=int, default=ATOMS)
    parser.add_argument("--radius", type=float, default=4.0, help="Angstrom")
    parser.add_argument("--pairs", type=int, default=5000, help="of a batch, about")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="where the picture goes")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(where())
    found: list[Cost] = []
    for radius, graph in ((None, "all pairs"), (options.radius, f"radius {options.radius:g}")):
        for atoms in options.atoms:
            found += costs(Clouds.drawn(atoms, radius, options.pairs), graph, options)
    print(f"\n{options.layers} layers x {options.width} features, float32, of one cloud\n")
    print(table(found))
    print("\nfrom 20 atoms on\n")
    print(slopes(found, 20))
    if options.plot is not None:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
