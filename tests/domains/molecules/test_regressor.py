"""Regressors that are trained: what they learn and keep, and runs that follow them."""

import json
import math

import numpy as np
import pytest

from structdiff.domains.molecules import (
    MoleculesConfig,
    Run,
    Structures,
    commands,
    embedded,
    train,
    write,
)
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.generation import sample
from structdiff.domains.molecules.order import Order
from structdiff.domains.molecules.regressor import Regressor, RegressorConfig, train_regressor
from structdiff.domains.molecules.request import request
from tests.domains.molecules.small_regressors import SMALL, TRAINING


def carbons(structures):
    """Carbons of each molecule."""
    return np.bincount(structures.owner[structures.number == 6], minlength=len(structures)) * 1.0


def radius(structures):
    """Mean square distance of the atoms of each molecule from their centre."""
    parts = [position - position.mean(0) for _, position in structures]
    return np.array([np.square(part).sum(1).mean() for part in parts])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clouds of carbon and nitrogen that know their carbons and radius, and their file."""
    random = np.random.default_rng(0)
    clouds = []
    for n in random.integers(4, 9, 400):
        number = np.where(random.random(n) < random.random(), 6, 7)
        clouds.append((number, random.normal(size=(n, 3)) * random.uniform(0.8, 2.4)))
    some = Structures.from_list(clouds)
    some = some.with_properties({"carbons": carbons(some), "radius": radius(some)})
    path = tmp_path_factory.mktemp("data") / "data.npz"
    write(path, some, judge(some))
    return some, path


@pytest.fixture(scope="module")
def regressor(data, tmp_path_factory):
    """A small regressor of both."""
    source = {"path": str(data[1]), "conditions": ("carbons", "radius"), "validation": 80}
    settings = {"data": source, "network": SMALL, "training": TRAINING}
    config = RegressorConfig.model_validate(settings)
    return train_regressor(config, tmp_path_factory.mktemp("runs") / "told", say=lambda _: None)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A small run that knows no condition."""
    settings = {
        "data": {"path": str(data[1]), "validation": 0},
        "network": SMALL,
        "training": {**TRAINING, "steps": 30},
        "sampler": {"steps": 20, "batch_size": 30},
    }
    config = MoleculesConfig.model_validate(settings)
    return train(config, tmp_path_factory.mktemp("runs") / "free", say=lambda _: None)


def test_a_regressor_learns_the_property_and_how_sure_it_is(regressor, data):
    blind = 0.5 * math.log(2 * math.pi) + 0.5  # nats of a standard normal
    lines, truth = regressor.folder.read_metrics(), data[0].properties["carbons"]
    losses = [line["carbons"] for line in lines if "carbons" in line]
    assert losses[-1] < blind - 0.3
    mean, spread = regressor.predict(data[0])["carbons"]
    gap = np.abs(mean - truth)
    assert gap.mean() < 0.4 * np.abs(truth - truth.mean()).mean()
    assert 0.7 < np.mean(gap < 2 * spread) <= 1
    _, unsure = regressor.predict(data[0], t=1.0)["carbons"]
    assert unsure.mean() > 1.5 * spread.mean()
    logged = [line["error_carbons"] for line in lines if "error_carbons" in line]
    assert logged[-1] == pytest.approx(gap.mean(), rel=0.5)


def test_a_regressor_is_kept_in_a_folder_and_goes_on(regressor, data):
    path = regressor.folder.path
    assert not list(path.glob("*.pt")) and not list(path.glob("*.pkl"))
    some = data[0]
    again = Regressor.load(path)
    np.testing.assert_array_equal(
        again.predict(some)["carbons"][0], regressor.predict(some)["carbons"][0]
    )
    assert again.checksum() == regressor.checksum()
    lines = regressor.folder.metrics.read_text()
    finished = train_regressor(regressor.config, path, say=lambda _: None)  # nothing is done
    assert regressor.folder.metrics.read_text() == lines
    np.testing.assert_array_equal(
        finished.predict(some)["carbons"][0], regressor.predict(some)["carbons"][0]
    )
    with pytest.raises(ValueError, match="'molecules-regressor', not 'molecules'"):
        Run.load(path)


