"""Two processes are one with twice the machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from structdiff.artifacts import load_tensors

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from line import make  # noqa: E402
from two import COSTS  # noqa: E402

sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*words, str(HERE / "two.py"), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("name", ["size", "cost"])
def test_both_end_with_the_weights_of_one_on_the_joined_batches(folder, name):
    """Also where shares are uneven or empty, and where the networks started differently."""
    first, second = (load_tensors(folder / f"{name}-{rank}.safetensors")[0] for rank in (0, 1))
    alone = make(batch_size=5, source=COSTS if name == "cost" else None)
    start = alone.denoiser.layer.weight.detach().clone()
    alone.run()
    assert (alone.denoiser.layer.weight - start).abs().max() > 1e-2
    for key, value in alone.state().items():
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], value, rtol=1e-5, atol=1e-6)


def test_a_signal_to_one_stops_both_at_the_same_update(folder):
    assert [(folder / f"stopped-{rank}").read_text() for rank in (0, 1)] == ["7", "7"]
    assert load_tensors(folder / "state.safetensors")[1] == {"step": "7"}
