"""A run and its data: what was changed is refused, what is rare is trained on."""

import json

import numpy as np
import pytest

from structdiff.cli.main import main
from structdiff.domains.molecules import MoleculesConfig, Structures, embedded, judge, train, write
from structdiff.domains.molecules.loading import load_data

SMALL = {
    "network": {"layers": 1, "width": 8, "hidden": 16},
    "training": {"steps": 3, "warm_up": 1, "batch_size": 4},
}


def config(path, **data):
    return MoleculesConfig.model_validate({**SMALL, "data": {"path": str(path), **data}})


def save(path, structures):
    write(path, structures, judge(structures), overwrite=True)


@pytest.mark.parametrize("change", ["more molecules", "another unit"])
def test_a_run_is_not_gone_on_with_on_other_data(tmp_path, change):
    some = embedded().select(range(30))
    save(tmp_path / "data.npz", some)
    folder = tmp_path / "run"
    settings = config(tmp_path / "data.npz", conditions=("alpha",))
    train(settings, folder, say=lambda _: None)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    if change == "more molecules":
        save(tmp_path / "data.npz", embedded().select(range(35)))
    else:
        alpha = {"alpha": 100 * some.properties["alpha"]}
        save(tmp_path / "data.npz", some.with_properties(alpha))
    with pytest.raises(ValueError, match="data have changed since .* was begun .*digest"):
        train(settings, folder, say=lambda _: None)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    save(tmp_path / "data.npz", some)
    train(settings, folder, say=lambda _: None)  # restored, it goes on


def test_what_occurs_once_is_never_set_aside(tmp_path):
    """An element, a charge and a word of which there is one each: they are trained on."""
    qm9 = embedded().select(range(60))
    rare = Structures.from_list([([5, 9, 9, 9], np.eye(4, 3) * 1.3)])
    charged = Structures(np.eye(4, 3), np.array([7, 1, 1, 1]), np.array([4]), charge=np.eye(4)[0])
    both = Structures.concatenate([qm9.with_properties({}), rare, charged])
    words = np.array(["common"] * 61 + ["single"])
    save(tmp_path / "data.npz", both.with_properties({"kind": words}))
    for held in (0, 5, 12):
        data = load_data(config(tmp_path / "data.npz", validation=held, conditions=("kind",)))
        types = set(zip(data.train.number.tolist(), data.train.charge.tolist(), strict=True))
        assert {(5, 0), (7, 1)} <= types
        assert set(data.train.properties["kind"]) == {"common", "single"}
        assert len(data.train) + len(data.validation) == 62
    settings = config(tmp_path / "data.npz", conditions=("kind",))
    train(settings, tmp_path / "run", say=lambda _: None)
    assert json.loads((tmp_path / "run" / "data.json").read_text())["molecules"] >= 50


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path):
    save(tmp_path / "data.npz", embedded().select(range(30)))
    with pytest.raises(ValueError, match=r"the data has the properties"):
        train(config(tmp_path / "data.npz", conditions=("none",)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_moved_are_named(tmp_path, capsys):
    save(tmp_path / "data.npz", embedded().select(range(30)))
    settings = config(tmp_path / "data.npz")
    train(settings, tmp_path / "run", say=lambda _: None)
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    words = ["evaluate", str(tmp_path / "run"), "-n", "3", "--sampler.steps", "2"]
    with pytest.raises(SystemExit):
        main(words)
    assert "no such file" in capsys.readouterr().err
    main([*words, "--data", str(tmp_path / "moved.npz")])
    assert (tmp_path / "run" / "samples" / "evaluation.html").exists()
