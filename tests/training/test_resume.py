"""A training that is killed anywhere and started again ends where an undisturbed one does."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.domains.molecules import embedded

STEPS = 12
SETTINGS = {
    "network.layers": 2,
    "network.width": 16,
    "network.hidden": 16,
    "network.basis": 8,
    "data.validation": 4,
    "training.steps": STEPS,
    "training.warm-up": 3,
    "training.save-seconds": 1e-6,
    "training.log-every": 3,
    "training.validate-every": 6,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    some = embedded().select(range(60))
    path = tmp_path_factory.mktemp("data") / "some.npz"
    position = np.round(some.position * 1e4).astype(np.int32)
    np.savez(path, pos_1e4A=position, z=some.number, n_atoms=some.count)
    return path


@pytest.fixture(scope="module")
def start(data):
    """Start the same command, to be ended at a moment."""

    def start(out, moment="never", number=0):
        words = [sys.executable, Path(__file__).with_name("killed.py"), moment, str(number)]
        words += ["train", "molecules", "--data", data, "--out", out]
        words += [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
        return subprocess.Popen(
            [str(word) for word in words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    return start


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("undisturbed") / "run")
    process = start(folder.path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    return folder


def wait(process):
    assert any(line == "waiting\n" for line in process.stdout), process.stderr.read()


def assert_same(folder, other):
    for name in ("state", "model", "ema"):
        (a, step), (b, other_step) = (load_tensors(getattr(f, name)) for f in (folder, other))
        assert step == other_step == {"step": str(STEPS)}
        assert a.keys() == b.keys()
        assert [n for n in a if not torch.equal(a[n], b[n])] == []
    lines, expected = folder.read_metrics(), other.read_metrics()
    assert [(x["step"], "bound" in x) for x in lines] == [
        (x["step"], "bound" in x) for x in expected
    ]
    bounds = [[x["bound"] for x in y if "bound" in x] for y in (lines, expected)]
    assert bounds[0] == bounds[1]
    assert len(lines) == len(folder.metrics.read_text().splitlines())


def test_the_undisturbed_run_is_as_its_settings_say(undisturbed):
    lines = undisturbed.read_metrics()
    assert [x["step"] for x in lines if "position" in x] == [3, 6, 9, 12]
    assert [x["step"] for x in lines if "bound" in x] == [6, 12]
    state, _ = load_tensors(undisturbed.state)
    weights = {n for n in state if n.startswith("model.")}
    model, ema = load_tensors(undisturbed.model)[0], load_tensors(undisturbed.ema)[0]
    assert all(torch.equal(state[n], model[n.removeprefix("model.")]) for n in weights)
    assert not torch.equal(
        model["backbone.network.enter.weight"], ema["backbone.network.enter.weight"]
    )


def test_a_run_killed_again_and_again_ends_bit_for_bit(start, undisturbed, tmp_path):
    folder = RunFolder(tmp_path / "run")
    for moment, number, saved in (
        ("update", 1, 1),  # weights are changed, nothing is saved of it
        ("save", 3, 3),  # two more saves are done, the third is a temporary file
        ("log", 9, 8),  # half a line of metrics
        ("rename", "ema.safetensors", STEPS),  # the weights for use are half exported
    ):
        process = start(folder.path, moment, number)
        if moment == "save":
            wait(process)
            assert list(folder.path.glob(".state.safetensors.*.tmp"))
            process.kill()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors
        assert load_tensors(folder.state)[1] == {"step": str(saved)}
    assert not folder.ema.exists()
    process = start(folder.path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert list(folder.path.glob(".*")) == []
    assert_same(folder, undisturbed)


def test_sigterm_saves_and_the_same_command_goes_on(start, undisturbed, tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = start(folder.path, "signal", 4)
    wait(process)
    process.terminate()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert (
        output.splitlines()[-1] == f"structdiff: stopped at step 5 of {STEPS}; the state is saved"
    )
    assert "Traceback" not in errors
    assert load_tensors(folder.state)[1] == {"step": "5"}
    assert not folder.ema.exists()
    process = start(folder.path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, output + errors
    assert_same(folder, undisturbed)


def test_the_config_in_the_folder_is_the_commands(undisturbed):
    config = json.loads(undisturbed.config.read_text())["config"]
    assert config["training"]["steps"] == STEPS
    assert config["network"]["width"] == 16
