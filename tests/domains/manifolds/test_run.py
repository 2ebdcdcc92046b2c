"""A run of points: training, keeping, loading, drawing."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from structdiff.artifacts import load_tensors
from structdiff.domains.manifolds import Run, read, train
from tests.domains.manifolds.conftest import settings


def test_a_run_keeps_the_weights_that_validation_points_are_likeliest_under(run):
    lines = [line for line in run.folder.read_metrics() if "bound" in line]
    assert [line["step"] for line in lines] == [15, 30]
    kept, facts = load_tensors(run.folder.path / "best.safetensors")
    assert math.isclose(float(facts["bound"]), min(line["bound"] for line in lines))
    used, _ = load_tensors(run.folder.ema)
    assert all(bool((used[name] == kept[name]).all()) for name in used)


def test_training_makes_points_likelier_than_uniform_ones(run, source):
    data = read(source, codec=run.codec)
    value, error = run.score(data.test, tolerance=1e-2, progress=False).nll()
    blank = math.log(4 * math.pi) + 0.5 * math.log(2 * math.pi * math.e)
    scale = sum(run.codec.log_scale.values())
    assert value + scale < blank - 3 * error


def test_a_run_that_is_loaded_scores_alike(run, source):
    data = read(source, codec=run.codec)
    again = Run.load(run.folder.path)
    assert (
        again.noise
        == run.noise
        == json.loads((run.folder.path / "likelihood.json").read_text())["noise"]
    )
    few = data.test.subset(np.arange(3))
    np.testing.assert_array_equal(
        again.score(few, tolerance=0.1, progress=False).total,
        run.score(few, tolerance=0.1, progress=False).total,
    )


def test_training_again_changes_nothing(run, source):
    before, facts = load_tensors(run.folder.ema)
    train(settings(source), run.folder.path, say=lambda _: None)
    after, again = load_tensors(run.folder.ema)
    assert facts["step"] == again["step"]
    assert all(bool((after[name] == before[name]).all()) for name in before)


def test_more_numbers_are_kept_with_each_validation(tmp_path, source):
    config = settings(source, training={"steps": 4, "validate_every": 2})
    made = train(config, tmp_path / "run", say=lambda _: None, also=lambda _: {"more": 2.0})
    assert [line["more"] for line in made.folder.read_metrics() if "bound" in line] == [2.0, 2.0]


@pytest.mark.parametrize("route", ["diffusion", "flow"])
def test_drawn_points_are_on_their_spaces_in_the_units_of_the_data(run, source, tmp_path, route):
    made = run
    if route == "flow":
        config = settings(source, noise={"route": "flow"}, training={"steps": 2})
        made = train(config, tmp_path / "run", say=lambda _: None)
    drawn = made.points(20, progress=False)
    assert made.codec.spaces["place"].belongs(drawn["place"], 1e-5).reason is None
    table = made.sample(20, progress=False)
    assert [*table.columns] == ["lat", "lon", "depth"]
    np.testing.assert_allclose(
        np.sin(np.radians(table.columns["lat"])), drawn["place"][:, 2].numpy(), atol=1e-6
    )


def test_draws_follow_from_the_seed_and_by_sample_not_from_the_batches(run):
    one, same, other = (run.points(6, seed=s, progress=False)["place"] for s in (1, 1, 2))
    assert bool((one == same).all())
    assert bool((one != other).any())
    whole, cut = (
        run.points(6, seed=1, progress=False, randomness="sample", batch_size=size)["place"]
        for size in (6, 4)
    )
    torch.testing.assert_close(whole, cut, rtol=0, atol=1e-6)


def test_a_given_leaf_stays_and_the_other_follows_it(run):
    table = run.sample(8, given="place=40,10", progress=False)
    np.testing.assert_allclose(table.columns["lat"], 40, atol=1e-4)
    np.testing.assert_allclose(table.columns["lon"], 10, atol=1e-4)
    assert len(set(table.columns["depth"].tolist())) == 8


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("town=1,2", "the leaves are place, depth"),
        ("place", "LEAF=NUMBERS"),
        ("depth=1;depth=2", "each leaf once"),
        ("place=1", "given place must be 2 numbers"),
        ("place=95,0", "a latitude beyond the poles"),
        ("place=1,2;depth=3", "given names all leaves"),
    ],
)
def test_given_leaves_that_do_not_fit_are_refused(run, given, match):
    with pytest.raises(ValueError, match=match):
        run.request(1, given=given)


def test_given_leaves_need_times_of_their_own(tmp_path, source):
    config = settings(source, loss={"independent": False}, training={"steps": 1})
    made = train(config, tmp_path / "run", say=lambda _: None)
    with pytest.raises(ValueError, match="train with --loss.independent"):
        made.request(1, given="depth=1")


def test_numbers_out_of_range_are_refused(run):
    with pytest.raises(ValueError, match="the number of points must be at least 1, got 0"):
        run.request(0)
    with pytest.raises(ValueError, match="sampler.steps = 0"):
        run.drawing(steps=0)
    with pytest.raises(ValueError, match="sampler.colour"):
        run.drawing(colour="red")


def test_what_is_damaged_is_named(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run.folder.path, copy)
    (copy / "likelihood.json").write_text("{}")
    with pytest.raises(ValueError, match="likelihood.json is damaged"):
        _ = Run.load(copy).noise
    (copy / "ema.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="the training has not ended"):
        Run.load(copy)
