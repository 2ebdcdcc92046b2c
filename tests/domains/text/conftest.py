"""One trained model for the tests of the text domain, and a cache of their own."""

import pytest

from structdiff.domains.text import train
from tests.domains.text.worlds import sentences, settings


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRUCTDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(sentences(600))
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory, source):
    out = tmp_path_factory.mktemp("runs") / "small"
    return train(settings(source), out, say=lambda _: None)
