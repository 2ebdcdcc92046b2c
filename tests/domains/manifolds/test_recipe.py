"""How data, process, network and training of points are put together."""

import math

import pytest
import torch
from pydantic import ValidationError

from structdiff.batch import Batch
from structdiff.domains.manifolds.recipe import (
    ManifoldsConfig,
    build,
    objective_of,
    process_of,
    route_of,
    time_of,
    walk_of,
)
from structdiff.processes import Brownian, Gaussian, GeodesicFlow
from structdiff.random import Generator
from structdiff.samplers import Adaptive, Ancestral, Heun
from structdiff.spaces import Euclidean, Torus
from structdiff.spaces.hyperbolic import Hyperbolic
from structdiff.spaces.sphere import Sphere


class Codec:
    """Spaces, as a codec gives them."""

    def __init__(self, **spaces):
        self.spaces = spaces


def config(**groups):
    return ManifoldsConfig.model_validate(groups)


SMALL = {"width": 8, "blocks": 1, "waves": 4, "octaves": 2.0}


def test_the_route_follows_from_the_spaces():
    kernels = {"place": Sphere(2), "depth": Euclidean(1)}
    assert route_of(config(), kernels) == "diffusion"
    assert route_of(config(noise={"route": "flow"}), kernels) == "flow"
    assert route_of(config(), {**kernels, "tree": Hyperbolic(2)}) == "flow"
    with pytest.raises(ValueError, match="none is known of Hyperbolic, that of the leaf 'tree'"):
        route_of(config(noise={"route": "diffusion"}), {**kernels, "tree": Hyperbolic(2)})


def test_each_leaf_gets_the_process_of_its_space():
    spaces = {"place": Sphere(2), "depth": Euclidean(1)}
    by_heat = process_of(config(), spaces)
    assert isinstance(by_heat["place"], Brownian)
    assert isinstance(by_heat["depth"], Gaussian)
    flow = process_of(config(noise={"route": "flow"}), spaces)
    assert all(isinstance(flow[name], GeodesicFlow) for name in spaces)


@pytest.mark.parametrize("noise", [1e-3, 0.02, 4.0])
def test_the_time_of_a_noise_is_when_sigma_is_that(noise):
    codec = Codec(angle=Torus(2))
    settings = config()
    t = torch.tensor(time_of(settings, codec, noise), dtype=torch.float64)
    sigma = process_of(settings, codec.spaces)["angle"].schedule.sigma(t)
    assert math.isclose(float(sigma), noise, rel_tol=1e-9)
    assert time_of(config(noise={"route": "flow"}), codec, 0.02) == 0.02


def test_before_training_the_loss_of_diffusion_is_that_of_unit_noise():
    """The network says zero, so the loss is E|sigma score|^2 per angle: 1 for little noise."""
    codec = Codec(angle=Torus(3))
    settings = config(noise={"sigma_min": 1e-3, "sigma_max": 0.2}, network=SMALL)
    batch = Batch.of({"angle": torch.zeros(4096, 3)})
    denoiser = build(settings, codec)
    with torch.no_grad():
        terms = objective_of(settings, codec)(denoiser, batch, Generator(0))
    error = float(terms.leaves["angle"].std()) / 64
    assert abs(float(terms.total) - 1.0) < 5 * error


def test_before_training_the_loss_of_a_flow_is_the_squared_velocity():
    """|log_{x_0}(x_1)|^2 on average: pi^2 / 3 of each angle, at every time."""
    codec = Codec(angle=Torus(3))
    settings = config(noise={"route": "flow"}, network=SMALL)
    batch = Batch.of({"angle": torch.zeros(4096, 3)})
    denoiser = build(settings, codec)
    with torch.no_grad():
        terms = objective_of(settings, codec)(denoiser, batch, Generator(0))
    error = float(terms.leaves["angle"].std()) / 64
    assert abs(float(terms.total) - math.pi**2 / 3) < 5 * error
    times = torch.sigmoid(-terms.clock["angle"]).log()
    # Uniform in log t from log 0.001 to 0: mean half of it.
    assert abs(float(times.mean()) - math.log(1e-3) / 2) < 0.02


def test_weights_follow_from_the_seed():
    codec = Codec(angle=Torus(1))
    one, same, other = (
        build(config(network=SMALL, training={"seed": seed}), codec).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(bool((one[name] == same[name]).all()) for name in one)
    assert any(bool((one[name] != other[name]).any()) for name in one)


@pytest.mark.parametrize(
    ("route", "kind", "made"),
    [
        ("diffusion", "auto", Ancestral),
        ("flow", "auto", Heun),
        ("diffusion", "adaptive", Adaptive),
        ("flow", "ddim", Ancestral),
    ],
)
def test_the_walk_ends_at_the_noise_of_the_model(route, kind, made):
    codec = Codec(angle=Torus(1))
    settings = config(noise={"route": route}, network=SMALL, sampler={"kind": kind, "steps": 5})
    end = time_of(settings, codec, 0.01)
    walk = walk_of(settings, codec, build(settings, codec), end)
    assert isinstance(walk, made)
    if kind != "adaptive":
        times = walk.grid.times()
        assert len(times) == 6
        assert math.isclose(float(times[-2]), end, rel_tol=1e-9)
        assert float(times[0]) == 1.0


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ({"noise": {"sigma_min": 0.5, "sigma_max": 0.1}}, "sigma_min must be below"),
        (
            {"noise": {"route": "flow"}, "sampler": {"kind": "ancestral"}},
            "ancestral needs fresh noise, which a flow has not",
        ),
        ({"noise": {"route": "other"}}, "route"),
    ],
)
def test_what_does_not_go_together_is_refused(groups, match):
    with pytest.raises(ValidationError, match=match):
        config(**groups)
