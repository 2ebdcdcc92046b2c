"""Latents of a data set, encoded once: kills, damage, other data, other codecs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from structdiff import Batch, Cosine, Gaussian, Generator, Product
from structdiff.codecs.blocks import Blocks
from structdiff.codecs.standardise import Identity, Standardise
from structdiff.denoiser import NetworkDenoiser
from structdiff.objectives import Denoising
from structdiff.runs.latents import Latents, encode_data, samples_checksum
from structdiff.samplers import DDPM
from structdiff.schedules import UniformTime
from structdiff.training import Source, Stopped, Trainer, TrainingConfig

X = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(0))


def codec() -> Standardise:
    made = Standardise((2, 4), axes=(0,))
    made.fit(X)
    return made


class Counted:
    """Samples that count how often each was asked for, and stop the process at one of them."""

    def __init__(self, x: Tensor = X, stop: int | None = None) -> None:
        self.x, self.stop = x, stop
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: np.ndarray) -> Tensor:
        if self.stop is not None and self.stop in index:
            raise KeyboardInterrupt
        self.asked += index.tolist()
        return self.x[index]


def encode(folder: Path, data: Counted | None = None, **changes: object) -> Latents:
    data = Counted() if data is None else data
    settings = {"identity": {"digest": samples_checksum(X)}, "shard_size": 16, "batch_size": 5}
    return encode_data(folder, codec(), data, **{**settings, **changes})


def test_latents_are_those_of_the_codec_in_any_order(tmp_path, capsys) -> None:
    found = encode(tmp_path / "latents")
    assert len(found) == 50
    assert len(found.shards) == 4
    order = np.random.default_rng(0).permutation(50)
    assert torch.equal(found[order], codec().encode(X)[order])
    assert torch.equal(found[np.array([49, 0, 0, 16])], codec().encode(X)[[49, 0, 0, 16]])
    assert found[np.array([], np.int64)].shape == (0, 2, 4)
    assert "50/50" in capsys.readouterr().err


def test_each_sample_is_encoded_once_and_never_again(tmp_path) -> None:
    first, second = Counted(), Counted()
    encode(tmp_path / "latents", first)
    assert sorted(first.asked) == list(range(50))
    encode(tmp_path / "latents", second)
    assert second.asked == []


def test_what_was_stopped_goes_on_after_the_last_shard(tmp_path) -> None:
    folder = tmp_path / "latents"
    with pytest.raises(Stopped, match="the same again goes on"):
        encode(folder, Counted(stop=40))
    rest = Counted()
    found = encode(folder, rest)
    assert sorted(rest.asked) == list(range(32, 50))
    assert torch.equal(found[np.arange(50)], codec().encode(X))


KILLED = """
import os, signal, sys, torch
import structdiff.artifacts.job as job
from structdiff.codecs.standardise import Standardise
from structdiff.runs.latents import encode_data, samples_checksum
X = torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(0))
codec = Standardise((2, 4), axes=(0,)); codec.fit(X)
count, last, how = 0, int(sys.argv[2]), sys.argv[3]
write = job.write_atomic
def dying(path, content):
    global count
    if path.suffix == ".safetensors":
        count += 1
        if count == last:
            if how == "after":
                write(path, content)  # whole, but not recorded
            else:
                path.with_name(f".{path.name}.{os.getpid()}.tmp").write_bytes(content[:99])
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)
job.write_atomic = dying
encode_data(sys.argv[1], codec, X, identity={"digest": samples_checksum(X)}, shard_size=16,
            batch_size=5)
