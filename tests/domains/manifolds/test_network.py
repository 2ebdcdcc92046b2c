"""The network of records of points."""

import math

import pytest
import torch

from structdiff.batch import Batch
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.manifolds.network import PointNetwork
from structdiff.processes import Brownian, GeodesicFlow, Product
from structdiff.schedules import Geometric
from structdiff.spaces import SO3, Torus
from structdiff.spaces.sphere import Sphere

SPACES = {"place": Sphere(2), "turn": SO3(), "angle": Torus(1)}


def shaken(spaces):
    torch.manual_seed(0)
    outputs = {name: space.tangent for name, space in spaces.items()}
    network = PointNetwork(spaces, outputs, width=16, blocks=1, waves=8, octaves=3).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def records(rows):
    from structdiff.random import Generator

    random = Generator(1)
    return Batch.of(
        {name: s.uniform(rows, random, torch.float64, "cpu") for name, s in SPACES.items()}
    )


def test_each_leaf_gets_its_own_entries():
    network, batch = shaken(SPACES), records(4)
    clock = {name: torch.tensor(1.0, dtype=torch.float64) for name in SPACES}
    said = network(batch, clock, None)
    assert {name: tuple(x.shape) for name, x in said.items()} == {
        "place": (4, 3),
        "turn": (4, 3),
        "angle": (4, 1),
    }
    whole = torch.cat([said[name].reshape(4, -1) for name in SPACES], 1)
    exact = network.body.leave.weight.shape[0]
    assert whole.shape[1] == exact
    assert whole.std(0).min() > 1e-3


@pytest.mark.parametrize("name", [*SPACES])
def test_the_answer_follows_from_every_leaf_and_clock(name):
    network, batch = shaken(SPACES), records(3)
    clock = {n: torch.full((3,), 0.7, dtype=torch.float64) for n in SPACES}
    before = network(batch, clock, None)
    later = network(batch, {**clock, name: clock[name] - 1.0}, None)
    other = records(4)[name][1:]
    moved = network(batch.with_leaves({**batch.leaves, name: other}), clock, None)
    for leaf in SPACES:
        assert (later[leaf] - before[leaf]).abs().amax() > 1e-4
        assert (moved[leaf] - before[leaf]).abs().amax() > 1e-4


def test_a_row_does_not_depend_on_the_others():
    network, batch = shaken(SPACES), records(5)
    clock = {n: torch.linspace(-1, 3, 5, dtype=torch.float64) for n in SPACES}
    whole = network(batch, clock, None)
    alone = network(batch.select([2]), {n: c[2:3] for n, c in clock.items()}, None)
    for leaf in SPACES:
        torch.testing.assert_close(alone[leaf], whole[leaf][2:3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("end", "like"), [(20.0, 7.0), (-20.0, -5.0)])
def test_clean_data_and_pure_noise_look_like_the_ends_of_the_training(end, like):
    network, batch = shaken(SPACES), records(2)
    first, second = (
        network(batch, {n: torch.tensor(value, dtype=torch.float64) for n in SPACES}, None)
        for value in (end, like)
    )
    for name in SPACES:
        assert bool((first[name] == second[name]).all())


@pytest.mark.parametrize("flow", [False, True])
def test_estimates_are_tangent_to_the_sphere(flow):
    space = SPACES["place"]
    process = Product(
        {"place": GeodesicFlow(space) if flow else Brownian(Geometric(0.01, 4.0), space)}
    )
    denoiser = NetworkDenoiser(shaken({"place": space}), process)
    batch = Batch.of({"place": records(6)["place"]})
    value = denoiser(batch, {"place": torch.tensor(0.5)})["place"].value
    assert value.norm(dim=1).min() > 1e-4
    assert (value * batch["place"]).sum(1).abs().max() < 1e-12


def test_waves_are_blurred_by_the_noise():
    """At sigma = 4 no wave of the first octave or above is left; at 0.001 all are whole."""
    network = shaken({"angle": SPACES["angle"]})
    seen = []
    network.body.waves.register_forward_hook(lambda m, i, o: seen.append(o[2]))
    batch = Batch.of({"angle": torch.zeros(2, 1, dtype=torch.float64)})
    network.body.waves.log_factor.data.fill_(0.0)
    network.body.waves.direction[:] = torch.tensor(2.0)
    for sigma in (4.0, 1e-3):
        clock = {"angle": torch.tensor(-math.log(sigma), dtype=torch.float64)}
        network(batch, clock, None)
    # exp(-|w|^2 sigma^2 / 2) with |w|^2 = 2 * 4 over the two entries of an angle.
    exact = [math.exp(-0.5 * 8 * sigma**2) for sigma in (4.0, 1e-3)]
    for left, value in zip(seen, exact, strict=True):
        torch.testing.assert_close(left, torch.full_like(left, value))
