"""The manifolds domain at the command line: files, shards, tables, pages, and what is refused."""

import csv
import json
import shutil

import numpy as np
import pytest

from structdiff.domains.manifolds import commands, output
from structdiff.domains.manifolds.generation import refuse, sample
from structdiff.domains.manifolds.recipe import ManifoldsConfig
from structdiff.domains.manifolds.reports.card import write_card
from tests.domains.manifolds.conftest import settings

ASKED = {
    "condition": {},
    "guidance": None,
    "sizes": (),
    "given": None,
    "only_valid": None,
    "settings": {},
    "seed": 0,
    "folder": False,
    "overwrite": False,
}


def draw(run, points, out, **changes):
    sample(run.folder.path, points, out, **{**ASKED, **changes})


def table_of(text):
    rows = list(csv.DictReader(text.splitlines()))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_points_are_printed_as_a_table(run, capsys):
    draw(run, 3, None)
    table = table_of(capsys.readouterr().out)
    assert [*table] == ["lat", "lon", "depth"]
    np.testing.assert_allclose(
        table["lat"], run.sample(3, progress=False).columns["lat"], rtol=1e-6
    )


def test_files_hold_the_same_points(run, tmp_path, capsys):
    draw(run, 5, tmp_path / "some.csv", seed=3)
    draw(run, 5, tmp_path / "some.npz", seed=3)
    assert "5 points written to" in capsys.readouterr().out
    table = table_of((tmp_path / "some.csv").read_text())
    with np.load(tmp_path / "some.npz") as arrays:
        for name, column in table.items():
            np.testing.assert_allclose(arrays[name], column, rtol=1e-6)


def test_a_folder_is_gone_on_with(run, tmp_path, capsys):
    small = {"settings": {"batch_size": 4}}
    draw(run, 10, tmp_path / "all", **small)
    shards = sorted(path.name for path in (tmp_path / "all").glob("*.csv"))
    assert shards == ["points-00000.csv", "points-00001.csv", "points-00002.csv"]
    before = {name: (tmp_path / "all" / name).read_bytes() for name in shards}
    (tmp_path / "all" / shards[1]).unlink()
    draw(run, 10, tmp_path / "all", **small)
    said = capsys.readouterr().out
    assert "goes on after 6 points drawn" in said
    assert "10 points written to" in said
    assert {name: (tmp_path / "all" / name).read_bytes() for name in shards} == before
    with pytest.raises(ValueError, match="asked otherwise: seed"):
        draw(run, 10, tmp_path / "all", **small, seed=1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"condition": {"a": "1"}}, "no conditions"),
        ({"guidance": 2.0}, "no conditions"),
        ({"sizes": (3,)}, "leave out --sizes"),
        ({"only_valid": 3}, "leave out --only-valid"),
        ({"settings": {"kind": "other"}}, "sampler.kind"),
        ({"given": "place=1"}, "given place must be 2 numbers"),
    ],
)
def test_what_has_no_meaning_is_refused(run, changes, match):
    with pytest.raises(ValueError, match=match):
        draw(run, 2, None, **changes)


def test_paths_are_looked_at_before_any_work(tmp_path):
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(ValueError, match="there.csv exists"):
        output.check_free(tmp_path / "there.csv", overwrite=False)
    output.check_free(tmp_path / "there.csv", overwrite=True)
    with pytest.raises(ValueError, match="the suffix '.xyz' is not known"):
        output.check_free(tmp_path / "a.xyz", overwrite=False)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        output.check_free(tmp_path / "none" / "a.csv", overwrite=False)
    refuse({}, None)


def test_scores_are_a_row_for_each_point(run, source, tmp_path, capsys):
    few = tmp_path / "few.csv"
    few.write_text("".join(source.read_text().splitlines(keepends=True)[:4]))
    out = tmp_path / "scores.csv"
    commands.score(run.folder.path, few, out, seed=0, overwrite=False)
    assert "3 points scored" in capsys.readouterr().out
    table = table_of(out.read_text())
    assert table["row"].tolist() == [2, 3, 4]  # lines of the file
    facts = json.loads(out.with_suffix(".json").read_text())
    assert np.isclose(facts["mean of -log density"], -table["log_density"].mean())
    assert facts["measure"] == (
        "place: the area of the unit sphere S^2; depth: Lebesgue, in the units of the data"
    )
    with pytest.raises(ValueError, match="exists"):
        commands.score(run.folder.path, few, out, seed=0, overwrite=False)
    with pytest.raises(ValueError, match="leave out --steps"):
        commands.score(run.folder.path, few, None, steps=3, seed=0, overwrite=False)


def test_an_evaluation_is_a_page_with_tables_and_pictures(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run.folder.path, copy)
    commands.evaluate(copy, 40, settings={}, seed=0)
    said = capsys.readouterr().out
    page = (copy / "samples" / "evaluation.html").read_text()
    numbers = json.loads((copy / "samples" / "evaluation.json").read_text())
    assert page.count("<img") == 3  # two leaves and the training
    held = next(table for name, table in numbers.items() if name.startswith("Held-out"))
    (shown,) = held["the run, 12 held-out points"]
    assert shown in said
    assert shown in page
    drawn = table_of((copy / "samples" / "points.csv").read_text())
    assert len(drawn["lat"]) == 40
    assert "MMD^2" in (copy / "README.md").read_text()


def test_a_card_says_what_the_run_is(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder.path, copy)
    write_card(type(run).load(copy))
    card = (copy / "README.md").read_text()
    assert f"structdiff sample {copy}" in card
    assert "places.csv" in card
    assert "Not measured yet" in card
    weights = sum(weight.numel() for weight in run.denoiser.parameters())
    assert f"{weights:,} parameters" in card


def test_training_writes_a_card_once(source, tmp_path, capsys):
    config = settings(source, training={"steps": 2, "validate_every": 1})
    commands.train(config, tmp_path / "run")
    assert f"structdiff sample {tmp_path / 'run'}" in capsys.readouterr().out
    (tmp_path / "run" / "README.md").write_text("mine")
    commands.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


def test_the_doctor_looks_at_a_file(source, capsys):
    commands.doctor(source)
    assert "lat,lon" in capsys.readouterr().out


def test_the_defaults_are_a_model_of_all_leaves():
    config = ManifoldsConfig()
    assert config.data.path is None
    assert config.noise.route == "auto"
