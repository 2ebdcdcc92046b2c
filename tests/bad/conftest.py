"""Folders of runs, and a cache of their own."""

import shutil
from pathlib import Path

import pytest

from tests.bad.corpus import make_run


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "conformers"
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    make_run(path)
    return path


@pytest.fixture
def run(whole_run, tmp_path):
    return Path(shutil.copytree(whole_run, tmp_path / "run"))
