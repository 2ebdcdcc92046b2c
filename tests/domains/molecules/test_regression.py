"""Densities of what noisy molecules have, their slopes, and molecules that follow exact ones."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.molecules import MoleculesConfig, Structures, embedded
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.recipe import build
from structdiff.domains.molecules.regression import (
    Aim,
    NoisyRegressor,
    Regression,
    log_density,
    vectors,
)
from structdiff.domains.molecules.request import Request
from structdiff.domains.molecules.sampling import draw
from structdiff.guidance import Linearised
from structdiff.layout import Layout
from structdiff.processes import Estimate
from structdiff.random import Generator
from tests.domains.molecules.small_regressors import SMALL

STD, CARBON = 1.5, 0.3


class Apart(Denoiser):
    """The exact denoiser of atoms that know nothing of each other: normal, carbon or nitrogen."""

    def __init__(self, process):
        super().__init__()
        self.process, self.weight = process, nn.Parameter(torch.zeros(()))

    def forward(self, batch, t, previous=None):
        process = self.process.bind(batch)
        shrink = 1 / (
            1 + (process["position"].level(t["position"], batch["position"]).sigma / STD) ** 2
        )
        log_p = torch.tensor([CARBON, 1 - CARBON]).log().expand(len(batch["element"]), 2)
        element = process["element"].decode(log_p, batch["element"], t["element"])
        return {"position": Estimate(shrink * batch["position"]), "element": element}


@pytest.fixture(scope="module")
def world():
    """A process of molecules of carbon and nitrogen, the codec and the settings."""
    data = Structures.from_list([([6, 7], [[-STD, 0, 0], [STD, 0, 0]])] * 2)
    codec = MoleculeCodec.fit(data)
    own_law = {"temperature": 1.0, "class_temperature": 1.0}
    sampler = {"steps": 60, **own_law, "sigma_last": 0.01, "batch_size": 400}
    config = MoleculesConfig.model_validate({"sampler": sampler, "network": SMALL})
    return codec, config, Apart(build(config, codec).process)


def along(layout, dtype=torch.float32):
    """A direction of each molecule of six atoms, without its mean, `(rows,)`."""
    weight = torch.tensor([2.0, -1.0, 0.5, -1.5, 1.0, -1.0], dtype=dtype)
    return weight[layout.row]


class Slant(nn.Module):
    """p(y | x_t) of y = sum_i c_i (first coordinate of atom i), exactly."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, batch, t):
        x, layout = batch["position"], batch.layouts["position"]
        c = along(layout, x.dtype)
        sigma = self.process["position"].level(t["position"], x).sigma
        shrink = 1 / (1 + (sigma / STD) ** 2)
        mean = layout.sum(c * (shrink * x)[:, 0])
        variance = (shrink * sigma.square()).expand(len(c), 1)[:, 0]
        return mean[:, None], layout.sum(c.square() * variance).log()[:, None]


class Carbons(nn.Module):
    """The number of carbons given noisy elements, as a normal with the exact mean and variance."""

    def forward(self, batch, t):
        layout = batch.layouts["element"]
        mean = layout.sum(batch["element"] @ torch.tensor([1.0, 0.0, CARBON]))
        masked = layout.sum(batch["element"][:, 2])
        return mean[:, None], (CARBON * (1 - CARBON) * masked + 0.02).log()[:, None]


def drawn(world, network, value, *, molecules=400, atoms=6, scale=1.0):
    codec, config, denoiser = world
    values = {"y": torch.full((molecules, 1), value)}
    aim = Aim(network, {"y": slice(0, 1)}, values, {"y": scale}) if scale else None
    asked = Request((atoms,) * molecules, {}, {}, 1.0, None, 3, aim)
    return draw(denoiser, codec, config, asked, Part(0, molecules, (0,)))


def slants(found):
    """y of each molecule, the squared length of its positions, and that of the direction."""
    position = torch.tensor(found.position.reshape(-1, 6, 3))
    c = along(Layout.ragged([6]))
    return (c * position[..., 0]).sum(1), position.square().sum((1, 2)), float(c.square().sum())


def test_positions_follow_an_exact_regressor_to_the_value_asked(world):
    """At scale 1 the conditional law: y as asked, and all other directions as they were."""
    slant = Slant(world[2].process)
    free, square, norm = slants(drawn(world, slant, 5.0, scale=0.0))
    assert abs(float(free.mean())) < 4 * STD * math.sqrt(norm / 400)
    rest = float((square - free.square() / norm).mean())
    assert rest == pytest.approx(14 * STD**2, rel=0.15)  # 3 (6 - 1) directions, and one of them
    for value in (-4.0, 5.0):
        y, square, _ = slants(drawn(world, slant, value))
        assert (y - value).abs().max() < 0.02
        assert float((square - value**2 / norm).mean()) == pytest.approx(rest, rel=0.05)


