"""Molecules as graphs of torch-geometric, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from structdiff.domains.molecules.chemistry import bonds
from structdiff.domains.molecules.readers.records import columns
from structdiff.domains.molecules.structures import Structures

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = ["from_graphs", "to_graphs"]


def to_graphs(structures: Structures) -> list[Data]:
    """One `Data` per molecule: `z`, `pos`, `charge`, `edge_index` and `edge_attr`, the bond order.

    Each bond stands in both directions. `properties` holds what is known of the molecule, by name:
    a tensor or a word.

    Example:
        >>> nitrogen = Structures.from_list([([7, 7], [[0, 0, 0], [0, 0, 1.1]])])
        >>> to_graphs(nitrogen)[0].edge_attr.tolist()
        [3, 3]
    """
    from torch_geometric.data import Data

    graphs = []
    found = bonds(structures).split(structures)
    for m, bond in enumerate(found):
        number, position = structures.molecule(m)
        pair = torch.from_numpy(bond.pair)
        order = torch.from_numpy(bond.order)
        graphs.append(
            Data(
                z=torch.from_numpy(number.astype(np.int64)),
                pos=torch.tensor(position),
                charge=torch.from_numpy(structures.charges(m).astype(np.int64)),
                edge_index=torch.cat([pair, pair.flip(0)], 1),
                edge_attr=order.repeat(2),
                properties={
                    name: str(column[m]) if column.dtype.kind == "U" else torch.tensor(column[m])
                    for name, column in structures.properties.items()
                },
            )
        )
    return graphs


def from_graphs(graphs: Batch | Sequence[Data] | Iterable[Data]) -> Structures:
    """Molecules from graphs that have `z` and `pos`; `charge` and `properties` are kept.

    Raises:
        ValueError: If a graph lacks one of the first two.
    """
    listed = graphs.to_data_list() if hasattr(graphs, "to_data_list") else list(graphs)
    for place, graph in enumerate(listed):
        if graph.get("z") is None or graph.get("pos") is None:
            has = sorted(graph.keys())
            msg = f"graph {place} must have z (atomic numbers) and pos (Angstrom), it has {has}"
            raise ValueError(msg)
    molecules = [(g.z.cpu().numpy(), g.pos.cpu().numpy()) for g in listed]
    charge = [
        np.zeros(len(z)) if g.get("charge") is None else g.charge.cpu().numpy()
        for g, (z, _) in zip(listed, molecules, strict=True)
    ]
    known = [
        {name: _plain(value) for name, value in (g.get("properties") or {}).items()}
        for g in listed
    ]
    return replace(
        Structures.from_list(molecules),
        charge=np.concatenate([np.zeros(0), *charge]),
        properties=columns(known)[0],
    )


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        flat = value.cpu().numpy()
        return flat if flat.ndim and flat.size > 1 else flat.item()
    return value
