"""Requests that cannot be met: each is one line, and nothing is written."""

import re

import numpy as np
import pytest

from structdiff.cli.main import main
from tests.bad.corpus import npz, refusal, sdf, xyz

KNOWN = r"the run knows the conditions \['alpha', 'kind'\]"
SAMPLES = [
    ("n 0", ["-n", "0"], "number of molecules must be at least 1, got 0"),
    ("n negative", ["-n", "-3"], "number of molecules must be at least 1, got -3"),
    ("n a word", ["-n", "many"], "invalid literal for int"),
    ("sizes 1", ["--sizes", "1"], r"each at least 2, got \[1\]"),
    ("sizes negative", ["--sizes", "5", "-3"], r"each at least 2, got \[5, -3\]"),
    ("sizes of 30 digits", ["--sizes", "9" * 30], "at most 100,000, got .9999"),
    ("sizes no number", ["--sizes", "big"], "--sizes.*'big'"),
    ("sizes below the given", ["--sizes", "3", "--given", "water.sdf"],
        "no size is left: the given part has 3 atoms"),
    ("given not there", ["--given", "nowhere.sdf"], "no such file: .*nowhere.sdf"),
    ("given of unknown element", ["--given", "bromine.xyz"],
        r"the model knows the elements .*the molecules have \['Br'\]"),
    ("given unreadable", ["--given", "broken.sdf"], "broken.sdf could be used"),
    ("given of another charge", ["--given", "ion.sdf"], r"O2-"),
    ("out of no format", ["-o", "out.pdb"], "suffix '.pdb' is not known; allowed are .sdf, .xyz"),
    ("out in no folder", ["-o", "no/out.sdf"], "no such folder: .*no; create it first"),
    ("out that exists", ["-o", "water.sdf"],
        "water.sdf exists; choose another name, or allow --ov"),
    ("out in a folder of something else", ["-o", "full"], "is not empty and has no job.json"),
    ("out below a file", ["-o", "water.sdf/deeper"], "water.sdf"),
    ("condition without =", ["--condition", "alpha"], "condition must be NAME=VALUE"),
    ("condition without a name", ["--condition", "=3"], "condition must be NAME=VALUE"),
    ("condition without a value", ["--condition", "alpha="],
        "condition 'alpha' must be NAME=VALUE, the value is empty"),
    ("condition twice", ["--condition", "alpha=3", "alpha=4"], "each name once"),
    ("condition unknown", ["--condition", "mu=3"], f"no condition 'mu', {KNOWN}"),
    ("condition no number", ["--condition", "alpha=high"], "'alpha' must be 1 number.*got 'high'"),
    ("condition two numbers", ["--condition", "alpha=3,4"], "'alpha' must be 1 number.*got '3,4'"),
    ("condition NaN", ["--condition", "alpha=nan"], "'alpha' must be 1 number.*got 'nan'"),
    ("word of an unknown class", ["--condition", "kind=prime"],
        r"'kind' has the classes \['even', 'odd'\], not \['prime'\]"),
    ("word that is empty", ["--condition", "kind="],
        "condition 'kind' must be NAME=VALUE, the value is empty"),
    ("guidance without conditions", ["--guidance", "2"],
        r"guidance = 2.0 needs a condition: give one of \['alpha', 'kind'\]"),
    ("guidance NaN", ["--condition", "alpha=80", "--guidance", "nan"],
        "guidance must be a finite number"),
    ("guidance infinite", ["--condition", "alpha=80", "--guidance", "inf"],
        "guidance must be a finite number"),
    ("guidance a word", ["--guidance", "much"], "guidance must be a number, got 'much'"),
    ("guidance of two numbers", ["--guidance", "2", "3"], "one number, or NAME=NUMBER"),
    ("guidance of what is not asked",
        ["--condition", "alpha=80", "--guidance", "alpha=2", "kind=2"],
        r"guidance names \['kind'\]"),
    ("guidance that leaves one out",
        ["--condition", "alpha=80", "kind=odd", "--guidance", "kind=2"],
        r"guidance has no scale for \['alpha'\]"),
    ("guidance mixed", ["--guidance", "2", "alpha=3"], "guidance must be NAME=VALUE"),
    ("only_valid 0", ["--only-valid", "0"], "only_valid must be at least 1, got 0"),
    ("seed negative", ["--seed", "-1"], "seed must be at least 0, got -1"),
    ("steps 0", ["--sampler.steps", "0"], "steps = 0: .*greater than or equal to 1"),
    ("steps of 30 digits", ["--sampler.steps", "9" * 30], "less than or equal to 1000000"),
    ("eta 2", ["--sampler.eta", "2"], "eta = 2.0: .*less than or equal to 1"),
    ("eta NaN", ["--sampler.eta", "nan"], "eta = nan: "),
    ("temperature negative", ["--sampler.temperature", "-1"], "temperature = -1.0: "),
    ("batch_size 0", ["--sampler.batch-size", "0"], "batch_size = 0: "),
    ("repaint 0", ["--sampler.repaint", "0"], "repaint = 0: "),
    ("randomness of none", ["--sampler.randomness", "dice"], "'dice' .*--sampler.randomness"),
    ("unknown option", ["--stpes", "3"], "--stpes"),
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a few files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "water.sdf").write_text(sdf())
    (tmp_path / "ion.sdf").write_text(sdf(end="M  CHG  1   1  -2\n"))
    (tmp_path / "broken.sdf").write_text("broken")
    (tmp_path / "bromine.xyz").write_text("2\n\nBr 0 0 0\nH 0 0 1.4\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    return tmp_path


@pytest.mark.parametrize(("name", "words", "why"), SAMPLES, ids=[name for name, *_ in SAMPLES])
def test_sample(name, words, why, here, run, capsys):
    words = words if "-n" in words else ["-n", "2", *words]
    line = refusal(capsys, here, "sample", run, *words)
    assert re.search(why, line), line


def test_a_condition_far_outside_the_data_is_drawn_and_told(here, run, capsys):
    main(["sample", str(run), "-n", "1", "--condition", "alpha=1e300", "-o", "far.npz"])
    assert "alpha = 1e300 is outside the training data" in capsys.readouterr().out
    assert np.load("far.npz")["pos_1e4A"].shape[1] == 3


def test_a_list_of_a_disk_that_may_not_be_written(here, run, capsys):
    line = refusal(capsys, here, "sample", run, "-n", 1, "-o", "/proc/out")
    assert "cannot create the folder /proc/out" in line


SCORES = [
    ("data not there", ["--data", "nowhere.sdf"], "no such file: .*nowhere.sdf"),
    ("no data", [], "--data"),
    ("unseen elements", ["--data", "bromine.xyz"],
        "no molecule can be scored, the first: training had no Br. The model knows .*'C'"),
    ("unseen charges", ["--data", "ion.sdf"], "training had no O2-"),
    ("broken data", ["--data", "broken.sdf"], "broken.sdf could be used"),
    ("a class that is unknown", ["--data", "prime.npz"], "condition 'kind' has no class 'prime'"),
    ("draws 1", ["--data", "water.sdf", "--draws", "1"],
        "draws must be at least 2, for the error"),
    ("steps 0", ["--data", "water.sdf", "--steps", "0"], "steps at least 1, got 4, 0"),
    ("seed negative", ["--data", "water.sdf", "--seed", "-1"], "seed must be at least 0, got -1"),
    ("out of no table", ["--data", "water.sdf", "-o", "out.sdf"], "scores are a .csv"),
    ("out in no folder", ["--data", "water.sdf", "-o", "no/out.csv"], "no such folder: no"),
    ("out that exists", ["--data", "water.sdf", "-o", "old.csv"],
        "old.csv exists; choose another"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "why"), SCORES, ids=[name for name, *_ in SCORES])
def test_score(name, words, why, here, run, capsys):
    (here / "old.csv").write_text("years of work")
    (here / "prime.npz").write_bytes(npz(kind=np.array(["prime", "prime"])))
    line = refusal(capsys, here, "score", run, *words)
    assert re.search(why, line), line


def test_score_tells_what_it_could_not_score(here, run, capsys):
    (here / "mixed.xyz").write_text(xyz() + "2\n\nBr 0 0 0\nH 0 0 1.4\n" + "x\n")
    main(["score", str(run), "--data", "mixed.xyz", "-o", "out.csv", "--draws", "2"])
    said = capsys.readouterr().out
    assert "1 of 2 molecules scored" in said
    assert "1 not: training had no Br" in said
    rows = (here / "out.csv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[2].endswith("training had no Br")
    assert rows[3].endswith("not read: expected a number of atoms")


EVALUATIONS = [
    ("n 0", ["-n", "0"], "number of molecules must be at least 1, got 0"),
    ("n negative", ["-n", "-1"], "number of molecules must be at least 1, got -1"),
    ("steps 0", ["--sampler.steps", "0"], "steps = 0: "),
    ("seed negative", ["-n", "2", "--seed", "-1"], "seed must be at least 0, got -1"),
]


@pytest.mark.parametrize(
    ("name", "words", "why"), EVALUATIONS, ids=[name for name, *_ in EVALUATIONS]
)
def test_evaluate(name, words, why, here, run, capsys):
    assert re.search(why, refusal(capsys, here, "evaluate", run, *words))


DOCTORS = [
    ("nothing", [], "path|PATH"),
    ("a folder of something else", ["full"], "has no file that ends in"),
    ("one molecule", ["water.sdf"], "has 1 molecule that can be used, training needs at least 2"),
    ("another domain", ["water.sdf", "--domain", "poems"],
        "no domain 'poems'; there are: audio, images, manifolds, molecules"),
    ("two paths", ["water.sdf", "ion.sdf"], "ion.sdf"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "why"), DOCTORS, ids=[name for name, *_ in DOCTORS])
def test_doctor(name, words, why, here, capsys):
    assert re.search(why, refusal(capsys, here, "doctor", *words))


def test_domains_takes_no_words(here, capsys):
    assert "more" in refusal(capsys, here, "domains", "more")
