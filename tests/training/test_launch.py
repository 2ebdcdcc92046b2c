"""`python -m structdiff`, alone and under torchrun."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.domains.molecules import embedded

SETTINGS = {
    "network.layers": 2,
    "network.width": 16,
    "network.hidden": 16,
    "network.basis": 8,
    "data.validation": 4,
    "training.steps": 6,
    "training.warm-up": 3,
    "training.log-every": 3,
    "training.validate-every": 6,
    "training.device": "cpu",
    "training.randomness": "sample",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    some = embedded().select(range(40))
    path = tmp_path_factory.mktemp("data") / "some.npz"
    position = np.round(some.position * 1e4).astype(np.int32)
    np.savez(path, pos_1e4A=position, z=some.number, n_atoms=some.count)
    return path


def run(*words, processes=1):
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone"]
        launch += ["--nproc-per-node", str(processes), "-m"]
    return subprocess.run(
        [*launch, "structdiff", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def train(data, out, processes=1, **changes):
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    words.append("--training.no-bf16")
    return run("train", "molecules", "--data", data, "--out", out, *words, processes=processes)


def test_the_module_is_the_command():
    """What it does when all is well, the next test says."""
    wrong = run("trian")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("structdiff: there is no command 'trian'")


def test_two_processes_with_sharded_weights_are_one(data, tmp_path):
    """The molecules' network, whose layers are not called, and its ragged batches."""
    two = train(data, tmp_path / "two", processes=2, training__sharding="shard")
    one = train(data, tmp_path / "one")
    assert two.returncode == one.returncode == 0, two.stderr + one.stderr
    said = two.stdout.replace(str(tmp_path / "two"), str(tmp_path / "one"))
    assert said == one.stdout
    assert "Warning" not in two.stderr
    for name in ("state", "model", "ema"):
        (found, step), (expected, at) = (
            load_tensors(getattr(RunFolder(tmp_path / run), name)) for run in ("two", "one")
        )
        assert step == at == {"step": "6"}
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    lines = [RunFolder(tmp_path / name).read_metrics() for name in ("two", "one")]
    assert [x["step"] for x in lines[0]] == [3, 6, 6]
    assert lines[0][-1]["bound"] == pytest.approx(lines[1][-1]["bound"], rel=1e-5)
    assert (tmp_path / "one" / "config.json").read_text() == (
        tmp_path / "two" / "config.json"
    ).read_text()


SAID = "structdiff: "


def reasons(done):
    """What the processes, and not torchrun, say after a failure."""
    lines = done.stderr.replace("\r", "\n").splitlines()
    # The bar of the other process may stand before it.
    return [line[line.index(SAID) :] for line in lines if SAID in line]


def test_what_fails_in_both_is_said_once(tmp_path):
    done = train(tmp_path / "none.npz", tmp_path / "run", processes=2)
    assert done.returncode != 0
    assert len(reasons(done)) == 1, done.stderr
    assert "none.npz" in reasons(done)[0]
    assert done.stderr.startswith("structdiff: ")


def test_what_fails_in_the_first_alone_ends_both(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").write_text("")
    done = train(data, tmp_path / "run", processes=2)
    assert done.returncode != 0
    assert reasons(done) == [
        f"structdiff: {tmp_path / 'run'} is not empty and has no config.json: choose another --out"
    ]
    assert done.stderr.startswith("structdiff: ")
    assert (tmp_path / "run" / "other").exists()


def test_a_loss_that_is_not_finite_is_said_once(data, tmp_path):
    rate = {"training__learning_rate": 1e30, "training__sharding": "shard"}
    done = train(data, tmp_path / "run", processes=2, **rate)
    assert done.returncode != 0
    assert len(reasons(done)) == 1, done.stderr
    assert "the loss is not finite at step" in reasons(done)[0]
    assert len(list((tmp_path / "run").glob("failure-step-*.safetensors"))) == 1
