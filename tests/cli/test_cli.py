"""The command line: what it says, what it refuses, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rdkit import Chem

from structdiff.artifacts import RunFolder, load_tensors
from structdiff.cli import commands
from structdiff.cli.main import _joined, main
from structdiff.cli.registry import DOMAINS, Domain, load

SETTINGS = [
    *("--network.layers", "2", "--network.width", "16", "--network.hidden", "16"),
    *("--network.basis", "8", "--data.validation", "4", "--training.steps", "4"),
    *("--training.batch-size", "8", "--training.warm-up", "2", "--sampler.steps", "5"),
]
TRAIN = ["train", "molecules", *SETTINGS]


@pytest.fixture
def say(capsys):
    """Run a command; its exit status, output and errors."""

    def say(*words):
        status = 0
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return say


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    main([*TRAIN, "--out", str(path)])
    return path


@pytest.fixture
def copied(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refusal(answer):
    """The one line of a refusal."""
    status, output, errors = answer
    assert status == 2
    last = [line for line in errors.splitlines() if "%|" not in line]
    assert output == ""
    assert len(last) == 1, errors
    assert last[0].startswith("structdiff: ")
    return last[0]


def test_the_command_is_installed_and_ends_without_traceback():
    """Through the installed script, in a process of its own."""
    script = Path(sys.executable).with_name("structdiff")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*words):
        return subprocess.run(
            [str(script), *words], capture_output=True, text=True, env=environment, timeout=60
        )

    usage = run()
    assert usage.returncode == 0
    assert usage.stdout.startswith("usage: structdiff COMMAND ...")
    assert usage.stderr == ""
    wrong = run("inspect", "nowhere")
    assert wrong.returncode == 2
    assert wrong.stdout == ""
    expected = "structdiff: nowhere/config.json does not exist: is nowhere the folder of a run?\n"
    assert wrong.stderr == expected


def test_help_names_every_command(say):
    status, output, errors = say("--help")
    assert (status, errors) == (0, "")
    for name in ("train", "sample", "evaluate", "inspect", "domains", "demo", "tune"):
        assert f"\n  {name} " in output
    assert say("-h") == say() == (0, output, "")


@pytest.mark.parametrize("command", ["sample", "evaluate", "inspect", "domains", "tune"])
def test_each_command_has_help(say, command):
    status, output, _ = say(command, "--help")
    assert status == 0
    assert f"usage: structdiff {command}" in output


def test_an_unknown_command_or_domain_is_answered_with_the_known(say):
    line = refusal(say("tarin", "molecules"))
    known = "demo, doctor, domains, evaluate, inspect, regressor, sample, score, train, tune"
    assert f"no command 'tarin'; there are: {known}" in line
    said = refusal(say("train", "moleculs"))
    assert "no domain 'moleculs'; there are: audio, images, manifolds, molecules" in said
    status, output, _ = say("train")
    assert status == 2
    assert "DOMAIN is one of: audio, images, manifolds, molecules" in output
    assert say("train", "--help")[0] == 0


def test_domains_says_what_to_install(say):
    status, output, _ = say("domains")
    assert status == 0
    assert [line.split()[0] for line in output.splitlines()] == list(DOMAINS)
    assert "pip install 'structdiff[molecules]'" in output


def test_a_domain_whose_library_is_missing_says_which_extra(monkeypatch):
    monkeypatch.setitem(DOMAINS, "odd", Domain("no_such_library.odd", "odd", "odd things"))
    with pytest.raises(
        ValueError, match=r"needs no_such_library: pip install 'structdiff\[odd\]'"
    ):
        load("odd")


def test_help_of_train_lists_every_setting_with_its_meaning(say):
    status, output, _ = say("train", "molecules", "--help")
    assert status == 0
    from structdiff.domains.molecules import MoleculesConfig

    text = " ".join(output.replace("│", " ").split())
    for group, field in MoleculesConfig.model_fields.items():
        for name in field.annotation.model_fields:
            assert f"--{group}.{name.replace('_', '-')}" in text
    assert "Rounds of messages. (default: 6)" in text
    assert "--noise.element {absorbing,uniform,marginal}" in text
    assert "--config" not in text


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--network.width", "0"], "width .*greater than or equal to 1"),
        (["--network.width", "x"], "--network.width.*invalid literal.*'x'"),
        (["--noise.element", "purple"], "'purple'.*'absorbing', 'uniform', 'marginal'"),
        (["--noise.element-from", "9"], "element_from < element_to <= sigma_max must hold"),
        (["--network.withd", "3"], "--network.withd.*--network.width INT"),
        (["--training.ema", "1.5"], "ema .*less than 1"),
        (["--training.device", "tpu"], "device = 'tpu' cannot be used .*choose auto, cpu or cuda"),
        (["--data"], "Missing value.*--data.path"),
    ],
)
def test_a_wrong_value_says_what_is_allowed_and_makes_no_folder(say, tmp_path, words, allowed):
    import re

    status, _, errors = say("train", "molecules", "--out", tmp_path / "run", *words)
    assert status == 2
    assert "Traceback" not in errors
    assert re.search(allowed, " ".join(errors.split())), errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("nowhere.sdf", None, "no such file: .*nowhere.sdf"),
        ("empty.xyz", b"", "empty.xyz is empty"),
        ("odd.pdb", b"x", "suffix '.pdb' is not known; allowed are .sdf, .xyz and .npz"),
        ("broken.npz", b"x", "cannot read .*broken.npz"),
    ],
)
def test_data_that_cannot_be_read_is_one_line(say, tmp_path, name, content, why):
    import re

    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for data in (["--data", path], [f"--data={path}"]):
        assert re.search(why, refusal(say("train", "molecules", "--out", tmp_path / "run", *data)))
    assert not (tmp_path / "run").exists()


def test_a_trained_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()}
    tensors = {f"{name}.safetensors" for name in ("state", "model", "ema")}
    assert (
        names == {"config.json", "codec.json", "data.json", "metrics.jsonl", "README.md"} | tensors
    )
    assert load_tensors(trained / "ema.safetensors")[1] == {"step": "4"}


def test_training_again_goes_on_and_ends_the_same(say, copied):
    before = load_tensors(copied / "ema.safetensors")[0]
    metrics = (copied / "metrics.jsonl").read_text()
    status, output, _ = say(*TRAIN, "--out", copied)
    assert status == 0
    assert f"structdiff sample {copied} -n 10" in output
    after = load_tensors(copied / "ema.safetensors")[0]
    assert [name for name in before if not before[name].equal(after[name])] == []
    assert (copied / "metrics.jsonl").read_text() == metrics


def test_another_config_is_refused_with_the_field(say, copied):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    status, _, errors = say(*TRAIN, "--out", copied, "--network.width", "17")
    assert status == 2
    assert "network.width: 16 -> 17" in errors
    assert "network.layers" not in errors
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_inspect_shows_the_settings_and_the_weights(say, trained):
    status, output, _ = say("inspect", trained)
    assert status == 0
    assert "a run of the domain 'molecules'" in output
    assert "network: kind=pairs, layers=2, width=16" in output
    total = sum(x.numel() for x in load_tensors(trained / "ema.safetensors")[0].values())
    assert f"{total:,} numbers, averaged, after update 4" in output


def test_a_model_with_classes_cannot_be_tuned(say, trained):
    line = refusal(say("tune", trained, "--calls", "5"))
    assert "molecules, whose classes have no probability flow" in line
    assert not (trained / "tuned").exists()


@pytest.mark.parametrize("calls", [[], [20, 1]], ids=["none", "one"])
def test_walks_of_no_or_one_call_are_refused_before_any_is_tuned(say, calls):
    status, said, error = say("tune", "nowhere", "--calls", *calls)
    assert status != 0 and not said
    assert f"--calls must be numbers from 2 on, got {calls}" in error


def test_inspect_of_a_stopped_run_says_how_to_go_on(say, copied):
    (copied / "ema.safetensors").unlink()
    status, output, _ = say("inspect", copied)
    assert status == 0
    assert "stopped after update 4; run the same train command" in output


def test_samples_are_written_once(say, trained, tmp_path):
    out = tmp_path / "out.sdf"
    status, output, _ = say("sample", trained, "-n", "3", "-o", out)
    assert status == 0
    assert output.startswith("3 drawn: ")
    first = out.read_bytes()
    drawn = list(Chem.SDMolSupplier(str(out), sanitize=False, removeHs=False))
    assert len(drawn) == 3
    assert "out.sdf exists" in refusal(say("sample", trained, "-n", "3", "-o", out, "--seed", "1"))
    assert out.read_bytes() == first
    assert say("sample", trained, "-n", "3", "-o", out, "--seed", "1", "--overwrite")[0] == 0
    assert out.read_bytes() != first
    assert say("sample", trained, "-n", "3", "-o", out, "--overwrite")[0] == 0
    assert out.read_bytes() == first  # the seed decides


def test_sizes_are_those_asked_for(say, trained, tmp_path):
    out = tmp_path / "out.xyz"
    assert say("sample", trained, "-n", "3", "-o", out, "--sizes", "4", "6")[0] == 0
    lines = out.read_text().splitlines()
    assert {int(line) for line in lines if line.strip().isdecimal()} <= {4, 6}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-n", "0"], "number of molecules must be at least 1, got 0"),
        (["-n", "2", "--sizes", "1"], "each at least 2, got [1]"),
        (["-n", "2", "--sampler.steps", "0"], "steps = 0: "),
        (["-n", "2", "--sampler.eta", "2"], "eta = 2.0: "),
        (["-n", "2", "--given", "nowhere.sdf"], "no such file: nowhere.sdf"),
        (["-n", "2", "-o", "no/such/folder/out.sdf"], "no such folder: no/such/folder"),
        (["-n", "2", "--condition", "alpha=75"], "no condition 'alpha', the run knows none"),
        (["-n", "2", "--guidance", "2"], "guidance = 2.0 needs a condition"),
        (["-n", "2", "--guidance", "2", "3"], "guidance must be one number, or NAME=NUMBER"),
        (["-n", "2", "--guidance", "much"], "guidance must be a number, got 'much'"),
        (["--only-valid", "0"], "only_valid must be at least 1, got 0"),
        (["-n", "2", "--seed", "-1"], "seed must be at least 0, got -1"),
    ],
)
def test_a_draw_that_cannot_be_is_one_line(say, trained, words, why):
    assert why in refusal(say("sample", trained, *words))


def test_repeated_options_add_up(say, tmp_path, monkeypatch):
    """Repeated, in one go, or both: the same request reaches the domain."""
    seen = []

    class Commands:
        @staticmethod
        def sample(*words, **named):
            seen.append((words, named))

    monkeypatch.setattr(commands, "load", lambda _: type("Domain", (), {"commands": Commands}))
    (tmp_path / "config.json").write_text(json.dumps({"domain": "d", "schema": 1, "config": {}}))
    monkeypatch.setattr(RunFolder, "domain", "d")
    for words in (
        ["--condition", "a=1", "b=2=3", "--guidance", "a=2", "b=3", "--sizes", "5", "7", "9"],
        ["--condition", "a=1", "--condition", "b=2=3", "--guidance", "a=2", "--guidance", "b=3",
         "--sizes", "5", "7", "--sizes", "9"],
    ):  # fmt: skip
        assert say("sample", tmp_path, *words)[0] == 0
        named = seen.pop()[1]
        assert named["condition"] == {"a": "1", "b": "2=3"}
        assert named["guidance"] == {"a": 2.0, "b": 3.0}
        assert named["sizes"] == (5, 7, 9)
    twice = ["--condition", "a=1", "--condition", "a=2"]
    assert "condition must be NAME=VALUE, each name once" in refusal(
        say("sample", tmp_path, *twice)
    )
    twice = ["--guidance", "2", "--guidance", "3"]
    assert "guidance must be one number, or NAME=NUMBER" in refusal(
        say("sample", tmp_path, *twice)
    )
    for out, folder in (("new.v2", False), ("new.v2/", True), ("new", False)):
        say("sample", tmp_path, "-o", out)
        words, named = seen.pop()
        assert (words[2], named["folder"]) == (Path(out), folder)


def test_a_missing_run_is_one_line(say, tmp_path):
    for command in ("sample", "evaluate", "inspect"):
        line = refusal(say(command, tmp_path / "nowhere"))
        assert "nowhere/config.json does not exist: is" in line


def test_damage_is_one_line_that_names_the_file(say, copied):
    ema, config = copied / "ema.safetensors", copied / "config.json"
    whole = ema.read_bytes()
    ema.write_bytes(whole[:-10])
    assert "ema.safetensors is truncated" in refusal(say("sample", copied, "-n", "1"))
    ema.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "ema.safetensors was changed after its" in refusal(say("sample", copied, "-n", "1"))
    ema.unlink()
    assert "the training has not ended" in refusal(say("sample", copied, "-n", "1"))
    ema.write_bytes(whole)
    (copied / "codec.json").write_text("{}")
    assert "not the state of a molecule codec" in refusal(say("sample", copied, "-n", "1"))
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"domain": "poems"}))
    assert "no domain 'poems'" in refusal(say("sample", copied, "-n", "1"))
    config.write_text(json.dumps(content | {"schema": 99}))
    assert "schema 99" in refusal(say("sample", copied, "-n", "1"))
    config.write_text(config.read_text()[:40])
    assert "config.json is damaged" in refusal(say("inspect", copied))


def test_a_full_disk_while_training_is_one_line_and_keeps_the_folder(say, copied, monkeypatch):
    import errno

    before = load_tensors(copied / "state.safetensors")[0]

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    status, _, errors = say(*TRAIN, "--out", copied)
    assert status == 2
    assert "No space left on device" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    monkeypatch.undo()
    after = load_tensors(copied / "state.safetensors")[0]
    assert [name for name in before if not before[name].equal(after[name])] == []
    assert list(copied.glob(".*")) == []


def test_nothing_is_unpickled_in_a_run(say, copied, monkeypatch, tmp_path):
    """Resuming, loading and drawing touch no pickle."""
    import pickle

    import torch

    def refuse(*_, **__):
        msg = "a pickle was read"
        raise AssertionError(msg)

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert say(*TRAIN, "--out", copied)[0] == 0
    assert say("sample", copied, "-n", "1", "-o", tmp_path / "a.sdf")[0] == 0
    assert RunFolder(copied).domain == "molecules"


def test_an_option_may_be_repeated_or_have_several_values():
    words = [
        "--out",
        "r",
        "--data.conditions",
        "a",
        "--data.conditions=b",
        "--data.conditions",
        "c",
    ]
    assert _joined(words, "--data.conditions") == [
        "--out", "r", "--data.conditions", "a", "b", "c",
    ]  # fmt: skip
    assert _joined(["--out", "r"], "--data.conditions") == ["--out", "r"]