def asked(run, regressor=None, **named):
    return run.sample(30, seed=3, progress=False, regressor=regressor, **named).structures


def test_scale_zero_changes_nothing_bit_for_bit(run, regressor):
    free = asked(run, sizes=[9])
    none = asked(run, regressor, sizes=[9], condition={"carbons": 7.0}, guidance=0.0)
    assert np.array_equal(free.position, none.position)
    assert np.array_equal(free.number, none.number)
    some = asked(run, regressor, sizes=[9], condition={"carbons": 7.0}, guidance=2.0)
    assert np.abs(free.position - some.position).max() > 1e-2


def test_guided_molecules_have_what_is_asked(run, regressor):
    """Counted in the molecules themselves, on either side of those that are not guided."""
    free = carbons(asked(run, sizes=[7])).mean()
    few, many = (
        carbons(asked(run, regressor, sizes=[7], condition={"carbons": end}, guidance=2.0)).mean()
        for end in (0.0, 7.0)
    )
    assert few < free < many
    assert few < 1.5 and many > 5.5


def test_a_scale_for_each_property(run, regressor):
    condition = {"carbons": 7.0, "radius": 4.0}
    both = asked(
        run, regressor, sizes=[7], condition=condition, guidance={"carbons": 2.0, "radius": 0.0}
    )
    alone = asked(run, regressor, sizes=[7], condition={"carbons": 7.0}, guidance=2.0)
    assert np.array_equal(both.position, alone.position)
    other = asked(run, regressor, sizes=[7], condition=condition, guidance=2.0)
    assert not np.array_equal(other.position, alone.position)


def test_sizes_follow_what_is_asked_of_the_regressor(run, regressor):
    """By Bayes' rule with the regressor's counts, for a run that never heard of the property."""
    law, codec = run.codec.sizes, regressor.codec
    for value in (0.0, 4.0, 7.0):
        made = run.request(4000, condition={"carbons": value}, regressor=regressor)
        assert not made.condition
        edges, table = codec.sizes.tables["carbons"]
        counts = np.asarray(table, np.float64)
        standard = (value - codec.conditions[0].mean[0]) / codec.conditions[0].std[0]
        place = np.searchsorted(edges, standard, "right")
        share = counts[:, place].sum() / counts.sum()
        likely = (counts[:, place] + share) / (counts.sum(1) + 1)
        weights = np.asarray(law.histogram) * likely
        expected = np.arange(9) @ weights / weights.sum()
        assert np.mean(made.counts) == pytest.approx(expected, abs=4 * 1.5 / math.sqrt(4000))


def test_a_value_for_each_molecule_goes_to_that_molecule(run, regressor):
    """Keyed noise: molecule i is that of a draw in which its value is asked of all."""
    values = np.linspace(0.0, 7.0, 30)
    named = {"sizes": [7], "randomness": "sample", "guidance": 3.0, "steps": 5}
    each = asked(run, regressor, condition={"carbons": values}, **named, batch_size=11)
    for i in (0, 13, 29):
        same = asked(run, regressor, condition={"carbons": values[i]}, **named)
        assert np.abs(each.molecule(i)[1] - same.molecule(i)[1]).max() < 1e-3


def test_a_given_part_is_held_beside_a_regressor(run, regressor):
    core = Structures.from_list([([6, 7], [[5.0, 5, 5], [6.3, 5, 5]])])
    for repaint in (1, 2):
        found = asked(
            run,
            regressor,
            sizes=[8],
            condition={"carbons": 3.0},
            guidance=2.0,
            given=core,
            repaint=repaint,
        )
        for number, position in found:
            assert number[:2].tolist() == [6, 7]
            assert np.abs(position[:2] - core.position).max() < 1e-5


