"""Networks of graphs by name: one value of a config swaps them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

__all__ = ["GraphKind", "graph_network"]

GraphKind = Literal[
    "pairs", "egnn", "painn", "chiral_painn", "tensor_product", "graph_transformer"
]
"""Symmetric messages on pairs; the published EGNN; PaiNN; PaiNN that tells mirror images apart;
tensor products of e3nn; attention of atoms, pairs and the whole."""


@dataclass(frozen=True)
class _Made:
    """Where a network is, and which of the common sizes it takes."""

    module: str
    name: str
    takes: tuple[str, ...] = ("layers", "width", "hidden", "basis")
    fixed: tuple[tuple[str, Any], ...] = ()


_NETWORKS = {
    "pairs": _Made("pair_network", "PairNetwork"),
    "egnn": _Made("egnn", "EGNN", ("layers", "width", "hidden")),
    "painn": _Made("painn", "PaiNN", ("layers", "width", "hidden", "basis")),
    "chiral_painn": _Made(
        "painn", "PaiNN", ("layers", "width", "hidden", "basis"), fixed=(("chiral", True),)
    ),
    "tensor_product": _Made("tensor_product", "TensorProductNetwork"),
    "graph_transformer": _Made("graph_transformer", "GraphTransformer"),
}


def graph_network(
    kind: GraphKind,
    inputs: int,
    outputs: int,
    *,
    pair_inputs: int = 0,
    pair_outputs: int = 0,
    **sizes: Any,
) -> nn.Module:
    """A network of graphs (see `structdiff.nn.graph`) by name.

    Arguments:
        kind: Which.
        inputs: Features of a row.
        outputs: Outputs of a row, beside a vector.
        pair_inputs: Features of a pair.
        pair_outputs: Outputs of a pair.
        sizes: `layers`, `width` (features of a pair), `hidden` (of a row), `basis` (radial
            functions); a network leaves out those that it has no use for.

    Raises:
        ValueError: If there is no such network.
    """
    if kind not in _NETWORKS:
        msg = f"kind must be one of {', '.join(get_args(GraphKind))}, got {kind!r}"
        raise ValueError(msg)
    made = _NETWORKS[kind]
    taken = {name: value for name, value in sizes.items() if name in made.takes}
    ends = {"pair_inputs": pair_inputs, "pair_outputs": pair_outputs}
    module = importlib.import_module(f"structdiff.nn.{made.module}")
    network: nn.Module = getattr(module, made.name)(
        inputs, outputs, **ends, **taken, **dict(made.fixed)
    )
    return network
