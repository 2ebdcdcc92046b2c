"""One trunk for a field and its class."""

from functools import partial

import pytest
import torch
from torch import nn

from structdiff import (
    Batch,
    Categorical,
    Cosine,
    Denoising,
    Flow,
    Gaussian,
    NetworkDenoiser,
    Product,
    absorbing,
)
from structdiff.nn.class_head import ClassHead
from structdiff.nn.dilated import DilatedStack
from structdiff.nn.field import FieldNetwork
from structdiff.nn.patches import PatchTransformer
from structdiff.objectives import SNR, Uniform, UniformTimes
from structdiff.parameterisations import Velocity
from structdiff.random import Generator

TRUNKS = {
    "rows": (
        partial(PatchTransformer, dimensions=1, width=16, layers=2, heads=2),
        "network.transformer.layers.1",
        -1,
    ),
    "channels": (partial(DilatedStack, width=16, layers=2), "network.mix", 1),
}


def image_process():
    return Gaussian(Cosine(), Velocity(), event=(1, 8))


def joint(kind, dtype=torch.float64):
    make, layer, axis = TRUNKS[kind]
    torch.manual_seed(0)
    network = FieldNetwork(make, 1, features=8)
    torch.manual_seed(1)
    process = {"x": image_process(), "label": Categorical(Flow(), absorbing(2))}
    head = ClassHead(network, layer, 16, 2, axis=axis)
    return NetworkDenoiser(head, Product(process)).to(dtype)


def plain(kind):
    torch.manual_seed(0)
    network = FieldNetwork(TRUNKS[kind][0], 1, features=8)
    return NetworkDenoiser(network, Product({"x": image_process()})).double()


def mixture(count, seed=0, dtype=torch.float64):
    """Two noisy patterns of opposite sign, and which one it is."""
    random = Generator(seed)
    label = (random.uniform((count,), torch.float64, "cpu") < 0.5).long()
    pattern = torch.tensor([1.0, -1, 1, 1, -1, -1, 1, -1])
    x = (2 * label - 1).view(-1, 1, 1) * pattern
    x = x + 0.3 * random.normal((count, 1, 8), torch.float64, "cpu")
    return Batch.of({"x": x.to(dtype), "label": label})


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_loss_weight_of_zero_is_the_plain_network(kind):
    """The same loss and the same gradients in the trunk; with a weight of one, others."""
    batch, found = mixture(32), {}
    for weight in (None, 0.0, 1.0):
        model = plain(kind) if weight is None else joint(kind)
        seen = batch.only("x") if weight is None else batch
        weights = {"x": SNR(), "label": Uniform(weight or 0.0)}
        terms = Denoising(weights, UniformTimes(0.1))(model, seen, Generator(3))
        terms.total.backward()
        trunk = model.backbone if weight is None else model.backbone.network
        gradients = [w.grad for w in trunk.parameters() if w.grad is not None and w.grad.any()]
        found[weight] = [terms.leaves["x"].detach(), *gradients]
    assert len(found[None]) > 1
    torch.testing.assert_close(found[0.0], found[None], rtol=1e-10, atol=1e-12)
    assert len(found[1.0]) > len(found[0.0]), "the head must reach layers that are asleep"


@pytest.mark.parametrize("kind", TRUNKS)
def test_the_head_learns_the_class_beside_the_denoising(kind):
    """At least 95 % of new clean records; the error of the noise falls, too."""
    model = joint(kind, torch.float32)
    objective = Denoising({"x": SNR(), "label": Uniform()}, UniformTimes(0.05))
    optimiser, totals = torch.optim.Adam(model.parameters(), 5e-3), []
    for step in range(120):
        terms = objective(model, mixture(64, step, torch.float32), Generator(step))
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        totals.append(float(terms.leaves["x"].mean().detach()))
    assert sum(totals[-20:]) / 20 < 0.75 * sum(totals[:5]) / 5
    batch = mixture(500, 1000, torch.float32)
    masked = batch.with_leaves({"x": batch["x"], "label": torch.full((500,), 2)})
    with torch.no_grad():
        clock = {"x": torch.tensor(5.0), "label": torch.tensor(-20.0)}
        logits = model.backbone(masked, clock, None)["label"]
    assert (logits.argmax(1) == batch["label"]).float().mean() >= 0.95


def test_the_head_does_not_look_at_the_class():
    model, batch = joint("rows"), mixture(5)
    clock = {"x": torch.tensor(1.0).double(), "label": torch.tensor(0.0).double()}
    other = batch.with_leaves({"x": batch["x"], "label": 1 - batch["label"]})
    found = [model.backbone(seen, clock, None)["label"] for seen in (batch, other)]
    assert found[0].equal(found[1])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"the network has the layers .*, not \['other'\]"):
        ClassHead(nn.Linear(2, 2), "other", 2, 2)
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        ClassHead(nn.Sequential(nn.Linear(2, 2)), "0", 2, 0)
    network = ClassHead(FieldNetwork(TRUNKS["channels"][0], 1), "network.mix", 8, 2, axis=1)
    with pytest.raises(ValueError, match="gives 16 features on axis 1, not 8: set width and axis"):
        network(mixture(2, dtype=torch.float32), {"x": torch.tensor(0.0)}, None)
