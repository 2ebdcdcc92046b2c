"""What networks of graphs have in common: rows with features and positions, and pairs of rows.

Every such network is called as `network(features, position, layout)`, with all pairs of the rows
of each sample as edges, or with `pairs=` of a graph of one's own; what is known of a pair (a noisy
bond) comes in as `pair_features=`. It is equivariant: outputs are invariant under translation,
rotation and, unless it says otherwise, reflection, vectors turn with the positions, all follow a
permutation of the rows, and no sample sees another. Clocks and conditions are features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.layout import Layout
from structdiff.nn.pairs import Pairs

__all__ = ["GraphNetwork", "GraphOutput", "PackedNetwork", "check_graph"]


class GraphOutput(NamedTuple):
    """What a network says of the rows and of the pairs.

    Arguments:
        features: Invariant features of the rows, `(rows, outputs)`.
        vector: A vector for each row, `(rows, 3)`.
        pairs: Invariant features of the pairs, `(pairs, pair_outputs)`, the same for (i, j) and
            (j, i); None from a network without `pair_outputs`.
    """

    features: Tensor
    vector: Tensor
    pairs: Tensor | None


class GraphNetwork(Protocol):
    """A network of graphs in space."""

    def __call__(
        self,
        features: Tensor,
        position: Tensor,
        layout: Layout,
        *,
        pairs: Pairs | None = None,
        pair_features: Tensor | None = None,
    ) -> GraphOutput:
        """Features and vectors.

        Arguments:
            features: Invariant features, `(rows, inputs)`.
            position: Positions, `(rows, 3)`.
            layout: Which sample each row belongs to.
            pairs: The edges; all pairs of each sample by default.
            pair_features: Invariant features of the pairs, `(pairs, pair_inputs)`, in their order
                (by default that of `Layout.pairs`); None for a network without `pair_inputs`.
        """
        ...


def check_graph(
    features: Tensor,
    position: Tensor,
    layout: Layout,
    pairs: Pairs | None,
    pair_features: Tensor | None,
    *,
    inputs: int,
    pair_inputs: int,
) -> int:
    """Number of pairs; refuses inputs of another shape than a network of graphs was made for.

    Arguments:
        features: Features of the rows.
        position: Positions of the rows.
        layout: Which sample each row belongs to.
        pairs: The edges; None for all pairs of each sample.
        pair_features: Features of the pairs.
        inputs: How many features a row must have.
        pair_inputs: How many features a pair must have; 0 for none.

    Raises:
        ValueError: If one has.
    """
    rows = layout.rows
    if features.shape != (rows, inputs):
        msg = f"features must be (rows, inputs) = {(rows, inputs)}, got {tuple(features.shape)}"
        raise ValueError(msg)
    if position.shape != (rows, 3):
        msg = f"position must be (rows, 3) = {(rows, 3)}, got {tuple(position.shape)}"
        raise ValueError(msg)
    found = None if pair_features is None else tuple(pair_features.shape)
    count = sum(n * (n - 1) // 2 for n in layout.counts) if pairs is None else len(pairs.first)
    want = (count, pair_inputs) if pair_inputs else None
    if found != want:
        msg = f"pair_features must be (pairs, pair_inputs) = {want}, got {found}"
        raise ValueError(f"{msg}: give what the network was made for")
    return count


class PackedNetwork(nn.Module, ABC):
    """What is done around a network of graphs: shapes, low precision, few shapes on CPUs.

    Attributes:
        inputs: Features of a row.
        pair_inputs: Features of a pair.
        bucket: Multiples to which rows and pairs are padded in low precision on CPUs, where matrix
            products build a kernel per shape; None for no padding.
    """

    inputs: int
    pair_inputs: int
    bucket: ClassVar[tuple[int, int] | None] = (64, 512)

    @final  # type: ignore[misc]  # nn.Module declares forward writable
    def forward(
        self,
        features: Tensor,
        position: Tensor,
        layout: Layout,
        *,
        pairs: Pairs | None = None,
        pair_features: Tensor | None = None,
    ) -> GraphOutput:
        """See `GraphNetwork`.

        Raises:
            ValueError: If an input has another shape.
        """
        device = position.device.type
        low = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if low else position.dtype
        sizes = {"inputs": self.inputs, "pair_inputs": self.pair_inputs}
        count = check_graph(features, position, layout, pairs, pair_features, **sizes)
        if pairs is None:
            pairs = Pairs.complete(layout, bucket=self.bucket if low and device == "cpu" else None)
        known = position.new_zeros(count, 0) if pair_features is None else pair_features
        with torch.autocast(device, enabled=False):
            spare = (0, 0, 0, pairs.rows - layout.rows)
            known = F.pad(known, (0, 0, 0, len(pairs.first) - count)).to(position.dtype)
            rows = F.pad(features, spare), F.pad(position, spare)
            out = self.run(*rows, layout, pairs, known, dtype)
        told = None if out.pairs is None else out.pairs[:count]
        return GraphOutput(out.features[: layout.rows], out.vector[: layout.rows], told)

    @abstractmethod
    def run(
        self,
        features: Tensor,
        position: Tensor,
        layout: Layout,
        pairs: Pairs,
        known: Tensor,
        dtype: torch.dtype,
    ) -> GraphOutput:
        """The network itself, outside autocast.

        Arguments:
            features: Features of the rows, `(pairs.rows, inputs)`; spare rows come last.
            position: Positions, `(pairs.rows, 3)`.
            layout: Which sample each row belongs to, without the spare rows.
            pairs: The edges; spare pairs come last.
            known: Features of the pairs, `(pairs, pair_inputs)`.
            dtype: Precision of the heavy parts.
        """
