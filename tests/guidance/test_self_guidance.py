"""Guidance by what data and network have in themselves: clusters, activations, a light head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structdiff import (
    DDPM,
    Batch,
    Categorical,
    Cosine,
    Flow,
    Gaussian,
    Generator,
    NetworkDenoiser,
    Product,
    UniformTime,
    uniform,
)
from structdiff.denoiser import Denoiser
from structdiff.guidance import ClassifierFree, Guided
from structdiff.guidance.activations import Activations
from structdiff.guidance.classes import Classifier
from structdiff.guidance.clusters import Clusters
from structdiff.processes import Estimate
from tests.guidance.labelled import Labelled

LEAF = Gaussian(Cosine(), event=(2,))
CENTRES = torch.tensor([[-2.0, 0.0], [2.0, 0.5], [0.0, 2.5]]).double()


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mixture(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points of three modes, and the mode of each."""
    random = Generator(seed)
    mode = (random.uniform((samples,), torch.float64, "cpu") * 3).long()
    return CENTRES[mode] + 0.4 * random.normal((samples, 2), torch.float64, "cpu"), mode


def purity(label: Tensor, mode: Tensor) -> float:
    """Share of records in the majority mode of their label."""
    table = torch.zeros(3, 3).index_put_((label, mode), torch.ones(len(mode)), accumulate=True)
    return float(table.amax(1).sum() / len(mode))


@pytest.mark.parametrize("seed", range(5))
def test_clusters_find_the_modes(seed):
    """G04: nearly all records of a cluster are of one mode, from any seed."""
    x, mode = mixture(300, 0)
    clusters = Clusters.fit(x, 3, Generator(seed))
    assert purity(clusters.annotate(x), mode) > 0.98
    again, later = mixture(200, 7)
    assert purity(clusters.annotate(again), later) > 0.98


def test_centres_are_the_means_of_their_records():
    """What Lloyd's rounds end in: no move lowers the sum of squares."""
    x, _ = mixture(200, 1)
    clusters = Clusters.fit(x, 3, Generator(0))
    label = clusters.annotate(x)
    for k in range(3):
        torch.testing.assert_close(clusters.centre[k], x[label == k].mean(0))
    assert torch.equal(label, torch.cdist(x, clusters.centre).argmin(1))


def test_a_centre_without_records_stays():
    found = Clusters(torch.tensor([[0.0], [100.0]])).moved(torch.tensor([[0.0], [1.0]]))
    assert torch.equal(found, torch.tensor([[0.5], [100.0]]))


@pytest.mark.parametrize("w", [1.0, 2.0])
def test_samples_guided_by_their_own_clusters_are_of_one_mode(w):
    """G04, G04a: mode purity of at least 90 %, with labels that nobody gave."""
    x, mode = mixture(150, 2)
    clusters = Clusters.fit(x, 3, Generator(0))
    label = clusters.annotate(x)
    denoiser = Labelled(Product({"x": LEAF}), Batch.of(x), torch.full((150,), 1 / 150), label)
    asked = torch.arange(150) % 3
    blank = Batch.of(torch.zeros(150, 2)).with_condition({"c": asked})
    drawn = DDPM(ClassifierFree(denoiser, w), UniformTime(10)).sample(blank, Generator(1))["x"]
    found = torch.cdist(drawn, CENTRES).argmin(1)
    assert purity(asked, found) >= 0.9
    free = DDPM(ClassifierFree(denoiser, 0.0), UniformTime(10)).sample(blank, Generator(1))["x"]
    assert purity(asked, torch.cdist(free, CENTRES).argmin(1)) < 0.6


