"""Regressors of noisy molecules, and molecules that follow their gradient."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from structdiff.artifacts import Part
from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.domains.molecules import (
    MoleculesConfig,
    Run,
    Structures,
    commands,
    embedded,
    train,
    write,
)
from structdiff.domains.molecules.assignment import assigned
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.generation import sample
from structdiff.domains.molecules.order import Order
from structdiff.domains.molecules.recipe import build
from structdiff.domains.molecules.regression import (
    Aim,
    NoisyRegressor,
    Regression,
    log_density,
    vectors,
)
from structdiff.domains.molecules.regressor import Regressor, RegressorConfig, train_regressor
from structdiff.domains.molecules.request import Request, request
from structdiff.domains.molecules.sampling import draw
from structdiff.guidance import Linearised
from structdiff.layout import Layout
from structdiff.processes import Estimate
from structdiff.random import Generator

SMALL = {"layers": 2, "width": 16, "hidden": 16, "basis": 8}
TRAINING = {
    "steps": 100,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "warm_up": 5,
    "ema": 0.9,
    "log_every": 50,
    "bf16": False,
}
STD, CARBON = 1.5, 0.3


class Apart(Denoiser):
    """The exact denoiser of atoms that know nothing of each other: normal, carbon or nitrogen."""

    def __init__(self, process):
        super().__init__()
        self.process, self.weight = process, nn.Parameter(torch.zeros(()))

    def forward(self, batch, t, previous=None):
        process = self.process.bind(batch)
        shrink = 1 / (
            1 + (process["position"].level(t["position"], batch["position"]).sigma / STD) ** 2
        )
        log_p = torch.tensor([CARBON, 1 - CARBON]).log().expand(len(batch["element"]), 2)
        element = process["element"].decode(log_p, batch["element"], t["element"])
        return {"position": Estimate(shrink * batch["position"]), "element": element}


@pytest.fixture(scope="module")
def world():
    """A process of molecules of carbon and nitrogen, the codec and the settings."""
    data = Structures.from_list([([6, 7], [[-STD, 0, 0], [STD, 0, 0]])] * 2)
    codec = MoleculeCodec.fit(data)
    sampler = {"steps": 60, "temperature": 1.0, "sigma_last": 0.01, "batch_size": 400}
    config = MoleculesConfig.model_validate({"sampler": sampler, "network": SMALL})
    return codec, config, Apart(build(config, codec).process)


def along(layout, dtype=torch.float32):
    """A direction of each molecule of six atoms, without its mean, `(rows,)`."""
    weight = torch.tensor([2.0, -1.0, 0.5, -1.5, 1.0, -1.0], dtype=dtype)
    return weight[layout.row]


class Slant(nn.Module):
    """p(y | x_t) of y = sum_i c_i (first coordinate of atom i), exactly."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, batch, t):
        x, layout = batch["position"], batch.layouts["position"]
        c = along(layout, x.dtype)
        sigma = self.process["position"].level(t["position"], x).sigma
        shrink = 1 / (1 + (sigma / STD) ** 2)
        mean = layout.sum(c * (shrink * x)[:, 0])
        variance = (shrink * sigma.square()).expand(len(c), 1)[:, 0]
        return mean[:, None], layout.sum(c.square() * variance).log()[:, None]


class Carbons(nn.Module):
    """The number of carbons given noisy elements, as a normal with the exact mean and variance."""

    def forward(self, batch, t):
        layout = batch.layouts["element"]
        mean = layout.sum(batch["element"] @ torch.tensor([1.0, 0.0, CARBON]))
        masked = layout.sum(batch["element"][:, 2])
        return mean[:, None], (CARBON * (1 - CARBON) * masked + 0.02).log()[:, None]


def drawn(world, network, value, *, molecules=400, atoms=6, scale=1.0):
    codec, config, denoiser = world
    values = {"y": torch.full((molecules, 1), value)}
    aim = Aim(network, {"y": slice(0, 1)}, values, {"y": scale}) if scale else None
    asked = Request((atoms,) * molecules, {}, {}, 1.0, None, 3, aim)
    return draw(denoiser, codec, config, asked, Part(0, molecules, (0,)))


def slants(found):
    """y of each molecule, the squared length of its positions, and that of the direction."""
    position = torch.tensor(found.position.reshape(-1, 6, 3))
    c = along(Layout.ragged([6]))
    return (c * position[..., 0]).sum(1), position.square().sum((1, 2)), float(c.square().sum())


def test_positions_follow_an_exact_regressor_to_the_value_asked(world):
    """At scale 1 the conditional law: y as asked, and all other directions as they were."""
    slant = Slant(world[2].process)
    free, square, norm = slants(drawn(world, slant, 5.0, scale=0.0))
    assert abs(float(free.mean())) < 4 * STD * math.sqrt(norm / 400)
    rest = float((square - free.square() / norm).mean())
    assert rest == pytest.approx(14 * STD**2, rel=0.15)  # 3 (6 - 1) directions, and one of them
    for value in (-4.0, 5.0):
        y, square, _ = slants(drawn(world, slant, value))
        assert (y - value).abs().max() < 0.02
        assert float((square - value**2 / norm).mean()) == pytest.approx(rest, rel=0.05)


