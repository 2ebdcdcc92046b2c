"""Files are whole or absent, damage is found, and nothing is unpickled."""

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from structdiff.artifacts import load_tensors, read_json, save_tensors, write_atomic, write_json

TENSORS = {
    "float": torch.tensor([[1.5, -2.25], [float("inf"), 0.1]]),
    "bf16": torch.tensor([1.0, 3.140625, -0.5], dtype=torch.bfloat16),
    "long": torch.tensor([2**62, -1], dtype=torch.int64),
    "scalar": torch.tensor(7.25, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "flag": torch.tensor([True, False]),
    "turned": torch.arange(6.0).reshape(2, 3).t(),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"step": "7"})
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_tensors_come_back_as_they_were(file):
    loaded, metadata = load_tensors(file)
    assert metadata == {"step": "7"}
    assert loaded.keys() == TENSORS.keys()
    for name, x in TENSORS.items():
        assert loaded[name].dtype == x.dtype
        assert loaded[name].shape == x.shape
        assert torch.equal(loaded[name], x)


def test_saving_changes_no_tensor_and_shares_none(tmp_path):
    shared = torch.arange(4.0)
    save_tensors(tmp_path / "y", {"a": shared, "b": shared[:2]})
    loaded, _ = load_tensors(tmp_path / "y")
    assert loaded["b"].tolist() == [0, 1]
    assert shared.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(file, kept):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.safetensors is truncated or not a safetensors file"):
        load_tensors(file)


@pytest.mark.parametrize("place", [-1, -40])
def test_a_flipped_bit_is_refused(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum differs.*restore it from a copy"):
        load_tensors(file)


def test_a_tensor_of_another_name_or_shape_is_refused(file):
    loaded, _ = load_tensors(file)
    for wrong in (
        {n.replace("long", "lung"): x for n, x in loaded.items()},
        loaded | {"turned": loaded["turned"].reshape(2, 3)},
    ):
        good = load_tensors_metadata(file)
        other = file.with_name("other.safetensors")
        save_file({n: x.contiguous() for n, x in wrong.items()}, other, good)
        with pytest.raises(ValueError, match="checksum"):
            load_tensors(other)


def load_tensors_metadata(path):
    size = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(path.read_bytes()[8 : 8 + size])["__metadata__"]


def test_a_file_without_checksum_text_and_a_missing_one_are_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "plain")
    with pytest.raises(ValueError, match="checksum"):
        load_tensors(tmp_path / "plain")
    (tmp_path / "text").write_text("this is not it")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_tensors(tmp_path / "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is truncated or not a safetensors file"):
        load_tensors(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        load_tensors(tmp_path / "absent")


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["fsync", "write", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(file, monkeypatch, broken):
    before = file.read_bytes()
    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk)
    elif broken == "replace":
        monkeypatch.setattr(Path, "replace", full_disk)
    else:
        real = Path.open

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, content):
                self.file.write(content[: len(content) // 2])
                full_disk()

        monkeypatch.setattr(Path, "open", lambda self, mode: Full(real(self, mode)))
    with pytest.raises(
        OSError, match="could not write .*x.safetensors: No space left.*free space"
    ) as e:
        save_tensors(file, {"a": torch.ones(1000)})
    monkeypatch.undo()
    assert e.value.errno == errno.ENOSPC
    assert file.read_bytes() == before
    assert names(file.parent) == ["x.safetensors"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def denied(self, mode="r"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(
        OSError, match="could not write .*a.json: Permission denied.*another folder"
    ):
        write_json(tmp_path / "a.json", {})


def test_json_comes_back_and_damage_is_named(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5, None, "é"]})
    assert read_json(path) == {"x": [1, 2.5, None, "é"]}
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.json is damaged: .*line"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is damaged"):
        read_json(path)
    with pytest.raises(FileNotFoundError, match="is .* the folder of a run"):
        read_json(tmp_path / "b.json")


def test_the_file_is_whole_at_its_first_appearance(tmp_path, monkeypatch):
    """At every call between open and rename, the target has the old content."""
    path = tmp_path / "x"
    write_atomic(path, b"old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.read_bytes()))
    write_atomic(path, b"new")
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x"]


def test_nothing_is_pickled(file, monkeypatch):
    def refuse(*_, **__):
        msg = "a pickle was touched"
        raise AssertionError(msg)

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refuse)
    save_tensors(file, TENSORS)
    assert torch.equal(load_tensors(file)[0]["long"], TENSORS["long"])
