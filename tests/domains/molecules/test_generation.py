"""Drawing at the command line: one file, a list, or a folder that survives being killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from structdiff.cli.main import main
from structdiff.domains.molecules import MoleculesConfig, Run, order, train, write
from structdiff.domains.molecules.data import embedded
from structdiff.domains.molecules.tally import interval

PRETRAINED = Path(sys.modules[Run.__module__].__file__).with_name("pretrained")
QUICK = ("--sampler.steps", "16", "--sampler.batch-size", "3")
GOOD = ("--sampler.steps", "25", "--sampler.batch-size", "4")
KILLED = Path(__file__).with_name("killed.py")


@pytest.fixture
def say(capsys):
    """Run `sample`; its exit status, output and errors without the bar."""

    def say(*words):
        status = 0
        try:
            main(["sample", *map(str, words)])
        except SystemExit as end:
            status = end.code
        output, errors = capsys.readouterr()
        return status, output, [line for line in errors.splitlines() if line and "%|" not in line]

    return say


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A run whose molecules are heaps of atoms."""
    config = MoleculesConfig.model_validate(
        {
            "data": {"validation": 0, "conditions": ("alpha",)},
            "network": {"layers": 1, "width": 8, "hidden": 8, "basis": 4},
            "training": {"steps": 2, "batch_size": 4, "warm_up": 1},
            "sampler": {"steps": 3},
        }
    )
    return train(config, tmp_path_factory.mktemp("runs") / "raw", say=lambda _: None).folder.path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A job of 10 molecules that nothing disturbed."""
    path = tmp_path_factory.mktemp("jobs") / "whole"
    main(["sample", str(PRETRAINED), "-n", "10", "-o", str(path), *QUICK])
    return path


def shards(path):
    return {p.name: p.read_bytes() for p in sorted(path.glob("molecules-*"))}


def molecules(path):
    """All molecules of a file or a folder, as RDKit reads them."""
    files = [path] if path.is_file() else sorted(path.glob("molecules-*.sdf"))
    found = []
    for file in files:
        if file.stat().st_size:
            found += list(Chem.SDMolSupplier(str(file), sanitize=False, removeHs=False))
    return found


def tight(most, monkeypatch):
    """Memory that runs out above a number of molecules."""
    draw, sizes = Run.draw, []

    def limited(self, asked, part, **named):
        if part.high - part.low > most:
            raise MemoryError
        sizes.append(part.high - part.low)
        return draw(self, asked, part, **named)

    monkeypatch.setattr(Run, "draw", limited)
    return sizes


def test_a_folder_holds_numbered_molecules_and_their_rates(whole):
    assert list(shards(whole)) == [f"molecules-0000{i}.sdf" for i in range(4)]
    found = molecules(whole)
    assert [mol.GetProp("_Name") for mol in found] == [f"molecule {i + 1}" for i in range(10)]
    summary = json.loads((whole / "summary.json").read_text())
    valid = sum(mol.GetProp("VALID") == "True" for mol in found)
    smiles = [mol.GetProp("SMILES") for mol in found if mol.HasProp("SMILES")]
    assert len(smiles) == valid
    assert (summary["drawn"], summary["written"]) == (10, 10)
    rate = summary["metrics"]["validity"]
    assert rate["value"] == valid / 10
    assert (rate["low"], rate["high"]) == pytest.approx(interval(valid, 10))
    assert summary["metrics"]["unique"]["value"] == pytest.approx(len(set(smiles)) / valid)
    good = round(10 * summary["metrics"]["valid and connected"]["value"])
    assert sum(summary["reasons"].values()) == 10 - good
    assert summary["molecules_per_second"] == pytest.approx(10 / summary["seconds"], rel=0.01)
    page = (whole / "summary.md").read_text()
    assert all(f"{n:,} x {reason}" in page for reason, n in summary["reasons"].items())


def test_a_folder_holds_what_one_draw_holds(whole):
    run = Run.pretrained()
    expected = run.sample(10, steps=16, batch_size=3, progress=False).structures
    for mol, (number, position) in zip(molecules(whole), expected, strict=True):
        assert [atom.GetAtomicNum() for atom in mol.GetAtoms()] == number.tolist()
        np.testing.assert_allclose(mol.GetConformer().GetPositions(), position, atol=6e-5)


def test_a_job_killed_twice_ends_the_same_byte_for_byte(say, whole, tmp_path):
    out = tmp_path / "out"
    words = ["sample", str(PRETRAINED), "-n", "10", "-o", str(out), *QUICK]
    quiet = {
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen([sys.executable, "-m", "structdiff.cli.main", *words], **quiet) as first:
        while not (out / "molecules-00000.sdf").exists():
            assert first.poll() is None
            time.sleep(0.002)
        first.kill()
    assert first.returncode == -signal.SIGKILL
    begun = shards(out)
    assert 1 <= len(begun) < 4
    command = [sys.executable, str(KILLED), "molecules-00003.sdf", *words]
    assert subprocess.run(command, **quiet, check=False).returncode == -signal.SIGKILL
    left = [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert len(left) == 1
    assert left[0].startswith(".molecules-00003.sdf.")
    assert shards(out) == {n: x for n, x in shards(whole).items() if n != "molecules-00003.sdf"}
    assert not (out / "summary.json").exists()

    status, output, _ = say(*words[1:])
    assert status == 0
    assert "goes on after 9 molecules drawn" in output
    assert shards(out) == shards(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    parts, expected = (json.loads((p / "job.json").read_text())["parts"] for p in (out, whole))
    for part in parts + expected:
        del part["seconds"]
    assert parts == expected


def test_a_signal_stops_the_job_with_a_word_on_how_to_go_on(say, whole, tmp_path, monkeypatch):
    draw, before = Run.draw, signal.getsignal(signal.SIGTERM)

    def interrupted(self, asked, part, **named):
        if part.low == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, asked, part, **named)

    monkeypatch.setattr(Run, "draw", interrupted)
    words = (PRETRAINED, "-n", "10", "-o", tmp_path / "out", *QUICK)
    status, output, _ = say(*words)
    assert status == 130
    assert "structdiff: stopped after 3 molecules; run the same command to go on" in output
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert say(*words)[0] == 0
    assert shards(tmp_path / "out") == shards(whole)


@pytest.mark.parametrize("out", [(), ("-o", "out.sdf")])
def test_a_signal_stops_a_file_or_a_list_of_which_nothing_is_left(say, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    draw, before = Run.draw, signal.getsignal(signal.SIGTERM)

    def interrupted(self, asked, part, **named):
        if part.low == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, asked, part, **named)

    monkeypatch.setattr(Run, "draw", interrupted)
    status, output, errors = say(PRETRAINED, "-n", "10", *out, *QUICK)
    assert (status, errors) == (130, [])
    expected = "structdiff: stopped after 3 molecules, nothing is written; only a folder can go on"
    assert output.splitlines() == [expected]
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_slash_at_the_end_makes_a_folder(say, tmp_path):
    out = tmp_path / "new.v2"
    assert say(PRETRAINED, "-n", "2", "-o", f"{out}/", *QUICK)[0] == 0
    assert len(molecules(out)) == 2
    (tmp_path / "file.sdf").write_text("mine")
    status, _, errors = say(PRETRAINED, "-n", "2", "-o", f"{tmp_path / 'file.sdf'}/", *QUICK)
    expected = (
        f"cannot create the folder {tmp_path / 'file.sdf'}: it is a file. Choose another one"
    )
    assert (status, errors) == (2, [f"structdiff: {expected}"])
    assert (tmp_path / "file.sdf").read_text() == "mine"


def test_another_request_in_the_folder_is_one_line(say, whole):
    before = shards(whole)
    status, output, errors = say(PRETRAINED, "-n", "11", "-o", whole, *QUICK, "--seed", "4")
    assert (status, output, len(errors)) == (2, "", 1)
    assert "asked otherwise: molecules: 10 -> 11; seed: 0 -> 4. Ask the same" in errors[0]
    assert shards(whole) == before


def test_a_job_that_is_done_draws_nothing(say, whole, monkeypatch):
    monkeypatch.setattr(Run, "draw", lambda *_, **__: pytest.fail("a molecule was drawn"))
    before = shards(whole)
    assert say(PRETRAINED, "-n", "10", "-o", whole, *QUICK)[0] == 0
    assert shards(whole) == before


def test_little_memory_makes_smaller_shards_and_is_recorded(say, whole, tmp_path, monkeypatch):
    sizes = tight(2, monkeypatch)
    out = tmp_path / "out"
    assert say(PRETRAINED, "-n", "5", "-o", out, *QUICK)[0] == 0
    assert sizes == [1, 2, 2]
    names = ["molecules-00000-0.sdf", "molecules-00000-1.sdf", "molecules-00001.sdf"]
    assert list(shards(out)) == names
    assert json.loads((out / "job.json").read_text())["halved"] == [[0]]
    assert [m.GetProp("_Name") for m in molecules(out)] == [f"molecule {i}" for i in range(1, 6)]
    tight(0, monkeypatch)
    status, _, errors = say(PRETRAINED, "-n", "2", "-o", tmp_path / "none", *QUICK)
    assert (status, len(errors)) == (2, 1)
    assert "memory runs out for sample 0 alone" in errors[0]


def test_little_memory_halves_the_batch_of_a_file(say, tmp_path, monkeypatch):
    sizes = tight(2, monkeypatch)
    assert say(PRETRAINED, "-n", "5", "-o", tmp_path / "out.sdf", *QUICK)[0] == 0
    assert sizes == [1, 2, 2]
    assert len(molecules(tmp_path / "out.sdf")) == 5


def test_only_valid_keeps_the_first_that_are_and_tells_the_true_rate(say, tmp_path):
    """The same draw without the wish says which those are."""
    words = (PRETRAINED, "--only-valid", "6", *GOOD, "--seed", "2")
    _, output, _ = say(*words)
    rate, *listed = output.splitlines()
    found = re.match(r"(\d+) drawn: (\d+) valid \(.*\), (\d+) valid and in one piece \(", rate)
    drawn, valid, good = (int(x) for x in found.groups())
    assert drawn % 4 == 0
    everything = Run.pretrained().sample(drawn, steps=25, batch_size=4, seed=2, progress=False)
    verdicts = everything.verdicts
    assert sum(v.valid for v in verdicts) == valid
    chosen = [i for i, v in enumerate(verdicts) if v.valid and v.connected]
    assert len(chosen) == good
    assert sum(i < drawn - 4 for i in chosen) < 6 <= good
    assert listed[-6:] == [verdicts[i].smiles for i in chosen[:6]]

    names = [f"molecule {i + 1}" for i in chosen[:6]]
    for out in (tmp_path / "out", tmp_path / "out.sdf"):
        assert f"{drawn} drawn: {valid} valid" in say(*words, "-o", out)[1]
        assert [mol.GetProp("_Name") for mol in molecules(out)] == names
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["drawn"], summary["written"]) == (drawn, 6)
    before = shards(tmp_path / "out")
    (tmp_path / "out" / "molecules-00000.sdf").unlink()
    assert "drawn again: molecules-00000.sdf" in say(*words, "-o", tmp_path / "out")[1]
    assert shards(tmp_path / "out") == before


def test_a_model_that_makes_nothing_valid_is_given_up(say, untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(order, "PATIENCE", 40)
    monkeypatch.setattr(order, "FACTOR", 5)
    words = (untrained, "--only-valid", "3", "--sizes", "12")
    for out in ((), ("-o", tmp_path / "out"), ("-o", tmp_path / "out.sdf")):
        status, _, errors = say(*words, *out)
        assert (status, len(errors)) == (2, 1)
        assert "48 molecules were drawn, 0 of them are valid" in errors[0]
    assert not (tmp_path / "out.sdf").exists()
    for _ in range(2):
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert (summary["drawn"], summary["written"]) == (48, 0)
        assert summary["metrics"]["validity"]["value"] == 0
        page = (tmp_path / "out" / "summary.md").read_text()
        assert "0 molecules written" in page
        status, output, errors = say(*words, "-o", tmp_path / "out")
        assert output.splitlines()[1].startswith("48 drawn: 0 valid (0.0% [0.0, ")
        assert errors[0].endswith(f"The rates are in {tmp_path / 'out' / 'summary.md'}")
    status, _, errors = say(untrained, "--only-valid", "0")
    assert "only_valid must be at least 1, got 0" in errors[0]


def test_conditions_are_asked_in_words(say, untrained, tmp_path):
    out = tmp_path / "out.npz"
    asked = ("--condition", "alpha=75", "--guidance", "2", "--seed", "1")
    assert say(untrained, "-n", "3", "-o", out, *asked)[0] == 0
    expected = Run.load(untrained).sample(
        3, condition={"alpha": 75.0}, guidance=2.0, seed=1, progress=False
    )
    with np.load(out) as file:
        np.testing.assert_allclose(file["pos_1e4A"] / 1e4, expected.structures.position, atol=6e-5)
    record = tmp_path / "job"
    assert say(untrained, "-n", "3", "-o", record, *asked)[0] == 0
    asked = json.loads((record / "job.json").read_text())["asked"]
    assert (asked["condition"], asked["guidance"]) == ({"alpha": 75.0}, 2.0)
    _, output, _ = say(untrained, "-n", "2", "--condition", "alpha=999")
    assert output.startswith("alpha = 999 is outside the training data (")
    _, output, _ = say(untrained, "-n", "2", "--sizes", "9", "2", "--sizes", "40")
    count = embedded().count
    ends = f"{count.min()} to {count.max()}"
    assert output.startswith(f"sizes [2, 40] are outside the training data ({ends} atoms)\n")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--condition", "gap=1"), "no condition 'gap', the run knows the conditions ['alpha']"),
        (("--condition", "alpha=much"), "condition 'alpha' must be 1 number(s)"),
        (("--condition", "alpha=nan"), "condition 'alpha' must be 1 number(s)"),
        (("--condition", "alpha"), "condition must be NAME=VALUE"),
        (("--guidance", "2"), "guidance = 2.0 needs a condition: give one of ['alpha']"),
        (("--condition", "alpha=75", "--guidance", "mu=2"), "guidance names ['mu'], but"),
        (("--condition", "alpha=75", "--guidance", "nan"), "must be a finite number"),
    ],
)
def test_a_condition_that_cannot_be_asked_is_one_line(say, untrained, words, why):
    status, output, errors = say(untrained, "-n", "2", *words)
    assert (status, output, len(errors)) == (2, "", 1)
    assert why in errors[0]


def test_of_several_given_molecules_the_first_is_given(say, tmp_path):
    two = embedded().select([5, 9])
    verdicts = Run.pretrained().judge(two).verdicts
    for name in ("core.xyz", "core.sdf"):
        write(tmp_path / name, two, verdicts)
    number, position = two.molecule(0)
    for core, out, precision in (("core.xyz", "out.xyz", 2e-6), ("core.sdf", "out.npz", 1.1e-4)):
        sizes = ("--sizes", len(number) + 3)
        words = ("-n", 2, "--given", tmp_path / core, "-o", tmp_path / out, *sizes, *QUICK)
        status, output, _ = say(PRETRAINED, *words)
        assert status == 0
        assert f"{core} has 2 molecules, the first one is given" in output
        for found in coordinates(tmp_path / out, len(number) + 3):
            np.testing.assert_allclose(found[: len(number)], position, atol=precision)


def coordinates(path, size):
    """Positions of all molecules of one size, at the precision of the file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return (file["pos_1e4A"] / 1e4).reshape(-1, size, 3)
    rows = [line.split()[1:] for line in path.read_text().splitlines() if line.count(" ") == 3]
    return np.array(rows, float).reshape(-1, size, 3)


def test_where_it_goes_is_checked_before_a_molecule_is_drawn(say, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "draw", lambda *_, **__: pytest.fail("a molecule was drawn"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    for out, why in (
        ("out.pdb", "suffix '.pdb' is not known"),
        ("no/out.sdf", "no such folder"),
        ("file", "cannot create the folder"),
        ("full", "is not empty and has no job.json"),
    ):
        status, _, errors = say(PRETRAINED, "-n", "2", "-o", tmp_path / out)
        assert (status, len(errors)) == (2, 1)
        assert why in errors[0]
    status, _, errors = say(PRETRAINED, "-n", "0", "-o", tmp_path / "new")
    assert "at least 1, got 0" in errors[0]
    assert not (tmp_path / "new").exists()
