"""A small model of places and depths for the tests of the domain."""

import numpy as np
import pytest

from structdiff.domains.manifolds import ManifoldsConfig, train


def settings(path, **changes):
    """A config that trains in seconds."""
    groups = {
        "data": {"path": str(path), "columns": "place=lat,lon:sphere;depth=depth:euclidean"},
        "noise": {"sigma_min": 0.05},
        "loss": {"independent": True},
        "network": {"width": 16, "blocks": 1, "waves": 8, "octaves": 3.0},
        "sampler": {"steps": 8},
        "training": {
            "steps": 30,
            "batch_size": 64,
            "warm_up": 5,
            "validate_every": 15,
            "ema": 0.9,
            "learning_rate": 1e-2,
            "device": "cpu",
        },
    }
    for name, group in changes.items():
        groups[name] = {**groups.get(name, {}), **group}
    return ManifoldsConfig.model_validate(groups)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """120 places around two towns; depth rises with latitude."""
    random = np.random.default_rng(0)
    town = np.arange(120) % 2
    latitude = np.where(town, 40.0, -20.0) + 4 * random.normal(size=120)
    longitude = np.where(town, 10.0, 60.0) + 4 * random.normal(size=120)
    depth = latitude / 10 + 0.1 * random.normal(size=120)
    path = tmp_path_factory.mktemp("places") / "places.csv"
    rows = zip(latitude, longitude, depth, strict=True)
    path.write_text("lat,lon,depth\n" + "".join(f"{a:.4f},{b:.4f},{c:.4f}\n" for a, b, c in rows))
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory, source):
    return train(settings(source), tmp_path_factory.mktemp("runs") / "small", say=lambda _: None)
