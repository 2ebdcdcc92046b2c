r"""Small records with known symmetries: chiral and achiral points, reordered graphs, a crystal.

All are noiseless batches of the leaves `features` and `position`, which networks of graphs take
as they are (see `structdiff.testing.check_equivariance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from structdiff.batch import Batch
from structdiff.layout import Layout

__all__ = ["achiral", "chiral", "crystal", "mirrored", "orders", "random_graphs"]

_LENGTHS = (0.0, 1.09, 1.36, 1.76, 1.94)
"""From carbon to hydrogen, fluorine, chlorine and bromine, Angstrom."""


def _tetrahedron(kinds: Sequence[int], dtype: torch.dtype) -> Batch:
    """A carbon and what is bound to its four sides; features are one-hot kinds."""
    places = [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    kind = torch.tensor([0, *kinds])
    length = torch.tensor(_LENGTHS, dtype=torch.float64)[kind, None]
    position = torch.tensor(places) * length / 3**0.5
    leaves = {"features": torch.eye(5)[kind].to(dtype), "position": position.to(dtype)}
    return Batch(leaves, dict.fromkeys(leaves, Layout.ragged([5])))


def chiral(dtype: torch.dtype = torch.float64) -> Batch:
    """CHFClBr: no rotation brings it to its mirror image.

    Arguments:
        dtype: Of the leaves.

    Example:
        >>> sides = chiral()["position"][1:4]
        >>> bool(torch.det(sides) * torch.det(mirrored(chiral())["position"][1:4]) < 0)
        True
    """
    return _tetrahedron([1, 2, 3, 4], dtype)


def achiral(dtype: torch.dtype = torch.float64) -> Batch:
    """CH2FCl: its mirror image is it, rotated, with its two hydrogens (rows 1 and 2) exchanged.

    Arguments:
        dtype: Of the leaves.
    """
    return _tetrahedron([1, 1, 2, 3], dtype)


def mirrored(batch: Batch) -> Batch:
    """The same records with the first coordinate of `position` turned over.

    Arguments:
        batch: Records with a leaf `position`.
    """
    position = batch["position"].clone()
    position[..., 0] *= -1
    return batch.with_leaves({**batch.leaves, "position": position})


def orders(batch: Batch) -> Batch:
    """One sample in all orders of its rows: data whose law no permutation changes.

    Arguments:
        batch: A batch of one sample, all leaves with the same rows.

    Raises:
        ValueError: If there is another number of samples.

    Example:
        >>> orders(chiral()).samples
        120
    """
    if batch.samples != 1:
        msg = f"batch must have 1 sample, got {batch.samples}: select one"
        raise ValueError(msg)
    rows = next(iter(batch.layouts.values())).rows
    order = torch.tensor(list(permutations(range(rows))), device=batch.device)
    layout = Layout.ragged([rows] * len(order), batch.device)
    leaves = {name: x[order.flatten()] for name, x in batch.leaves.items()}
    return Batch(leaves, dict.fromkeys(leaves, layout))


def crystal(dtype: torch.dtype = torch.float64) -> tuple[Batch, Tensor]:
    """Five points in a triclinic cell, and the vectors of its lattice, `(3, 3)`.

    Arguments:
        dtype: Of the leaves and the cell.
    """
    cell = torch.tensor([[4.0, 0.0, 0.0], [0.6, 3.6, 0.0], [-0.5, 0.9, 3.1]]).double()
    place = torch.tensor(
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.1], [0.4, 0.9, 0.6], [0.1, 0.7, 0.8], [0.9, 0.2, 0.6]]
    ).double()
    kind = torch.tensor([0, 1, 1, 2, 2])
    leaves = {"features": torch.eye(3)[kind].to(dtype), "position": (place @ cell).to(dtype)}
    return Batch(leaves, dict.fromkeys(leaves, Layout.ragged([5]))), cell.to(dtype)


def random_graphs(
    features: int,
    *,
    pair_features: int = 0,
    counts: Sequence[int] = (5, 2, 1, 0, 7),
    share: float = 1.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Batch:
    """Normal features and positions, and edges in the leaf `pairs`.

    Arguments:
        features: Features of a row.
        pair_features: Features of a pair.
        counts: Rows of each sample.
        share: Which part of all pairs of rows are edges, chosen at random; 1 for all.
        dtype: Of the leaves.
        seed: Start of all random numbers.

    Example:
        >>> batch = random_graphs(4, pair_features=2, counts=[3, 2])
        >>> {name: tuple(x.shape) for name, x in batch.leaves.items()}
        {'features': (5, 4), 'position': (5, 3), 'pairs': (4, 2)}
    """
    random = torch.Generator().manual_seed(seed)
    layout = Layout.ragged(counts)
    edges = Layout.pairs(layout)
    if share < 1 and edges.nodes is not None:
        kept = torch.rand(edges.rows, generator=random) < share
        sample = edges.sample[kept]
        number = torch.bincount(sample, minlength=layout.samples).tolist()
        edges = replace(edges, counts=tuple(number), sample=sample, nodes=edges.nodes[:, kept])

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    leaves = {
        "features": normal(layout.rows, features),
        "position": 1.5 * normal(layout.rows, 3),
        "pairs": normal(edges.rows, pair_features),
    }
    return Batch(leaves, {"features": layout, "position": layout, "pairs": edges})
