"""The folder of a run: its config, its metrics, and what it refuses."""

import errno
import json
import os
from pathlib import Path

import pytest

from structdiff.artifacts import SCHEMA, RunFolder, differences

CONFIG = {"network": {"width": 8}, "training": {"steps": 10, "seed": 0}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open("molecules", CONFIG)
    return folder


def rewrite(folder, **changes):
    folder.config.write_text(json.dumps(json.loads(folder.config.read_text()) | changes))


def test_opening_writes_the_config_and_opening_again_goes_on(folder):
    content = json.loads(folder.config.read_text())
    assert content == {"schema": SCHEMA, "domain": "molecules", "config": CONFIG}
    before = folder.config.stat().st_mtime_ns
    RunFolder(folder.path).open("molecules", CONFIG)
    assert folder.config.stat().st_mtime_ns == before
    assert folder.read_config() == CONFIG
    assert folder.domain == "molecules"


def test_another_config_is_refused_field_by_field(folder):
    changed = {"network": {"width": 9}, "training": {"steps": 10}}
    with pytest.raises(ValueError, match="trained with another config") as error:
        folder.open("molecules", changed)
    assert "network.width: 8 -> 9" in str(error.value)
    assert "training.seed: 0 -> None" in str(error.value)
    assert "training.steps" not in str(error.value)
    assert folder.read_config() == CONFIG


def test_differences_name_the_path():
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert differences({"a": {"b": [1]}}, {"a": {"b": [2]}}) == ["a.b: [1] -> [2]"]
    assert differences({"a": {"b": 1}}, {"a": None}) == ["a: {'b': 1} -> None"]


def test_a_newer_schema_and_another_domain_are_refused(folder):
    with pytest.raises(ValueError, match="a run of the domain 'molecules', not 'text'"):
        folder.open("text", CONFIG)
    rewrite(folder, schema=SCHEMA + 1)
    with pytest.raises(ValueError, match=rf"schema {SCHEMA + 1}, .* up to {SCHEMA}: upgrade"):
        folder.read_config()


@pytest.mark.parametrize(
    "content", ["[1, 2]", '{"schema": 1}', '{"schema": "x", "domain": "a", "config": {}}']
)
def test_json_that_is_no_config_is_refused(folder, content):
    folder.config.write_text(content)
    with pytest.raises(ValueError, match="config.json"):
        folder.read_config()


def test_a_damaged_config_and_no_folder_are_refused(folder, tmp_path):
    folder.config.write_text(folder.config.read_text()[:30])
    with pytest.raises(ValueError, match="config.json is damaged"):
        folder.open("molecules", CONFIG)
    with pytest.raises(FileNotFoundError, match="nowhere.*is .* the folder of a run"):
        RunFolder(tmp_path / "nowhere").read_config()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / ".notes.1.tmp").write_text("mine")
    with pytest.raises(ValueError, match="not empty and has no config.json"):
        RunFolder(tmp_path).open("molecules", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [".notes.1.tmp"]
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError), match="file"):
        RunFolder(tmp_path / "file").open("molecules", CONFIG)


def test_a_kill_inside_the_first_save_does_not_block_the_folder(tmp_path):
    (tmp_path / ".config.json.4242.tmp").write_text('{"sch')
    RunFolder(tmp_path).open("molecules", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_made_says_so(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(
        OSError, match="cannot create .*: Read-only file system. Choose another --out"
    ):
        RunFolder(tmp_path / "run").open("molecules", CONFIG)


def test_a_line_cut_by_a_kill_takes_no_other_with_it(folder):
    for step in (10, 20, 30):
        folder.log(step=step, loss=step / 10)
    with folder.metrics.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [line["step"] for line in folder.read_metrics()] == [10, 20, 30]
    folder.keep_metrics(30)
    folder.log(step=40, loss=4.0)
    assert [line["step"] for line in folder.read_metrics()] == [10, 20, 30, 40]


def test_steps_after_the_save_are_dropped(folder):
    folder.keep_metrics(5)
    assert not folder.metrics.exists()
    for step in (10, 20, 20, 30):
        folder.log(step=step, loss=1.0)
    folder.keep_metrics(20)
    assert folder.read_metrics() == [{"step": s, "loss": 1.0} for s in (10, 20, 20)]
