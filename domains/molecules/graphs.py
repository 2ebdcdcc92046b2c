"""Molecules as graphs of torch-geometric, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from structdiff.domains.molecules.chemistry import bonds
from structdiff.domains.molecules.structures import Structures

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = ["from_graphs", "to_graphs"]


def to_graphs(structures: Structures) -> list[Data]:
    """One `Data` per molecule: `z`, `pos`, `edge_index` and `edge_attr`, the bond order.

    Each bond stands in both directions.

    Example:
        >>> nitrogen = Structures.from_list([([7, 7], [[0, 0, 0], [0, 0, 1.1]])])
        >>> to_graphs(nitrogen)[0].edge_attr.tolist()
        [3, 3]
    """
    from torch_geometric.data import Data

    graphs = []
    found = bonds(structures).split(structures)
    for (number, position), bond in zip(structures, found, strict=True):
        pair = torch.from_numpy(bond.pair)
        order = torch.from_numpy(bond.order)
        graphs.append(
            Data(
                z=torch.from_numpy(number.astype(np.int64)),
                pos=torch.tensor(position),
                edge_index=torch.cat([pair, pair.flip(0)], 1),
                edge_attr=order.repeat(2),
            )
        )
    return graphs


def from_graphs(graphs: Batch | Sequence[Data] | Iterable[Data]) -> Structures:
    """Molecules from graphs that have `z` and `pos`.

    Raises:
        ValueError: If a graph lacks one of them.
    """
    listed = graphs.to_data_list() if hasattr(graphs, "to_data_list") else list(graphs)
    for place, graph in enumerate(listed):
        if graph.get("z") is None or graph.get("pos") is None:
            has = sorted(graph.keys())
            msg = f"graph {place} must have z (atomic numbers) and pos (Angstrom), it has {has}"
            raise ValueError(msg)
    return Structures.from_list([(g.z.cpu().numpy(), g.pos.cpu().numpy()) for g in listed])
