"""Molecules as graphs of torch-geometric, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from structdiff.domains.molecules.chemistry import bonds
from structdiff.domains.molecules.readers.records import columns, tidy
from structdiff.domains.molecules.structures import AROMATIC, Bonds, Structures

if TYPE_CHECKING:
    from torch_geometric.data import Batch, Data

__all__ = ["from_graphs", "to_graphs"]


def to_graphs(structures: Structures) -> list[Data]:
    """One `Data` per molecule: `z`, `pos`, `charge`, `edge_index` and `edge_attr`, the bond order.

    Bonds are those that the molecules came with, else those of their distances. Each stands in
    both directions, `edge_attr` is 4 for an aromatic one. `properties` holds what is known of the
    molecule, by name: a tensor or a word.

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
    """Molecules from graphs that have `z` and `pos`; `charge`, `properties` and bonds are kept.

    Edges are bonds if each graph has some, in one direction or both, with the orders 1, 2, 3 or 4
    (aromatic) as `edge_attr`, `(edges,)` or one-hot as in torch-geometric's QM9, `(edges, 4)`.
    Other edges (neighbours, say) are not read.

    Raises:
        ValueError: If a graph lacks one of the first two, or its bonds contradict each other.
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
    atoms = Structures.from_list(molecules)
    return replace(
        atoms,
        charge=np.concatenate([np.zeros(0), *charge]),
        properties=columns(known)[0],
        bond=_bonds(listed, atoms),
    )


def _bonds(graphs: Sequence[Data], atoms: Structures) -> Bonds | None:
    """The bonds of all graphs, if their edges are such."""
    orders = [order for order in map(_orders, graphs) if order is not None]
    if len(orders) < len(graphs):
        return None
    tables = [np.zeros((3, 0), np.int64)]
    for place, (graph, order) in enumerate(zip(graphs, orders, strict=True)):
        ends = np.sort(graph.edge_index.cpu().numpy(), axis=0)
        once = np.unique(np.stack([*ends, order]), axis=1)
        try:
            tables.append(tidy(once[:2], once[2]))
        except ValueError as error:
            msg = f"edges of graph {place} with orders as edge_attr are bonds: {error}"
            raise ValueError(msg) from None
    whole = np.concatenate(tables, axis=1)
    molecule = np.repeat(np.arange(len(graphs)), [table.shape[1] for table in tables[1:]])
    return Bonds(whole[:2] + atoms.offsets[molecule], whole[2], molecule)


def _orders(graph: Data) -> NDArray[np.int64] | None:
    """The bond order of each edge of a graph, or None if its edges are not bonds."""
    edges, kinds = graph.get("edge_index"), graph.get("edge_attr")
    if edges is None or kinds is None or not edges.shape[1]:
        return None
    kind = kinds.cpu().numpy()
    if kind.ndim == 2 and kind.shape[1] == AROMATIC and (kind.sum(1) == 1).all():
        return np.asarray(kind.argmax(1) + 1, np.int64)
    flat = kind.reshape(len(kind), -1)
    good = flat.shape[1] == 1 and np.isin(flat, range(1, AROMATIC + 1)).all()
    return np.asarray(flat[:, 0], np.int64) if good else None


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        flat = value.cpu().numpy()
        return flat if flat.ndim and flat.size > 1 else flat.item()
    return value
