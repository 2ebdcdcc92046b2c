"""Any number of processes, whole weights or parts of them: one training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.training import Failure, Stopped

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from many import BROKEN, CASES, SHARDING, numbers  # noqa: E402
from record import make, stop_at  # noqa: E402

sys.path.remove(str(HERE))

shardings = pytest.mark.parametrize("sharding", SHARDING)
EXACT = {"rtol": 1e-10, "atol": 1e-12}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that two processes do, in one start; half a run of one is there before."""
    folder = tmp_path_factory.mktemp("many")
    half = RunFolder(folder / "from-one-replicate")
    half.path.mkdir()
    with pytest.raises(Stopped):
        stop_at(make(half), 10).run()
    shutil.copytree(half.path, folder / "from-one-shard")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc-per-node", "2", str(HERE / "many.py"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def kept(folder):
    """What the two processes have written down."""
    return [json.loads((folder / f"kept-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same trainings by one process."""
    folders = {}
    for name, case in CASES.items():
        folders[name] = RunFolder(tmp_path_factory.mktemp(name))
        make(folders[name], **case).run()
    return folders


def assert_same(folder, other, tolerance):
    """Files with the same names, shapes and, to the tolerance, numbers."""
    for name in ("state", "model", "ema"):
        (found, step), (expected, at) = (load_tensors(getattr(f, name)) for f in (folder, other))
        assert step == at
        assert {n: (x.shape, x.dtype) for n, x in found.items()} == {
            n: (x.shape, x.dtype) for n, x in expected.items()
        }
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, **tolerance)


@shardings
@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_weights_of_one(folder, alone, name, sharding):
    """Also where parts are uneven or empty, and where the networks started differently."""
    tolerance = SINGLE if name == "single" else EXACT
    assert_same(RunFolder(folder / f"{name}-{sharding}"), alone[name], tolerance)
    first = make(**CASES[name]).state()["model.backbone.enter.weight"]
    last = load_tensors(alone[name].state)[0]["model.backbone.enter.weight"]
    assert (last - first).abs().max() > 1e-3


@shardings
@pytest.mark.parametrize("name", ["size", "cost"])
def test_logged_numbers_are_means_over_all_samples(folder, alone, name, sharding):
    lines = RunFolder(folder / f"{name}-{sharding}").read_metrics()
    steps = [7, 10, 14, 20, 20] if name == "size" else [7, 8, 8]
    expected = alone[name].read_metrics()
    assert [x["step"] for x in lines] == steps
    for line, other in zip(lines, expected, strict=True):
        line.pop("steps_per_second", None), other.pop("steps_per_second", None)
        assert line == pytest.approx(other, rel=1e-9)


@shardings
def test_a_run_of_two_goes_on_with_one_and_a_run_of_one_with_two(folder, alone, sharding):
    half = RunFolder(folder / f"half-{sharding}")
    assert load_tensors(half.state)[1] == {"step": "10"}
    make(half, seed=5).run()
    for went_on in (half, RunFolder(folder / f"from-one-{sharding}")):
        assert_same(went_on, alone["size"], EXACT)
        steps = [x["step"] for x in went_on.read_metrics()]
        assert steps == sorted(steps)


def test_each_of_two_keeps_half_of_everything(kept):
    """All but the scalar weight, which cannot be cut."""
    whole = make()
    whole.update()
    everything = numbers(whole)
    assert [k["size-replicate"] for k in kept] == [everything, everything]
    parts = [k["size-shard"] for k in kept]
    scalars = [1, 1, 0]  # moments of a scalar have no axes and are not counted
    for first, second, both, scalar in zip(*parts, everything, scalars, strict=True):
        assert first + second == both + scalar
        assert max(first, second) < 0.6 * both


@shardings
def test_a_loss_that_breaks_in_one_process_ends_both_and_is_reproduced_by_one(
    folder, kept, sharding
):
    first, second = (k[f"broken-{sharding}"] for k in kept)
    assert first == second
    assert f"sample ids [{BROKEN}]" in first
    (path,) = (folder / f"broken-{sharding}").glob("failure-step-*.safetensors")
    assert str(path) in first

    failure, again = Failure.load(path), make(seed=4)
    terms = again.reproduce(path)
    at = failure.batch.ids.tolist().index(BROKEN)
    assert torch.nonzero(~torch.isfinite(terms.leaves["x"])).flatten().tolist() == [at]

    # One process at this update: the same times, and the same losses of the other samples.
    again.step = failure.step
    whole = again.source(again.step)
    assert failure.batch.part.total == whole.samples > failure.batch.samples
    joined = again.terms(whole, again.noise()[0])
    places = failure.batch.part.places(failure.batch.samples)
    assert torch.equal(whole.ids[places], failure.batch.ids)
    others = [k for k in range(failure.batch.samples) if k != at]
    for name, term in terms.leaves.items():
        torch.testing.assert_close(joined.leaves[name][places][others], term[others], **EXACT)
        rows = whole.layouts[name].rows_of(places)
        assert torch.equal(joined.clock[name][rows], terms.clock[name])


def test_a_weight_that_one_process_did_not_use_has_the_gradient_zero_there(kept):
    assert [k["gradients"] for k in kept] == [[[2.0, 4.0], [2.0, 3.0], None]] * 2


def test_processes_that_see_different_folders_are_refused(kept):
    for k in kept:
        assert "the processes found saves of steps 0, 10 in " in k["folders"]
        assert k["folders"].endswith("choose a folder that all of them see")


def test_noise_by_sample_is_not_noise_by_process():
    """And sharded weights bring it with them."""

    def weight(**settings):
        trainer = make(**settings)
        trainer.update()
        return trainer.state()["model.backbone.enter.weight"]

    assert not torch.equal(weight(), weight(randomness="process"))
    assert torch.equal(weight(), weight(randomness="process", sharding="shard"))
