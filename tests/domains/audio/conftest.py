"""One trained model of each kind for the tests of the audio domain, and a cache of their own."""

import pytest

from structdiff.domains.audio import train
from tests.domains.audio.worlds import recordings, settings


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRUCTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return recordings(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="session")
def make(tmp_path_factory, source):
    """Train a model of settings; the same folder for the same name."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def make(name, **groups):
        if name not in made:
            made[name] = train(settings(source, **groups), folder / name, say=lambda _: None)
        return made[name]

    return make


@pytest.fixture(scope="session")
def mel(make):
    return make("mel")


@pytest.fixture(scope="session")
def wave(make):
    return make("wave", sound={"model": "wave", "bands": 12})


@pytest.fixture(scope="session")
def vocoder(make):
    return make(
        "vocoder",
        sound={"model": "vocoder", "bands": 12},
        network={"kind": "dilated", "layers": 2},
    )