class Network(nn.Module):
    """A random network on R^2 with a middle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(3, 16), nn.Linear(16, 2)
        self.middle = nn.Tanh()

    def forward(self, batch, clock, previous):
        x = batch["x"]
        c = clock["x"].to(x).expand(len(x)).unsqueeze(1) / 5
        return {"x": self.leave(self.middle(self.enter(torch.cat([x, c], 1))))}


def test_an_energy_of_activations_guides():
    """G04b: its gradient in x_t, by hand, is not zero and is what the estimate moves by."""
    network = Network()
    denoiser = NetworkDenoiser(network, Product({"x": LEAF}))
    goal = torch.linspace(-0.5, 0.5, 16)

    def energy(seen: Any, batch: Batch) -> Tensor:
        return -(seen["backbone.middle"] - goal).square().sum(1)

    guide = Activations(denoiser, ["backbone.middle"], energy)
    batch, t = Batch.of(mixture(6, 3)[0]), {"x": torch.tensor(0.4)}
    found = Guided(denoiser, guide, 0.3)(batch, t)["x"].value
    c = LEAF.clock(t["x"]).expand(6, 1) / 5
    h = torch.tanh(network.enter(torch.cat([batch["x"], c], 1)))
    slope = (-2 * (h - goal) * (1 - h**2)) @ network.enter.weight[:, :2]
    level = LEAF.level(t["x"], batch["x"])
    moved = found - denoiser(batch, t)["x"].value
    expected = 0.3 * level.sigma**2 / level.alpha * slope
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-10)
    assert moved.abs().min() > 1e-4


def test_an_energy_of_activations_of_classes():
    """By all changes of one symbol, with the same hook."""

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.table = nn.Embedding(3, 3)

        def forward(self, batch, clock, previous):
            return {"z": self.table(batch["z"])}

    denoiser = NetworkDenoiser(Words(), Product({"z": Categorical(Flow(), uniform(3))}))
    guide = Activations(
        denoiser, ["backbone.table"], lambda seen, batch: seen["backbone.table"][:, 0]
    )
    batch, t = Batch.of({"z": torch.arange(3)}), {"z": torch.tensor(0.5)}
    tilt = Guided(denoiser, guide, 2.0)(batch, t)["z"].extras["tilt"]
    column = denoiser.backbone.table.weight[:, 0]
    torch.testing.assert_close(tilt, 2 * (column[None] - column[:, None]), rtol=1e-9, atol=1e-9)


class Middle(Denoiser):
    """The exact denoiser of some records, with a middle that can be read."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser, self.middle = denoiser, nn.Identity()
        self.process = denoiser.process

    def forward(self, batch, t, previous=None):
        return {"x": Estimate(self.middle(self.denoiser(batch, t)["x"].value))}


def test_a_light_head_on_the_layers_of_a_denoiser_guides():
    """G04c, G16: a linear head on features of noisy records, trained for 100 steps."""
    x, mode = mixture(90, 4)
    exact = Labelled(Product({"x": LEAF}), Batch.of(x), torch.full((90,), 1 / 90), mode)
    denoiser = Middle(exact.free)
    head = Head()
    classifier = Classifier(Activations(denoiser, ["middle"], head), "c")
    optimiser, random = torch.optim.Adam(head.parameters(), 0.1), Generator(0)
    data = Batch.of(x).with_condition({"c": mode})
    bound = denoiser.process.bind(data)
    for _ in range(100):
        t = {"x": random.uniform((90,), torch.float64, "cpu")}
        noisy = data.with_leaves(bound.diffuse(data.leaves, t, random))
        optimiser.zero_grad()
        (-classifier(noisy, t).mean()).backward()
        optimiser.step()
    asked = torch.arange(90) % 3
    blank = Batch.of(torch.zeros(90, 2)).with_condition({"c": asked})
    share = []
    for w in (0.0, 2.0):
        walk = DDPM(Guided(denoiser, classifier, w), UniformTime(12))
        drawn = walk.sample(blank, Generator(1))["x"]
        share.append(float((torch.cdist(drawn, CENTRES).argmin(1) == asked).double().mean()))
    assert share[0] < 0.5
    assert share[1] > 0.9


class Head(nn.Module):
    """Logits of three classes, linear in the features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, seen: Any, batch: Batch) -> Tensor:
        return self.linear(seen["middle"])


def test_what_does_not_fit_is_refused():
    denoiser = NetworkDenoiser(Network(), Product({"x": LEAF}))
    with pytest.raises(ValueError, match=r"has the layers .* not \['middle'\]"):
        Activations(denoiser, ["middle"], lambda seen, batch: batch["x"])
    for clusters, rounds in ((0, 1), (5, 1), (2, 0)):
        with pytest.raises(ValueError, match="clusters must be from 1 to the 4 records"):
            Clusters.fit(torch.zeros(4, 1), clusters, Generator(0), rounds=rounds)
    with pytest.raises(ValueError, match=r"x must be finite, \(records, features\)"):
        Clusters.fit(torch.full((4, 1), torch.nan), 2, Generator(0))
