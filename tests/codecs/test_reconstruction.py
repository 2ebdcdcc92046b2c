"""Codecs are trained by the trainer of everything else: resumed, in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.batch import Batch
from structdiff.codecs.reconstruction import Reconstruction
from structdiff.counter import Counter
from structdiff.random import Generator
from structdiff.training import Stopped

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fields import CODECS, make, waves  # noqa: E402

sys.path.remove(str(HERE))

codecs = pytest.mark.parametrize("name", CODECS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *words, str(HERE / "fields.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def stopped(trainer, step):
    update = trainer.update

    def watched():
        means = update()
        trainer._stop = trainer.step == step
        return means

    trainer.update = watched
    return trainer


@codecs
def test_a_run_that_was_stopped_ends_with_the_same_bits(name, tmp_path):
    for run in ("whole", "parts"):
        (tmp_path / run).mkdir()
    whole = make(name, RunFolder(tmp_path / "whole"))
    whole.run()
    with pytest.raises(Stopped):
        stopped(make(name, RunFolder(tmp_path / "parts")), 7).run()
    half = load_tensors(tmp_path / "parts" / "state.safetensors")[0]
    resumed = make(name, RunFolder(tmp_path / "parts"), seed=5)
    resumed.run()
    ours, theirs = resumed.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == []
    for book in {n for n in ours if n.endswith(".usage")}:  # it went on after the stop
        assert not torch.equal(half[book], ours[book])
    for file in ("model.safetensors", "ema.safetensors"):
        a, b = (load_tensors(tmp_path / run / file)[0] for run in ("whole", "parts"))
        assert all(torch.equal(a[n], b[n]) for n in a)


@codecs
def test_processes_end_with_one_codec(two, name):
    first, second = (load_tensors(two / f"{name}-{rank}.safetensors")[0] for rank in (0, 1))
    assert [n for n in first if not torch.equal(first[n], second[n])] == []


def test_two_processes_count_and_average_as_one(two):
    """Nothing is drawn where there are no restarts: then the joined batch decides everything."""
    alone = make("averages without restarts")
    start = alone.denoiser.codebook.codewords.clone()
    alone.run()
    assert (alone.denoiser.codebook.codewords - start).abs().max() > 0.01
    found = load_tensors(two / "averages without restarts-0.safetensors")[0]
    for key, value in alone.state().items():
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["normal", "residual"])
def test_training_learns_to_say_a_field_again(name):
    """Against the variance of the fields, which is what the best constant leaves."""
    trainer, x = make(name, steps=150, batch_size=20), waves(60).double()
    trainer.run()
    codec = trainer.denoiser.eval()
    error = (x - codec.decode(codec.encode(x))).square().mean()
    assert error < 0.2 * x.var()


@pytest.mark.parametrize("name", ["normal", "averages", "residual"])
def test_noise_by_sample_does_not_depend_on_batch_mates(name):
    codec, x = CODECS[name]().double().eval(), waves(6).double()
    batch = Batch.of({"wave": x})
    some = Batch.of({"wave": x[4:]})
    some = Batch(some.leaves, some.layouts, ids=torch.tensor([4, 5]))
    together = Reconstruction("wave")(codec, batch, Counter(0)).leaves
    alone = Reconstruction("wave")(codec, some, Counter(0)).leaves
    for term, value in together.items():
        torch.testing.assert_close(alone[term], value[4:], rtol=1e-9, atol=1e-12)


def test_noise_by_sample_reaches_restarts():
    """Whose codewords are no rows of the batch."""
    codec, batch = CODECS["residual"]().double(), Batch.of(waves(6).double())
    for step in range(3):
        Reconstruction()(codec, batch, Counter(0).scoped(step=step))
    first, second = (book.usage for book in codec.codebook.books)
    assert (first > 0).all()
    assert (second > 0).all()


def test_a_leaf_that_is_not_there_is_refused():
    batch = Batch.of({"wave": waves(2).double()})
    with pytest.raises(ValueError, match="the process has a leaf 'x', but the batch has"):
        Reconstruction()(CODECS["normal"]().double(), batch, Generator(0))
