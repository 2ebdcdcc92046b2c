"""Walks of few calls, chosen for a run and kept with it."""

import shutil

import pytest
import torch

from structdiff.acceleration import Tuned
from structdiff.cli.main import main
from structdiff.domains.manifolds import Run


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """A copy of the run with two walks, and what was said."""
    folder = shutil.copytree(run.folder.path, tmp_path_factory.mktemp("tuned") / "run")
    words = []
    for calls in (3, 5):
        Run.load(folder).tune(calls, pilots=48, say=words.append)
    return Run.load(folder), words


def test_a_tuned_walk_is_nearer_to_the_solution_than_usual_steps(tuned):
    model, words = tuned
    assert sorted(path.name for path in (model.folder.path / "tuned").iterdir()) == [
        "3.json",
        "5.json",
    ]
    space = model.codec.spaces["place"]

    def drawn(**settings):
        return model.points(60, seed=4, progress=False, **settings)

    exact = drawn(kind="adaptive", tolerance=1e-6)
    near, far = (
        float(
            space.distance(exact["place"], found["place"]).mean()
            + (exact["depth"] - found["depth"]).abs().mean()
        )
        for found in (drawn(kind="tuned", steps=5), drawn(kind="ddim", steps=5))
    )
    assert near < far
    assert "tuned" in words[0]
    assert words[1].endswith("--sampler.kind tuned --sampler.steps 3")


def test_what_is_kept_is_what_draws(tuned):
    model, _ = tuned
    first, again = (
        model.points(20, kind="tuned", steps=3, seed=1, progress=False) for _ in range(2)
    )
    assert torch.equal(first["place"], again["place"])
    other = model.points(20, kind="tuned", steps=5, seed=1, progress=False)
    assert not torch.equal(first["place"], other["place"])


def test_a_number_that_was_not_tuned_and_a_damaged_file_are_refused(tuned):
    model, _ = tuned
    with pytest.raises(ValueError, match=r"not tuned for 7 calls, it is for \[3, 5\] calls"):
        model.sample(2, kind="tuned", steps=7, progress=False)
    path = model.folder.path / "tuned" / "9.json"
    path.write_text('{"what": 1}')
    with pytest.raises(ValueError, match="is damaged: remove it and tune again"):
        model.sample(2, kind="tuned", steps=9, progress=False)
    path.unlink()


def test_the_command_prints_errors_against_calls_and_samples_with_them(run, tmp_path, capsys):
    folder = shutil.copytree(run.folder.path, tmp_path / "run")
    main(["tune", str(folder), "--calls", "3", "4", "--pilots", "32"])
    said = capsys.readouterr().out
    for calls in (3, 4):
        assert f"{calls} calls" in said
        assert f"--sampler.steps {calls}" in said
        assert isinstance(Tuned.load(folder / "tuned" / f"{calls}.json"), Tuned)
    out = tmp_path / "drawn.csv"
    words = ["--sampler.kind", "tuned", "--sampler.steps", "4"]
    main(["sample", str(folder), "-n", "3", "-o", str(out), *words])
    assert len(out.read_text().splitlines()) == 4