@pytest.mark.parametrize("asked", [1.0, 5.0])
def test_elements_follow_the_number_of_carbons_asked(world, asked):
    found = drawn(world, Carbons(), asked)
    count = (found.number.reshape(-1, 6) == 6).sum(1)
    free = (drawn(world, Carbons(), asked, scale=0.0).number.reshape(-1, 6) == 6).sum(1)
    assert free.mean() == pytest.approx(6 * CARBON, abs=4 * math.sqrt(6 * 0.21 / 400))
    assert abs(count.mean() - asked) < 0.4
    assert abs(count.mean() - asked) < 0.5 * abs(free.mean() - asked)


def test_the_density_is_the_normal_one():
    mean, log_variance, value = torch.randn(3, 5, 2, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    torch.testing.assert_close(log_density(mean, log_variance, value), normal.log_prob(value))


def test_an_aim_is_the_weighted_sum_over_what_is_asked_of_each_molecule(world):
    codec, config, _ = world
    process = build(config, codec).process
    network = NoisyRegressor(process, 3, codec.position_std, **SMALL)
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.tensor([1.0, -1.0, 0.5, 0.2, 0.4, -0.3]))
    batch = codec.encode(Structures.from_list([([6, 7], np.eye(3)[:2])] * 4)).select([3, 0])
    batch = Batch(batch.leaves, batch.layouts, ids=torch.tensor([3, 0]))
    bound = process.bind(batch)
    t = bound.times(torch.tensor(0.4))
    values = {"a": torch.arange(4.0)[:, None], "b": torch.arange(8.0).reshape(4, 2)}
    columns = {"a": slice(0, 1), "b": slice(1, 3)}
    aim = Aim(network, columns, values, {"a": 2.0, "b": -0.5})
    mean, spread = network(vectors(batch, bound), t)
    a = log_density(mean[:, :1], spread[:, :1], torch.tensor([[3.0], [0.0]])).sum(1)
    b = log_density(mean[:, 1:], spread[:, 1:], torch.tensor([[6.0, 7.0], [0.0, 1.0]])).sum(1)
    torch.testing.assert_close(aim(vectors(batch, bound), t), 2 * a - 0.5 * b)


@pytest.mark.parametrize("bonds", ["none", "kekulized"])
def test_the_slopes_are_those_of_finite_differences(bonds):
    """Positions and one-hot vectors of elements, in float64, for a network that is not trained."""
    some = assigned(embedded().select(range(6)))[0].select([1, 3])
    codec = MoleculeCodec.fit(some, bonds=bonds)
    data = {"bonds": bonds}
    process = build(
        MoleculesConfig.model_validate({"data": data, "network": SMALL}), codec
    ).process
    torch.manual_seed(0)
    network = NoisyRegressor(process, 1, codec.position_std, **SMALL).double()
    nn.init.normal_(network.head[-1].weight)
    clean = codec.encode(some)
    clean = clean.with_leaves({**clean.leaves, "position": clean["position"].double()})
    bound = process.bind(clean)
    t = bound.times(torch.tensor(0.55, dtype=torch.float64))
    noisy = clean.with_leaves(bound.diffuse(clean.leaves, t, Generator(0)))
    aim = Aim(network, {"y": slice(0, 1)}, {"y": torch.tensor([[0.5], [-1.0]])}, {"y": 1.0})
    opened = vectors(noisy, bound)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            slopes = Linearised().around(aim, bound, noisy, t)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, vector in opened.leaves.items():
        change = torch.randn_like(vector)
        if name != "position":  # differences to the symbol that is there: the sum of a change is 0
            change = change - change.sum(-1, keepdim=True) * vector
            assert slopes[name].gather(-1, noisy[name].unsqueeze(-1)).abs().max() == 0
        ends = [
            aim(opened.with_leaves({**opened.leaves, name: vector + k * change}), t).sum().detach()
            for k in (1e-5, -1e-5)
        ]
        slope = float(ends[0] - ends[1]) / 2e-5
        assert float((slopes[name] * change).sum()) == pytest.approx(slope, rel=1e-5)


def test_an_untrained_regressor_costs_what_a_standard_normal_does(world):
    """And what is not known of a molecule costs nothing."""
    codec, config, _ = world
    network = NoisyRegressor(build(config, codec).process, 1, codec.position_std, **SMALL)
    batch = codec.encode(Structures.from_list([([6, 7], np.eye(3)[:2])] * 3))
    value = torch.tensor([[0.5], [2.0], [0.0]])
    present = {"y": torch.tensor([True, True, False])}
    batch = batch.with_condition({"y": value}).with_present(present)
    terms = Regression({"y": slice(0, 1)})(network, batch, Generator(0))
    expected = 0.5 * value[:, 0] ** 2 + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(terms.leaves["y"], expected * torch.tensor([1.0, 1.0, 0.0]))
