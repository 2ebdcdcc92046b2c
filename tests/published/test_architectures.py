"""Cells of neural architectures: directed acyclic graphs with an operation at each node."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff import (
    Batch,
    Categorical,
    Denoiser,
    Flow,
    Gaussian,
    Generator,
    Guided,
    Layout,
    Linear,
    Product,
    UniformTime,
    uniform,
)
from structdiff.guidance import Linearised, Rewarded
from structdiff.samplers import Ancestral
from structdiff.testing import ExactDenoiser
from tests.published.draws import uniforms

NODES, KINDS = 5, 3


def cells(count: int = 24) -> Batch:
    """Random cells: edges of the ordered nodes i < j, operations of the nodes."""
    nodes = Layout.ragged([NODES] * count)
    edges = Layout.pairs(nodes)
    edge = torch.where(uniforms(edges.rows, seed=6) < 0.5, 1.0, -1.0)
    kinds = (KINDS * uniforms(nodes.rows, seed=7)).long()
    return Batch({"edge": edge, "kind": kinds}, {"edge": edges, "kind": nodes})


def adjacency(batch: Batch) -> Tensor:
    """The decoded matrices, `(samples, nodes, nodes)`: an edge where the value is positive."""
    layout = batch.layouts["edge"]
    assert layout.nodes is not None
    i, j = layout.nodes - layout.sample * NODES
    found = torch.zeros(batch.samples, NODES, NODES)
    return found.index_put((layout.sample, i, j), (batch["edge"] > 0).double())


def score(edge: Tensor, kind: Tensor, batch: Batch) -> Tensor:
    """A predictor of how good a cell is: many edges, and operations of the last kind; smooth."""
    edges, nodes = batch.layouts["edge"], batch.layouts["kind"]
    vectors = kind if kind.is_floating_point() else F.one_hot(kind, KINDS).double()
    worth = vectors[:, :KINDS] @ torch.tensor([-0.5, 0.0, 0.5])
    return edges.sum(torch.tanh(edge)) / 2 + nodes.sum(worth)


def search() -> tuple[ExactDenoiser, Batch, Any]:
    process = Product({"edge": Gaussian(Linear()), "kind": Categorical(Flow(), uniform(KINDS))})
    data = cells()
    index = torch.zeros(150, dtype=torch.long)
    return ExactDenoiser(process, data), replace(data.select(index), ids=torch.arange(150)), data


def drawn_cells(denoiser: Denoiser, blank: Batch) -> Batch:
    with torch.no_grad():
        return Ancestral(denoiser, UniformTime(20), eta=1.0).sample(blank, Generator(3))


def test_generated_cells_are_acyclic() -> None:
    """Edges of ordered nodes: no product of n steps leads anywhere, and they are the data's."""
    denoiser, blank, data = search()
    found = adjacency(drawn_cells(denoiser, blank))
    assert torch.linalg.matrix_power(found, NODES).abs().max() == 0
    assert found.sum() > 0 and torch.tril(found).abs().max() == 0
    rows = found.flatten(1)[:, None] == adjacency(data).flatten(1)
    assert rows.all(2).any(1).double().mean() > 0.95


def test_a_predictor_raises_the_mean_score_of_cells() -> None:
    """Guided by its gradient and differences, and by a reward of the estimate; still acyclic."""
    denoiser, blank, _ = search()

    def scores(batch: Batch) -> Tensor:
        return score(batch["edge"], batch["kind"], batch)

    def of_estimates(said: Any, batch: Batch) -> Tensor:
        return score(said["edge"].value, said["kind"].value.exp(), batch)

    free = scores(drawn_cells(denoiser, blank))
    error = float(free.std()) / math.sqrt(len(free))
    guided = Guided(denoiser, lambda b, t: score(b["edge"], b["kind"], b), 1.5, Linearised())
    for steered in (guided, Rewarded(denoiser, of_estimates, 1.5)):
        found = drawn_cells(steered, blank)
        assert float(scores(found).mean()) > float(free.mean()) + 6 * error
        assert torch.linalg.matrix_power(adjacency(found), NODES).abs().max() == 0