def test_the_command_line_draws_by_a_regressor(run, regressor, tmp_path, capsys):
    named = {
        "folder": False,
        "condition": {"carbons": "95"},
        "guidance": 2.0,
        "sizes": (9,),
        "given": None,
        "only_valid": None,
        "settings": {"steps": 3},
        "seed": 0,
        "overwrite": False,
    }
    path = regressor.folder.path
    sample(run.folder.path, 4, tmp_path / "out.xyz", **named, regressor=path)
    assert "carbons = 95 is outside the training data" in capsys.readouterr().out
    assert (tmp_path / "out.xyz").exists()
    with pytest.raises(ValueError, match="no condition 'carbons'"):
        sample(run.folder.path, 4, tmp_path / "other.xyz", **named)
    known = {
        "sizes": [9],
        "condition": {"carbons": 7.0},
        "guidance": 2.0,
        "given": None,
        "seed": 0,
    }
    order = Order(run, 4, False, {**known, "regressor": regressor}).describe()
    assert json.loads(json.dumps(order))["regressor"] == regressor.checksum()
    plain = Order(run, 4, False, {**known, "condition": {}, "guidance": None, "regressor": None})
    assert "regressor" not in plain.describe()


def test_the_command_trains_and_says_how_to_draw(regressor, tmp_path, capsys):
    training = regressor.config.training.model_copy(update={"steps": 1})
    config = regressor.config.model_copy(update={"training": training})
    commands.regressor(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert f"--regressor {tmp_path / 'run'} --condition carbons=VALUE radius=VALUE" in said
    assert Regressor.load(tmp_path / "run").columns.keys() == {"carbons", "radius"}


def test_what_cannot_guide_is_refused(run, regressor, tmp_path):
    with pytest.raises(
        ValueError, match=r"the regressor knows \['carbons', 'radius'\], but .*\[\]"
    ):
        asked(run, regressor)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        asked(run, regressor, condition={"carbons": 7.0}, guidance=math.inf)
    noise = run.config.noise.model_copy(update={"sigma_max": 9.0})
    louder = Run(
        run.folder, run.config.model_copy(update={"noise": noise}), run.codec, run.denoiser
    )
    with pytest.raises(ValueError, match="other noise than the run .*sigma_max: 8.0 -> 9.0"):
        louder.request(2, condition={"carbons": 7.0}, regressor=regressor)
    heavy = MoleculeCodec.fit(embedded().without_hydrogens())
    with pytest.raises(ValueError, match="the regressor knows the elements .*the same elements"):
        regressor.check(run.config, heavy)
    data = regressor.config.data.model_copy(update={"bonds": "kekulized"})
    config = regressor.config.model_copy(update={"data": data})
    bonded = Regressor(regressor.folder, config, regressor.codec, regressor.network)
    with pytest.raises(
        ValueError, match=r"looks at bonds \(kekulized\), of which the run has none"
    ):
        bonded.check(run.config, run.codec)
    with pytest.raises(ValueError, match="conditions must name the properties"):
        RegressorConfig()


def test_a_property_of_words_has_no_regressor(tmp_path):
    data = embedded().select(range(40))
    words = np.where(data.count > 17, "large", "small")
    labelled = data.with_properties({"kind": words})
    write(tmp_path / "data.sdf", labelled, judge(labelled))
    source = {"path": str(tmp_path / "data.sdf"), "conditions": ("kind",), "validation": 0}
    config = RegressorConfig.model_validate({"data": source, "network": SMALL})
    with pytest.raises(ValueError, match="knows numbers, but 'kind' has classes: train the gen"):
        train_regressor(config, tmp_path / "run", say=lambda _: None)
    with pytest.raises(ValueError, match="no condition 'nothing'"):
        request(MoleculeCodec.fit(data), 2, condition={"nothing": 1.0})


def test_a_property_that_no_molecule_has_is_not_missed(regressor, data):
    """Neither a warning nor a NaN in the metrics."""
    some = data[0].select(range(5))
    carbons = some.properties["carbons"]
    bare = some.with_properties({"carbons": carbons, "radius": np.full(5, np.nan)})
    assert list(regressor.errors(bare)) == ["error_carbons"]