@pytest.mark.parametrize("asked", [1.0, 5.0])
def test_elements_follow_the_number_of_carbons_asked(world, asked):
    found = drawn(world, Carbons(), asked)
    count = (found.number.reshape(-1, 6) == 6).sum(1)
    free = (drawn(world, Carbons(), asked, scale=0.0).number.reshape(-1, 6) == 6).sum(1)
    assert free.mean() == pytest.approx(6 * CARBON, abs=4 * math.sqrt(6 * 0.21 / 400))
    assert abs(count.mean() - asked) < 0.4
    assert abs(count.mean() - asked) < 0.5 * abs(free.mean() - asked)


def test_the_density_is_the_normal_one():
    mean, log_variance, value = torch.randn(3, 5, 2, dtype=torch.float64)
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    torch.testing.assert_close(log_density(mean, log_variance, value), normal.log_prob(value))


def test_an_aim_is_the_weighted_sum_over_what_is_asked_of_each_molecule(world):
    codec, config, _ = world
    process = build(config, codec).process
    network = NoisyRegressor(process, 3, codec.position_std, **SMALL)
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.tensor([1.0, -1.0, 0.5, 0.2, 0.4, -0.3]))
    batch = codec.encode(Structures.from_list([([6, 7], np.eye(3)[:2])] * 4)).select([3, 0])
    batch = Batch(batch.leaves, batch.layouts, ids=torch.tensor([3, 0]))
    bound = process.bind(batch)
    t = bound.times(torch.tensor(0.4))
    values = {"a": torch.arange(4.0)[:, None], "b": torch.arange(8.0).reshape(4, 2)}
    columns = {"a": slice(0, 1), "b": slice(1, 3)}
    aim = Aim(network, columns, values, {"a": 2.0, "b": -0.5})
    mean, spread = network(vectors(batch, bound), t)
    a = log_density(mean[:, :1], spread[:, :1], torch.tensor([[3.0], [0.0]])).sum(1)
    b = log_density(mean[:, 1:], spread[:, 1:], torch.tensor([[6.0, 7.0], [0.0, 1.0]])).sum(1)
    torch.testing.assert_close(aim(vectors(batch, bound), t), 2 * a - 0.5 * b)


@pytest.mark.parametrize("bonds", ["none", "kekulized"])
def test_the_slopes_are_those_of_finite_differences(bonds):
    """Positions and one-hot vectors of elements, in float64, for a network that is not trained."""
    some = assigned(embedded().select(range(6)))[0].select([1, 3])
    codec = MoleculeCodec.fit(some, bonds=bonds)
    data = {"bonds": bonds}
    process = build(
        MoleculesConfig.model_validate({"data": data, "network": SMALL}), codec
    ).process
    torch.manual_seed(0)
    network = NoisyRegressor(process, 1, codec.position_std, **SMALL).double()
    nn.init.normal_(network.head[-1].weight)
    clean = codec.encode(some)
    clean = clean.with_leaves({**clean.leaves, "position": clean["position"].double()})
    bound = process.bind(clean)
    t = bound.times(torch.tensor(0.55, dtype=torch.float64))
    noisy = clean.with_leaves(bound.diffuse(clean.leaves, t, Generator(0)))
    aim = Aim(network, {"y": slice(0, 1)}, {"y": torch.tensor([[0.5], [-1.0]])}, {"y": 1.0})
    opened = vectors(noisy, bound)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            slopes = Linearised().around(aim, bound, noisy, t)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, vector in opened.leaves.items():
        change = torch.randn_like(vector)
        if name != "position":  # differences to the symbol that is there: the sum of a change is 0
            change = change - change.sum(-1, keepdim=True) * vector
            assert slopes[name].gather(-1, noisy[name].unsqueeze(-1)).abs().max() == 0
        ends = [
            aim(opened.with_leaves({**opened.leaves, name: vector + k * change}), t).sum().detach()
            for k in (1e-5, -1e-5)
        ]
        slope = float(ends[0] - ends[1]) / 2e-5
        assert float((slopes[name] * change).sum()) == pytest.approx(slope, rel=1e-5)


def test_an_untrained_regressor_costs_what_a_standard_normal_does(world):
    """And what is not known of a molecule costs nothing."""
    codec, config, _ = world
    network = NoisyRegressor(build(config, codec).process, 1, codec.position_std, **SMALL)
    batch = codec.encode(Structures.from_list([([6, 7], np.eye(3)[:2])] * 3))
    value = torch.tensor([[0.5], [2.0], [0.0]])
    present = {"y": torch.tensor([True, True, False])}
    batch = batch.with_condition({"y": value}).with_present(present)
    terms = Regression({"y": slice(0, 1)})(network, batch, Generator(0))
    expected = 0.5 * value[:, 0] ** 2 + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(terms.leaves["y"], expected * torch.tensor([1.0, 1.0, 0.0]))


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
