"""Folders of runs and of jobs that are cut, changed, foreign or from the future."""

import json
import pickle
import re
import shutil
import stat

import pytest
import torch

from structdiff.artifacts import load_tensors, save_tensors
from structdiff.cli.main import main
from tests.bad.corpus import refusal, snapshot
from tests.bad.test_packed import Trap


def text(name, content):
    return lambda run: (run / name).write_text(content)


def merged(name, **changes):
    """JSON with other values; those that are None are left out."""

    def change(run):
        content = json.loads((run / name).read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (run / name).write_text(json.dumps(kept))

    return change


def setting(group, name, value):
    def change(run):
        content = json.loads((run / "config.json").read_text())
        content["config"][group][name] = value
        (run / "config.json").write_text(json.dumps(content))

    return change


def law(name, value):
    def change(run):
        content = json.loads((run / "codec.json").read_text())
        content["sizes"][name] = value
        (run / "codec.json").write_text(json.dumps(content))

    return change


def gone(name):
    return lambda run: (run / name).unlink()


def cut(name, size):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:size])


def a_folder_instead(run):
    (run / "ema.safetensors").unlink()
    (run / "ema.safetensors").mkdir()


def one_bit(run):
    content = bytearray((run / "ema.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "ema.safetensors").write_bytes(content)


def renamed(run):
    tensors, _ = load_tensors(run / "ema.safetensors")
    save_tensors(run / "ema.safetensors", {f"{n}_": x for n, x in tensors.items()})


def pickled(run):
    (run / "ema.safetensors").write_bytes(pickle.dumps(Trap()))


def torch_pickled(run):
    torch.save({"weights": torch.zeros(2)}, run / "ema.safetensors")


NONE = "does not exist: is .* the folder of a run?"
CODEC = "codec.json"
WRONG = [
    ("no folder", shutil.rmtree, NONE),
    ("no config", gone("config.json"), NONE),
    ("config no JSON", text("config.json", "{'a': 1}"), "config.json is damaged: "),
    ("config cut", cut("config.json", 40), "config.json is damaged: "),
    ("config empty", text("config.json", ""), "config.json is damaged: "),
    ("config binary", lambda run: (run / "config.json").write_bytes(b"\xff\xfe\0"), "is damaged"),
    ("config too deep", text("config.json", "[" * 100_000), "config.json is damaged: "),
    ("config a list", text("config.json", "[]"), "has no schema, domain and config"),
    ("config without schema", merged("config.json", schema=None), "has no schema, domain and"),
    ("newer schema", merged("config.json", schema=99), "schema 99, .* upgrade structdiff"),
    ("schema a word", merged("config.json", schema="new"), "has schema new"),
    ("another domain", merged("config.json", domain="poems"), "no domain 'poems'; there are"),
    ("domain a list", merged("config.json", domain=["x"]), "no domain"),
    ("settings a list", merged("config.json", config=[]),
        "config.json has a config that is not groups of settings"),
    ("unknown group", merged("config.json", config={"poetry": {}}), "config.json: .*poetry"),
    ("unknown setting", setting("network", "depth", 3), "config.json: .*network.depth = 3"),
    ("setting of another kind", setting("network", "width", "wide"), "network.width = 'wide'"),
    ("setting out of range", setting("sampler", "steps", 0), "sampler.steps = 0"),
    ("setting NaN", setting("sampler", "temperature", float("nan")), "sampler.temperature = nan"),
    ("no codec", gone(CODEC), "codec.json does not exist"),
    ("codec cut", cut(CODEC, 30), "codec.json is damaged"),
    ("codec empty", text(CODEC, "{}"), "codec.json.*'types' is missing"),
    ("codec a list", text(CODEC, "[1]"), "codec.json is damaged: .*wrong kind"),
    *(
        (f"codec without {key}", merged(CODEC, **{key: None}), f"codec.json.*'{key}' is missing")
        for key in ("types", "type_counts", "sizes", "position_std", "conditions")
    ),
    ("no types", merged(CODEC, types=[], type_counts=[]), "codec.json.*types"),
    ("types of words", merged(CODEC, types=["ab"]), "codec.json"),
    ("type of 300", merged(CODEC, types=[[300, 0]] * 5), "codec.json.*types"),
    ("type of 200", merged(CODEC, types=[[200, 0]] * 5), "codec.json.*types"),
    ("charge of 500", merged(CODEC, types=[[6, 500]] * 5), "codec.json.*types"),
    ("counts too few", merged(CODEC, type_counts=[1]), "codec.json.*type_counts"),
    ("counts negative", merged(CODEC, type_counts=[-1] * 5), "codec.json.*type_counts"),
    ("spread 0", merged(CODEC, position_std=0), "codec.json.*position_std"),
    ("spread NaN", merged(CODEC, position_std=float("nan")), "codec.json.*position_std"),
    ("spread a word", merged(CODEC, position_std="wide"), "codec.json"),
    ("histogram a word", law("histogram", "ab"), "codec.json.*histogram"),
    ("histogram empty", law("histogram", []), "codec.json.*histogram"),
    ("histogram negative", law("histogram", [0, 0, -1]), "codec.json.*histogram"),
    ("tables a list", law("tables", []), "codec.json"),
    ("tables of nothing", law("tables", {}), "codec.json.*tables|codec.json.*alpha"),
    ("condition without a name", merged(CODEC, conditions=[{"mean": [1]}]), "codec.json"),
    ("condition of another field", merged(CODEC, conditions=[{"name": "a", "x": []}]),
        "codec.json"),
    ("condition of nothing", merged(CODEC, conditions=[{"name": "alpha"}]), "codec.json"),
    ("unfinished", gone("ema.safetensors"), "the training has not ended, train again to go on"),
    ("weights cut", cut("ema.safetensors", -10), "ema.safetensors is truncated or not a safetens"),
    ("weights empty", cut("ema.safetensors", 0), "ema.safetensors is truncated or not a safetens"),
    ("weights changed", one_bit, "ema.safetensors was changed after its writing"),
    ("weights a folder", a_folder_instead, "ema.safetensors"),
    ("weights of other names", renamed, "ema.safetensors does not fit .*config.json"),
    ("weights of another width", setting("network", "width", 16), "ema.safetensors does not fit"),
    ("weights of more layers", setting("network", "layers", 2), "ema.safetensors does not fit"),
    ("weights pickled", pickled, "ema.safetensors is truncated or not a safetensors file"),
    ("weights of torch.save", torch_pickled, "ema.safetensors is truncated or not a safetens"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "why"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_run_folder(name, spoil, why, run, tmp_path, capsys):
    spoil(run)
    line = refusal(capsys, tmp_path, "sample", run, "-n", 2, "-o", tmp_path / "out.sdf")
    assert re.search(why, line), line


LOOKED_AT = [
    ("no folder", shutil.rmtree, NONE),
    ("settings a list", merged("config.json", config=[]),
        "config.json has a config that is not groups of settings"),
    ("settings of words", merged("config.json", config={"a": "b"}),
        "config.json has a config that is not groups"),
    ("weights cut", cut("ema.safetensors", -10), "ema.safetensors is truncated"),
    ("weights of other names", renamed, "ema.safetensors does not say after which update"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "why"), LOOKED_AT, ids=[name for name, *_ in LOOKED_AT])
def test_a_run_folder_that_is_inspected(name, spoil, why, run, tmp_path, capsys):
    spoil(run)
    assert re.search(why, refusal(capsys, tmp_path, "inspect", run))


@pytest.mark.parametrize("command", ["sample", "evaluate", "inspect"])
def test_a_file_is_not_a_run(command, tmp_path, capsys):
    (tmp_path / "run").write_text("not a folder")
    assert "run is a file, no run's folder" in refusal(capsys, tmp_path, command, tmp_path / "run")


def job(run, out, *more):
    """Two shards of two molecules."""
    words = ["sample", run, "-n", 4, "-o", out, "--sampler.batch-size", 2, *more]
    main([str(word) for word in words])


@pytest.fixture(scope="session")
def whole_job(whole_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("job") / "drawn"
    job(whole_run, out)
    return out


@pytest.fixture
def drawn(whole_job, tmp_path):
    return shutil.copytree(whole_job, tmp_path / "drawn")


def part(**changes):
    def change(path):
        content = json.loads((path / "job.json").read_text())
        content["parts"][0] |= changes
        (path / "job.json").write_text(json.dumps(content))

    return change


JOBS = [
    ("another job", merged("job.json", asked={"seed": 7}), "asked otherwise: .*seed: 7 -> 0"),
    ("job.json cut", cut("job.json", 30), "job.json is damaged"),
    ("job.json a list", text("job.json", "[]"), "it is not a job's, choose another folder"),
    ("job.json without parts", merged("job.json", parts=None), "it is not a job's"),
    ("a newer job", merged("job.json", schema=99), "schema 99, .* upgrade structdiff"),
    ("no job.json", gone("job.json"), "is not empty and has no job.json: choose another folder"),
    ("parts of words", merged("job.json", parts=["x"]), "job.json"),
    ("parts a number", merged("job.json", parts=3), "job.json"),
    ("halved of numbers", merged("job.json", halved=[3]), "job.json"),
    ("a part without a field", merged("job.json", parts=[{"low": 0, "key": [0]}]), "job.json"),
    ("a part of another field", part(poem="x"), "job.json"),
    ("files a list", part(files=["a"]), "job.json"),
    ("counts a word", part(counts="x"), "job.json"),
    ("low a word", part(low="x"), "job.json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "why"), JOBS, ids=[name for name, *_ in JOBS])
def test_a_job_folder(name, spoil, why, drawn, whole_run, tmp_path, capsys):
    spoil(drawn)
    words = ["-n", 4, "-o", drawn, "--sampler.batch-size", 2]
    assert re.search(why, refusal(capsys, tmp_path, "sample", whole_run, *words))


def test_a_job_of_another_seed_says_so(drawn, whole_run, tmp_path, capsys):
    words = ["-n", 4, "-o", drawn, "--sampler.batch-size", 2, "--seed", 3]
    assert "asked otherwise: seed: 0 -> 3" in refusal(
        capsys, tmp_path, "sample", whole_run, *words
    )


@pytest.mark.parametrize("spoil", [gone("molecules-00001.sdf"), cut("molecules-00001.sdf", -9)])
def test_a_shard_that_is_missing_or_changed_is_drawn_again(spoil, drawn, whole_run, capsys):
    before = (drawn / "molecules-00001.sdf").read_bytes()
    spoil(drawn)
    job(whole_run, drawn)
    assert "missing or changed, drawn again: molecules-00001.sdf" in capsys.readouterr().out
    assert (drawn / "molecules-00001.sdf").read_bytes() == before


def test_a_job_that_is_done_changes_nothing(drawn, whole_run):
    before = snapshot(drawn)
    job(whole_run, drawn)
    after = snapshot(drawn)
    assert before.keys() == after.keys()
    assert {n for n in before if before[n] != after[n]} <= {
        "job.json",
        "summary.json",
        "summary.md",
    }


def test_a_run_that_may_not_be_written_is_drawn_from(run, tmp_path):
    mode = stat.S_IMODE(run.stat().st_mode)
    before = snapshot(run)
    run.chmod(0o555)
    try:
        main(["sample", str(run), "-n", "1", "-o", str(tmp_path / "out.xyz")])
    finally:
        run.chmod(mode)
    assert (tmp_path / "out.xyz").is_file()
    assert snapshot(run) == before
