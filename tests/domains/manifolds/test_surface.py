"""What a user meets at the command line: files that go round, and refusals that say what to do."""

import csv
import json
import shutil

import numpy as np
import pytest

from structdiff.cli.main import main

SMALL = [
    *("--training.steps", "2", "--training.batch-size", "8", "--network.width", "8"),
    *("--network.waves", "4", "--network.blocks", "1", "--training.validate-every", "1"),
    *("--sampler.steps", "2", "--data.validation", "0.05"),
]


@pytest.fixture
def say(capsys):
    def run(*words):
        capsys.readouterr()
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def refusal(answer):
    """The one line of an answer that is a refusal."""
    code, out, err = answer
    assert code == 2
    lines = [line.rpartition("\r")[2] for line in err.splitlines() if "structdiff: " in line]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the second and third column of a table without a header."""
    folder = tmp_path_factory.mktemp("headless")
    random = np.random.default_rng(0)
    rows = np.stack([np.arange(40), random.uniform(-80, 80, 40), random.uniform(-170, 170, 40)], 1)
    np.savetxt(folder / "places.csv", rows, delimiter=",", fmt="%.4f")
    schema = ["--data", str(folder / "places.csv"), "--data.columns", "2,3:sphere"]
    main(["train", "manifolds", *schema, "--out", str(folder / "run"), *SMALL])
    return folder / "run"


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_inspect_says_after_which_update_the_kept_weights_are(say, trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    bounds = {line["step"]: line["bound"] for line in lines if "bound" in line}
    assert sorted(bounds) == [1, 2]
    code, out, _ = say("inspect", trained)
    assert code == 0
    assert f"averaged, after update {min(bounds, key=bounds.get)}\n" in out
    card = (trained / "README.md").read_text()
    assert f"kept weights: after update {min(bounds, key=bounds.get)}," in card


def test_points_of_a_table_without_a_header_are_read_back_all_and_no_more(say, trained, tmp_path):
    path, scores = tmp_path / "drawn.csv", tmp_path / "scores.csv"
    assert say("sample", trained, "-n", 3, "-o", path)[0] == 0
    head, *rows = path.read_text().splitlines()
    assert head == "column_2,column_3"
    assert len(rows) == 3
    assert say("score", trained, "--data", path, "-o", scores)[0] == 0
    assert [row["row"] for row in csv.DictReader(scores.read_text().splitlines())] == [
        "2",
        "3",
        "4",
    ]


def test_columns_of_other_names_are_scored_alike(say, trained, tmp_path):
    text = "40,-3\n-20,100\n"
    (tmp_path / "plain.csv").write_text("column_2,column_3\n" + text)
    (tmp_path / "named.csv").write_text("lat,lon\n" + text)
    said = refusal(say("score", trained, "--data", tmp_path / "named.csv"))
    assert "no column 'column_2', it has: lat, lon" in said
    assert "--columns sphere=COLUMNS:sphere" in said
    asked = ["--columns", "sphere=lat,lon:sphere"]
    _, one, _ = say("score", trained, "--data", tmp_path / "plain.csv")
    code, two, _ = say("score", trained, "--data", tmp_path / "named.csv", *asked)
    assert code == 0
    assert "2 points scored" in one
    assert one == two


def test_rows_that_are_not_scored_are_told(say, trained, tmp_path):
    rows = [f"{i / 2},{i}" for i in range(120)]
    (tmp_path / "some.csv").write_text("\n".join(["column_2,column_3", *rows, "95,0"]) + "\n")
    code, out, _ = say("score", trained, "--data", tmp_path / "some.csv", "--draws", 1)
    assert code == 0
    assert "1 of 121 rows left out: 1 x a latitude beyond the poles" in out
    assert "120 points scored" in out


def test_no_draws_are_refused_by_their_name(say, trained):
    said = refusal(say("score", trained, "--data", "cities", "--draws", 0))
    assert "draws must be at least 1, got 0: leave it out for the exact divergence" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "likelihood.json is damaged: Expecting"),
        ("{}", "noise must be from noise.sigma_min = 0.001 to 1, got None. Restore it"),
        ('{"noise": -1}', "got -1. Restore it from a copy, or remove it"),
        ("[]", "got None"),
    ],
)
def test_a_damaged_noise_is_told_once(say, copied, content, why):
    (copied / "likelihood.json").write_text(content)
    said = refusal(say("sample", copied, "-n", 1))
    assert why in said
    assert said.count("is damaged") == 1


def test_doctor_takes_columns_and_says_what_else_there_is(say, tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("a,b\n" + "".join(f"{i % 80},{7 * i % 170}\n" for i in range(300)))
    code, out, _ = say("doctor", path, "--columns", "a,b:sphere")
    assert code == 0
    assert "sphere: a, b as sphere, degrees, a point of sphere:2" in out
    said = refusal(say("doctor", path))
    assert "(looked at as molecules; if they are no such data, say --domain " in said
    assert "--domain manifolds or " in said
    said = refusal(say("doctor", path, "--domain", "text", "--columns", "a:torus"))
    assert "--columns a:torus is of manifolds alone: leave it out" in said


def test_settings_that_do_not_go_together_are_told_plainly(say, tmp_path):
    shares = ["--data.validation", "0.6", "--data.test", "0.5"]
    said = refusal(say("train", "manifolds", "--out", tmp_path / "run", *shares))
    assert "config.data: data.validation + data.test = 1.1 leaves nothing to train on" in said
    assert "{" not in said
    assert not (tmp_path / "run").exists()
