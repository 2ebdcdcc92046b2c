"""A text, and a cache for each test."""

import numpy as np
import pytest

from tests.domains.text.reading.prose import SENTENCE


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def prose(tmp_path):
    random = np.random.default_rng(0)
    text = "".join(random.choice(list(SENTENCE), 10_000))
    path = tmp_path / "prose.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path, text