"""


@pytest.mark.parametrize("how", ["during", "after"])
def test_a_process_killed_while_it_writes_leaves_whole_shards(tmp_path, how) -> None:
    folder = tmp_path / "latents"
    command = [sys.executable, "-c", KILLED, str(folder), "3", how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    rest = Counted()
    found = encode(folder, rest)
    assert sorted(rest.asked) == list(range(32, 50))
    assert torch.equal(found[np.arange(50)], codec().encode(X))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["job.json", *(f"latents-0000{i}.safetensors" for i in range(4))]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_shard_is_encoded_again_with_a_word(tmp_path, damage) -> None:
    folder = tmp_path / "latents"
    encode(folder)
    shard = folder / "latents-00001.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(content[:-7])
    elif damage == "changed":
        content[-1] ^= 1
        shard.write_bytes(content)
    else:
        shard.unlink()
    said: list[str] = []
    rest = Counted()
    found = encode(folder, rest, say=said.append)
    assert sorted(rest.asked) == list(range(16, 32))
    assert said == [f"missing or changed in {folder}, encoded again: latents-00001.safetensors"]
    assert torch.equal(found[np.arange(50)], codec().encode(X))


@pytest.mark.parametrize("change", ["data", "codec", "precision"])
def test_what_is_of_other_data_or_another_codec_is_encoded_again_with_a_word(
    tmp_path, change
) -> None:
    folder, other, rest = tmp_path / "latents", codec(), Counted(X + 1)
    encode(folder)
    settings = {"identity": {"digest": samples_checksum(X)}, "shard_size": 16}
    if change == "data":
        settings["identity"] = {"digest": samples_checksum(X + 1)}
    elif change == "codec":
        other.fit(X + 1)
    else:
        settings["precision"] = "float16"
    said: list[str] = []
    found = encode_data(folder, other, rest, **settings, say=said.append)
    assert sorted(rest.asked) == list(range(50))
    assert len(said) == 1
    assert f"{folder} was asked otherwise, all is encoded again: {change}" in said[0]
    tolerance = 2e-3 if change == "precision" else 0
    torch.testing.assert_close(
        found[np.arange(50)], other.encode(X + 1), rtol=tolerance, atol=tolerance
    )


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"not empty and has no job\.json"):
        encode(tmp_path / "latents")
    assert (tmp_path / "latents" / "thesis.tex").read_text() == "all of it"


def test_a_damaged_record_is_named(tmp_path) -> None:
    encode(tmp_path / "latents")
    (tmp_path / "latents" / "job.json").write_text("{")
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        encode(tmp_path / "latents")


def test_a_shard_that_is_damaged_when_it_is_read_is_named(tmp_path) -> None:
    encode(tmp_path / "latents")
    shard = tmp_path / "latents" / "latents-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"latents-00002\.safetensors is damaged"):
        Latents(sorted((tmp_path / "latents").glob("*.safetensors")))


@pytest.mark.parametrize(("classes", "size"), [(200, 1), (256, 1), (257, 2), (40_000, 4)])
def test_classes_take_few_bytes_and_come_back_as_they_were(tmp_path, classes, size) -> None:
    source = torch.Generator().manual_seed(0)
    codes = torch.randint(classes, (30, 6), generator=source)
    codes[0, 0] = classes - 1
    found = encode_data(tmp_path / "l", Identity((6,), classes=classes), codes, identity={})
    assert found.shards[0].element_size() == size
    assert found[np.arange(30)].dtype == torch.int64
    assert torch.equal(found[np.arange(30)], codes)


def test_memory_holds_a_batch_of_samples_at_a_time(tmp_path) -> None:
    biggest = 0

    class Watched(Counted):
        def __getitem__(self, index: np.ndarray) -> Tensor:
            nonlocal biggest
            biggest = max(biggest, len(index))
            return super().__getitem__(index)

    encode(tmp_path / "latents", Watched(torch.zeros(400, 2, 4)), identity={})
    assert biggest == 5


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_what_is_not_asked_for_is_not_read(tmp_path) -> None:
    width = 1 << 16
    encode_data(
        tmp_path / "big", Identity((width,)), torch.zeros(64, width), identity={}, shard_size=32
    )
    files = sorted((tmp_path / "big").glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) > 16 << 20

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    Latents(files)[[0]]  # what torch allocates at first
    before = resident()
    found = Latents(files)
    found[[3]]
    assert resident() - before < 8 << 20  # a fault maps up to 2 MiB of a file


def test_latents_that_are_no_numbers_are_refused(tmp_path) -> None:
    x = X.clone()
    x[20, 0, 0] = 1e6
    plain = Blocks((2, 4), basis="entries")
    with pytest.raises(ValueError, match=r"latents of the samples \[20\] are not finite as"):
        encode_data(tmp_path / "l", plain, x, identity={}, precision="float16")
    found = encode_data(tmp_path / "m", plain, x, identity={})
    assert float(found[[20]].abs().max()) == 1e6


def test_numbers_out_of_range_are_refused(tmp_path) -> None:
    found = encode(tmp_path / "latents")
    for index in ([50], [-1]):
        with pytest.raises(IndexError, match="latents have numbers from 0 to 49"):
            found[index]
    with pytest.raises(ValueError, match="precision must be 'float32' or 'float16', got 'int8'"):
        encode(tmp_path / "latents", precision="int8")
    with pytest.raises(ValueError, match="shard_size must be at least 1, got 0"):
        encode(tmp_path / "latents", shard_size=0)
    with pytest.raises(ValueError, match="data has no samples: there is nothing to encode"):
        encode(tmp_path / "none", Counted(X[:0]))
    assert not (tmp_path / "none").exists()


def test_the_checksum_of_samples_knows_values_order_shape_and_type() -> None:
    sums = [
        samples_checksum(x) for x in (X, X.flip(0), X.double(), X.reshape(50, 8), X[:49], X + 1e-6)
    ]
    assert len(set(sums)) == len(sums)
    assert samples_checksum(X, batch_size=7) == sums[0]


def test_the_record_says_what_the_latents_follow_from(tmp_path) -> None:
    encode(tmp_path / "latents")
    asked = json.loads((tmp_path / "latents" / "job.json").read_text())["asked"]
    assert asked.keys() == {"codec", "data", "samples", "precision", "shard_size"}
    assert asked["data"] == {"digest": samples_checksum(X)}


class Small(torch.nn.Module):
    """A network of one leaf."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(9, 8)

    def forward(self, batch: Batch, clock: Mapping[str, Tensor], previous: object) -> object:
        del previous
        x, time = batch["x"], clock["x"].expand(batch.samples).unsqueeze(1)
        seen = torch.cat([x.flatten(1), time.to(x.dtype)], 1)
        return {"x": self.linear(seen).reshape(x.shape)}


def test_latents_of_the_identity_train_the_model_of_the_data_bit_for_bit(tmp_path) -> None:
    """And so does what is sampled and decoded: two stages are one where the codec does nothing."""
    identity = Identity((2, 4))
    latents = encode_data(tmp_path / "latents", identity, X, identity={}, shard_size=16)
    process = Product({"x": Gaussian(Cosine(), event=(2, 4))})
    settings = {"steps": 8, "batch_size": 10, "device": "cpu", "bf16": False}
    found = []
    for data in (X, latents):
        denoiser = NetworkDenoiser(Small(), process)
        source = Source(50, lambda index, data=data: Batch.of(data[index]), batch_size=10)
        Trainer(denoiser, Denoising(), source, TrainingConfig(**settings)).run()
        walk = DDPM(denoiser, UniformTime(5))
        found.append(walk.sample(Batch.of(torch.zeros(3, 2, 4)), Generator(0))["x"])
    assert torch.equal(identity.decode(found[1]), found[0])
    assert float(found[0].std()) > 0.1
