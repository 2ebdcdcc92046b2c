"""What is asked of a draw and what comes of it: conditions, given atoms, batches."""

import math

import numpy as np
import pytest

from structdiff.domains.molecules import MoleculesConfig, Run, Structures, embedded, train, write
from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.readers.records import Loaded
from structdiff.domains.molecules.request import request

TINY = {
    "data": {"validation": 0, "conditions": ("alpha",)},
    "network": {"layers": 2, "width": 16, "hidden": 16, "basis": 8},
    "training": {"steps": 30, "batch_size": 8, "warm_up": 5, "log_every": 30},
    "sampler": {"steps": 8, "batch_size": 6},
}
CORE = Structures.from_list([([6, 6, 8], [[5.0, 5, 5], [6.5, 5, 5], [7.2, 6.1, 5]])])


def tiny(folder, **changes):
    config = MoleculesConfig.model_validate({**TINY, **changes})
    return train(config, folder, say=lambda _: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that knows alpha and was trained on whole molecules."""
    return tiny(tmp_path_factory.mktemp("runs") / "alpha")


@pytest.fixture(scope="module")
def completing(tmp_path_factory):
    """A run trained on completing fragments, without conditions."""
    changes = {"data": {"validation": 0}, "loss": {"given": 0.5}}
    return tiny(tmp_path_factory.mktemp("runs") / "given", **changes)


def drawn(run, molecules=4, **asked):
    return run.sample(molecules, progress=False, **{"seed": 3, **asked}).structures


def far(first, second):
    """The largest distance between the atoms of two draws of the same sizes."""
    assert first.count.tolist() == second.count.tolist()
    return float(np.abs(first.position - second.position).max())


def test_asking_for_a_condition_changes_the_molecules(run):
    free = drawn(run, sizes=[9])
    low, high = (drawn(run, sizes=[9], condition={"alpha": x}) for x in (40.0, 100.0))
    assert min(far(free, low), far(free, high), far(low, high)) > 1e-3


def test_guidance_runs_from_unconditional_through_conditional_to_beyond(run):
    """Scale 0 is the walk that never heard of a condition, 1 the one that is only asked."""
    asked = {"sizes": [9], "condition": {"alpha": 100.0}}
    free, plain = drawn(run, sizes=[9]), drawn(run, **asked)
    assert far(drawn(run, **asked, guidance=0.0), free) < 1e-4
    assert far(drawn(run, **asked, guidance=1.0), plain) == 0
    assert far(drawn(run, **asked, guidance={"alpha": 1.0}), plain) < 1e-4
    assert far(drawn(run, **asked, guidance=2.0), plain) > 1e-3


def test_a_value_for_each_molecule_goes_to_that_molecule(run):
    """Keyed noise: molecule i is that of a draw in which its value is asked of all."""
    values = np.array([40.0, 60.0, 80.0, 100.0])
    settings = {"sizes": [7], "randomness": "sample", "guidance": 2.0}
    each = drawn(run, condition={"alpha": values}, **settings)
    for i, value in enumerate(values):
        same = drawn(run, condition={"alpha": value}, **settings)
        assert np.abs(each.molecule(i)[1] - same.molecule(i)[1]).max() < 1e-3
    other = drawn(run, condition={"alpha": values[::-1]}, **settings)
    assert np.abs(each.molecule(0)[1] - other.molecule(0)[1]).max() > 1e-2


def test_sizes_follow_the_condition(run):
    """A polarisability that is high is that of a large molecule: as in the data, in its bins."""
    data = embedded()
    alpha, count = data.properties["alpha"], data.count
    found, expected = [], []
    for value in np.quantile(alpha[np.isfinite(alpha)], [0.1, 0.5, 0.9]):
        found.append(np.mean(run.request(4000, condition={"alpha": value}).counts))
        near = np.argsort(np.abs(alpha - value))[:150]
        expected.append(count[near].mean())
    assert found[0] + 1 < found[1] < found[2] - 1
    np.testing.assert_allclose(found, expected, atol=1.5)
    mixed = run.request(4000, condition={"alpha": np.repeat([50.0, 95.0], 2000)}).counts
    assert np.mean(mixed[:2000]) + 2 < np.mean(mixed[2000:])


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"condition": {"gap": 1.0}}, r"no condition 'gap', the run knows .*\['alpha'\]"),
        ({"guidance": 2.0}, r"guidance = 2.0 needs a condition: give one of \['alpha'\]"),
        ({"condition": {"alpha": 1.0}, "guidance": {"mu": 2.0}}, r"guidance names \['mu'\]"),
        ({"condition": {"alpha": 1.0}, "guidance": math.nan}, "must be a finite number"),
        ({"condition": {"alpha": 1.0}, "guidance": {}}, "must be a finite number"),
        ({"condition": {"alpha": [1.0, 2.0]}}, r"shape \(\) .* or \(4,\), .*got \(2,\)"),
    ],
)
def test_what_cannot_be_asked_is_refused(run, asked, why):
    with pytest.raises(ValueError, match=why):
        drawn(run, **asked)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"molecules": 2.5}, "number of molecules must be a whole number, got 2.5"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"sizes": 7}, "sizes must be a list of numbers of atoms, each at least 2, got 7"),
        ({"sizes": [7.5]}, r"sizes must be a list .*, got \[7.5\]"),
        ({"sizes": []}, r"sizes must be a list .*, got \[\]"),
        ({"condition": {"alpha": 75.0}, "guidance": "2"}, "must be a finite number, .*got '2'"),
        ({"condition": {"alpha": 75.0}, "guidance": {"alpha": "2"}}, "must be a finite number"),
        ({"condition": {"alpha": math.nan}}, "condition 'alpha' has values that are not known"),
        ({"condition": {"alpha": [75.0, math.inf]}}, "condition 'alpha' has values that are not"),
        ({"given": Loaded(CORE)}, r"given must be Structures .*read\(path\).structures, got Load"),
        (
            {"given": CORE.select([])},
            "given must be Structures with a molecule, .*got 0 molecules",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(run, asked, why):
    with pytest.raises(ValueError, match=why):
        run.sample(**{"molecules": 2, "progress": False, **asked})


def test_sizes_may_be_an_array_and_one_where_the_data_has_it(run):
    assert drawn(run, 2, sizes=np.array([5])).count.tolist() == [5, 5]
    alone = Structures.from_list([([6], [[0.0, 0, 0]]), ([6, 8], [[0.0, 0, 0], [1.2, 0, 0]])])
    codec = MoleculeCodec.fit(alone, ())
    assert request(codec, 3, sizes=[1]).counts == (1, 1, 1)
    with pytest.raises(ValueError, match="each at least 1, got .0."):
        request(codec, 3, sizes=[0])
    with pytest.raises(ValueError, match="each at least 2, got .1."):
        request(MoleculeCodec.fit(alone.select([1]), ()), 3, sizes=[1])


def test_a_model_of_heavy_atoms_draws_single_ones(tmp_path):
    """Methane is one carbon where hydrogens are implicit."""
    away = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
    methane = Structures.from_list([([6, 1, 1, 1, 1], away.tolist())])
    data = Structures.concatenate([methane, embedded().select(range(20)).with_properties({})])
    write(tmp_path / "data.sdf", data, judge(data))
    source = {"path": str(tmp_path / "data.sdf"), "validation": 0, "hydrogens": "implicit"}
    model = tiny(tmp_path / "heavy", data=source, sampler={"steps": 3})
    found = drawn(model, 3, sizes=[1])
    assert found.count.tolist() == [1, 1, 1]
    assert np.abs(found.position).max() < 1e-5


def test_a_run_without_conditions_says_so(completing):
    with pytest.raises(ValueError, match="needs a condition: but the run was trained without any"):
        drawn(completing, guidance=2.0)
    with pytest.raises(ValueError, match="no condition 'alpha', the run knows none: train with"):
        drawn(completing, condition={"alpha": 75.0})


def holds(structures, core):
    """How far the given atoms are from where they were given; there are others beside them."""
    size = len(core.number)
    for number, _ in structures:
        assert number[:size].tolist() == core.number.tolist()
        assert len(number) > size
    return max(np.abs(position[:size] - core.position).max() for _, position in structures)


@pytest.mark.parametrize("settings", [{"repaint": 1}, {"repaint": 3}, {"repaint": 1, "eta": 0.0}])
@pytest.mark.parametrize("randomness", ["batch", "sample"])
def test_given_atoms_are_held_by_a_model_that_was_not_trained_to(run, settings, randomness):
    asked = {"sizes": [5, 9], "given": CORE, "randomness": randomness, **settings}
    structures = drawn(run, 8, **asked)
    assert holds(structures, CORE) < 1e-5
    assert far(structures, drawn(run, 8, **asked)) == 0


@pytest.mark.parametrize("settings", [{"repaint": 1}, {"repaint": 3}, {}])
def test_given_atoms_are_held_by_the_walk_itself(run, completing, settings, monkeypatch):
    """Not by what is done afterwards: before it they are there up to a translation."""
    monkeypatch.setattr("structdiff.domains.molecules.sampling.at_home", lambda drawn, _: drawn)
    model = run if settings else completing
    home = CORE.position - CORE.position.mean(0)
    for number, position in drawn(model, 6, sizes=[5, 9], given=CORE, **settings):
        assert number[:3].tolist() == [6, 6, 8]
        np.testing.assert_allclose(position[:3] - position[:3].mean(0), home, atol=1e-5)


def test_repaint_is_another_walk_than_replacement(run):
    asked = {"sizes": [8], "given": CORE}
    assert far(drawn(run, **asked, repaint=1), drawn(run, **asked, repaint=3)) > 1e-2


def test_repaint_is_at_temperature_one(run):
    """It noises again and again, with the noise of the time; replacement follows the setting."""
    asked = {"sizes": [8], "given": CORE}
    for repaint, differs in ((3, False), (1, True)):
        cold, warm = (drawn(run, **asked, repaint=repaint, temperature=t) for t in (0.5, 1.0))
        assert (far(cold, warm) > 1e-3) == differs


@pytest.mark.parametrize("settings", [{"class_temperature": 0.2}, {"remask_share": 0.7}])
def test_repaint_leaves_elements_to_the_model(run, settings):
    """RePaint noises again on its own, and its classes are the model's; replacement follows."""
    asked = {"sizes": [8], "given": CORE}
    plain = {"class_temperature": 1.0, "remask_share": 0.0}
    for repaint, differs in ((3, False), (1, True)):
        first, second = (drawn(run, **asked, **plain | s, repaint=repaint) for s in ({}, settings))
        assert (far(first, second) > 1e-3) == differs


def test_a_class_temperature_near_zero_takes_the_likeliest(run):
    """Elements are those of the clean walk whose every draw of a class is its mode."""
    asked = {"sizes": [9], "temperature": 0.0, "remask_share": 0.0}
    warm, cold = (drawn(run, 40, **asked, class_temperature=t).number for t in (1.0, 1e-3))
    counts = [np.bincount(number, minlength=10) / len(number) for number in (warm, cold)]
    # 30 updates know little more than frequencies: hydrogen, the likeliest, is all there is.
    assert counts[0][1] < 0.8 < counts[1][1]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_elements_change_their_minds_when_noised_anew(run, share):
    """An absorbing chain never revises what it has unmasked, unless it is noised anew."""
    seen = []
    run.sample(
        6, sizes=[12], seed=0, steps=16, remask_share=share, progress=False,
        watch=lambda _, structures: seen.append(structures.number),
    )  # fmt: skip
    changes = [((a != 0) & (b != a)).sum() for a, b in zip(seen[:-1], seen[1:], strict=True)]
    assert (sum(changes) > 0) == (share > 0)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_given_atoms_are_held_by_a_model_that_was_trained_to(completing, share):
    structures = drawn(completing, 8, sizes=[5, 9], given=CORE, remask_share=share)
    assert holds(structures, CORE) < 1e-5
    away = Structures(CORE.position + 100.0, CORE.number, CORE.count)
    moved = drawn(completing, 8, sizes=[5, 9], given=away, remask_share=share)
    assert holds(moved, away) < 1e-4  # a float32 at 100 Angstrom
    assert far(Structures(moved.position - 100, moved.number, moved.count), structures) < 1e-2


def test_given_atoms_are_held_with_a_condition(run):
    asked = {"condition": {"alpha": 75.0}, "guidance": 2.0, "given": CORE, "sizes": [8]}
    assert holds(drawn(run, **asked), CORE) < 1e-5


def test_a_part_of_unknown_atoms_is_refused(run):
    for core in (
        Structures.from_list([([6, 17], [[0.0, 0, 0], [1.7, 0, 0]])]),
        Structures(CORE.position, CORE.number, CORE.count, charge=np.array([0, 0, -1], np.int8)),
    ):
        with pytest.raises(ValueError, match=r"knows the elements .* have \['(Cl|O-)'\]"):
            drawn(run, given=core)


def test_keyed_noise_does_not_depend_on_the_batches(run):
    whole = drawn(run, 6, sizes=[5, 9], randomness="sample")
    cut = drawn(run, 6, sizes=[5, 9], randomness="sample", batch_size=2)
    assert far(whole, cut) < 1e-3
    stream = {"randomness": "batch", "sizes": [5, 9]}
    assert far(drawn(run, 6, **stream), drawn(run, 6, **stream, batch_size=2)) > 0.1


def test_memory_that_runs_out_halves_the_batch(run, monkeypatch):
    """With keyed noise the halves hold the same molecules."""
    whole, sizes, draw = drawn(run, 7, sizes=[6], randomness="sample"), [], Run.draw

    def tight(self, asked, part, **named):
        if part.high - part.low > 2:
            raise MemoryError
        sizes.append(part.high - part.low)
        return draw(self, asked, part, **named)

    monkeypatch.setattr(Run, "draw", tight)
    assert far(drawn(run, 7, sizes=[6], randomness="sample"), whole) < 1e-3
    assert sizes == [1, 2, 1, 2, 1]
