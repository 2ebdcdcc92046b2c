"""Rows that die and are born: sizes along a walk, and the sets that come back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from structdiff import Batch, Flow, Generator, Layout, Linear, Randomness, UniformTime
from structdiff.counter import Counter
from structdiff.processes.deletion import Deletion, Insertion
from structdiff.schedules import CLEAN

POINTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
SETS = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
WEIGHTS = torch.tensor([0.1, 0.3, 0.25, 0.2, 0.15], dtype=torch.float64)


class Exact(Insertion):
    """What has been lost, by Bayes' rule over the five sets."""

    def __init__(self, deletion: Deletion) -> None:
        self.deletion = deletion

    def posterior(self, batch: Batch, t: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the sets, and the points that each has beside a sample's."""
        alpha, layout = self.deletion.alpha(float(t)), batch.layouts["x"]
        point = torch.cdist(batch["x"], POINTS).argmin(1)
        present = torch.zeros(batch.samples, 4).index_put((layout.sample, point), torch.ones(()))
        here = present.bool()[:, None]
        lost = SETS & ~here
        possible = ~(here & ~SETS).any(-1)
        weight = WEIGHTS * possible * (1 - alpha) ** lost.sum(-1)
        return weight / weight.sum(-1, keepdim=True), lost

    def missing(self, batch: Batch, t: Tensor) -> Tensor:
        posterior, lost = self.posterior(batch, t)
        return (posterior * lost.sum(-1)).sum(-1)

    def insert(
        self, batch: Batch, t: Tensor, samples: Tensor, random: Randomness
    ) -> Mapping[str, Tensor]:
        posterior, lost = self.posterior(batch, t)
        share = (posterior[..., None] * lost).sum(1)[samples]
        u = random.uniform((len(samples), 1), torch.float64, "cpu")
        edges = share.cumsum(-1)
        point = (edges <= u * edges[:, -1:]).sum(-1)
        return {"x": POINTS[point], "name": point}


def many(sizes: list[int]) -> Batch:
    layout = Layout.ragged(sizes)
    x = torch.arange(layout.rows)
    return Batch({"x": x, "y": x.double()}, {"x": layout, "y": layout})


def test_sizes_are_binomial_and_survivors_keep_their_values() -> None:
    deletion, batch = Deletion(Flow()), many([5, 2] * 5_000)
    direct = deletion.corrupt(batch, CLEAN, 0.6, Generator(0))
    through = deletion.corrupt(
        deletion.corrupt(batch, CLEAN, 0.2, Generator(1)), 0.2, 0.6, Generator(2)
    )
    for found in (direct, through):
        assert torch.equal(found["x"].double(), found["y"])
        sizes = torch.tensor(found.layouts["x"].counts)
        for start, n in enumerate((5, 2)):
            law = [math.comb(n, k) * 0.4**k * 0.6 ** (n - k) for k in range(n + 1)]
            k = torch.arange(n + 1)
            stated = deletion.size_log_prob(k, torch.full_like(k, n), 0.6).exp()
            torch.testing.assert_close(stated, torch.tensor(law, dtype=torch.float64))
            share = torch.bincount(sizes[start::2], minlength=n + 1).double() / 5_000
            error = 4.5 * (stated * (1 - stated) / 5_000).sqrt()
            assert bool(((share - stated).abs() <= error).all())
        first = torch.tensor([found["x"][row] for row in range(3)])
        assert bool((first.diff() > 0).all())
    assert deletion.corrupt(batch, 0.3, 1.0, Generator(0)).layouts["x"].rows == 0
    assert torch.equal(deletion.corrupt(batch, 0.3, 0.3, Generator(0))["x"], batch["x"])


def test_sets_come_back_in_proportion_with_their_sizes() -> None:
    """Sizes within 0.05 in total variation of the data's, without a model of sizes; whole sets."""
    deletion, rows = Deletion(Flow()), 4000
    start = Batch(
        {"x": torch.zeros(0, 2), "name": torch.zeros(0, dtype=torch.long)},
        dict.fromkeys(("x", "name"), Layout.ragged([0] * rows)),
    )
    drawn = deletion.grow(Exact(deletion), UniformTime(60), start, Generator(0))
    sizes = torch.bincount(drawn.layouts["x"].size, minlength=4).double() / rows
    truth = torch.zeros(4).double().index_add(0, SETS.sum(1), WEIGHTS)
    assert float((sizes - truth).abs().sum() / 2) < 0.05
    assert torch.equal(POINTS[drawn["name"]], drawn["x"])
    present = torch.zeros(rows, 4).index_put(
        (drawn.layouts["x"].sample, drawn["name"]), torch.ones(())
    )
    share = torch.stack([(present.bool() == one).all(1).double().mean() for one in SETS])
    assert float(share.sum()) > 0.97
    assert float((share - WEIGHTS).abs().sum() / 2) < 0.05


def test_a_sample_grows_alone_as_it_does_among_others() -> None:
    deletion = Deletion(Flow())

    def grown(ids: list[int]) -> list[list[int]]:
        layout = Layout.ragged([0] * len(ids))
        start = Batch(
            {"x": torch.zeros(0, 2), "name": torch.zeros(0, dtype=torch.long)},
            {"x": layout, "name": layout},
            ids=torch.tensor(ids),
        )
        drawn = deletion.grow(Exact(deletion), UniformTime(10), start, Counter(3))
        counts = list(drawn.layouts["name"].counts)
        return [part.tolist() for part in drawn["name"].split(counts)]

    together = grown([3, 8, 5, 1])
    assert [grown([k])[0] for k in (3, 8, 5, 1)] == together
    assert len({tuple(one) for one in together}) > 1


def test_refusals() -> None:
    with pytest.raises(ValueError, match="schedule of deletion must have alpha . sigma = 1"):
        Deletion(Linear())
    batch = Batch(
        {"x": torch.zeros(3), "y": torch.zeros(2)},
        {"x": Layout.ragged([1, 2]), "y": Layout.regular(2)},
    )
    with pytest.raises(ValueError, match="leaves of the same rows, none of them given"):
        Deletion(Flow()).corrupt(batch, CLEAN, 0.5, Generator(0))
    with pytest.raises(ValueError, match="t must be at least s, got 0.3 after 0.5"):
        Deletion(Flow()).corrupt(many([2, 1]), 0.5, 0.3, Generator(0))
    nodes = Layout.ragged([3])
    edges = Layout((3,), nodes.sample, torch.tensor([[0, 0, 1], [1, 2, 2]]))
    triangle = Batch({"x": torch.zeros(3), "bond": torch.zeros(3)}, {"x": nodes, "bond": edges})
    with pytest.raises(ValueError, match="deletion cannot take edge rows"):
        Deletion(Flow()).corrupt(triangle, CLEAN, 0.5, Generator(0))
