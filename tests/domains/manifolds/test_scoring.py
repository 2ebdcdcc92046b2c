"""Log densities of points: closed forms, units, and the choice of the noise."""

import math

import numpy as np
import pytest

from structdiff.domains.manifolds import read
from structdiff.domains.manifolds.recipe import ManifoldsConfig, build
from structdiff.domains.manifolds.scoring import Scores, choose_noise, score

SMALL = {"width": 8, "blocks": 1, "waves": 4, "octaves": 2.0}


@pytest.fixture(scope="module")
def places(source):
    return read(source, columns="place=lat,lon:sphere")


@pytest.fixture(scope="module")
def depths(source):
    return read(source, columns="depth=depth:euclidean")


@pytest.mark.parametrize("route", ["diffusion", "flow"])
def test_a_network_that_says_nothing_is_uniform(places, route):
    config = ManifoldsConfig.model_validate({"noise": {"route": route}, "network": SMALL})
    denoiser = build(config, places.codec)
    found = score(denoiser, places.codec, config, places.test, 0.01, progress=False)
    np.testing.assert_allclose(found.total, -math.log(4 * math.pi), atol=1e-5)
    assert found.measure == "place: the area of the unit sphere S^2"
    assert found.rows.tolist() == places.test.rows.tolist()
    value, error = found.nll()
    assert math.isclose(value, math.log(4 * math.pi), abs_tol=1e-5)
    assert error < 1e-5


def test_densities_of_numbers_are_in_the_units_of_the_data(depths):
    """A network that says nothing holds standardised numbers to be standard normal."""
    config = ManifoldsConfig.model_validate({"network": SMALL})
    denoiser = build(config, depths.codec).double()  # in its precision
    found = score(
        denoiser, depths.codec, config, depths.test, 0.01, tolerance=1e-6, progress=False
    )
    values = depths.codec.decode(depths.test.batch()).columns["depth"]
    train = depths.codec.decode(depths.train.batch()).columns["depth"]
    standard = depths.test.leaves["depth"].flatten().numpy()
    scale = np.ptp(values) / np.ptp(standard)
    assert 0.5 < scale / train.std() < 2
    # The prior N(0, 50^2) stands for N(0, 50^2 + 1).
    variance = (1 + 0.01**2) * 50**2 / (50**2 + 1)
    exact = (
        -0.5 * standard**2 / variance - 0.5 * math.log(2 * math.pi * variance) - math.log(scale)
    )
    np.testing.assert_allclose(found.total, exact, atol=1e-3)


def test_probes_have_an_error_that_holds_the_exact_value(run, source):
    data = read(source, codec=run.codec)
    few = data.test.subset(np.arange(4))
    exact = run.score(few, tolerance=1e-2, progress=False)
    drawn = run.score(few, tolerance=1e-2, probes=8, seed=3, progress=False)
    assert not exact.error.any()
    assert (drawn.error > 0).any()
    assert (np.abs(drawn.total - exact.total) < 6 * drawn.error + 0.05).all()


def test_the_noise_is_that_of_the_likeliest_validation_points(run, source):
    data = read(source, codec=run.codec)
    noises = (1e-4, 0.2, 0.6)
    noise, found = choose_noise(run.denoiser, run.codec, run.config, data.validation, noises)
    assert sorted(found) == [0.05, 0.2, 0.6]
    assert found[noise] == min(found.values())
    assert len(set(found.values())) == 3


def test_without_validation_points_it_is_the_least_noise(run, source):
    data = read(source, codec=run.codec)
    none = data.validation.subset(np.zeros(0, np.int64))
    assert choose_noise(run.denoiser, run.codec, run.config, none) == (0.05, {})


def test_no_points_are_refused(run, source):
    none = read(source, codec=run.codec).test.subset(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="there are no points to score"):
        run.score(none)


def test_a_table_has_a_row_for_each_point():
    rows = np.array([3, 7])
    plain = Scores(np.array([1.0, 2.0]), np.zeros(2), rows, 0.1, "kind", "measure")
    assert plain.columns() == {"row": [3, 7], "log_density": [1.0, 2.0]}
    assert plain.nll() == (-1.5, 0.5)
    drawn = Scores(np.array([1.0]), np.array([0.2]), rows[:1], 0.1, "kind", "measure")
    assert drawn.columns()["monte_carlo_error"] == [0.2]
    assert drawn.nll() == (-1.0, 0.0)
    assert "-1.5000 +- 0.5 nats" in plain.summary()
    assert plain.facts()["measure"] == "measure"
