"""Values, intervals and invariances of the metrics."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from structdiff.domains.molecules.chemistry import judge
from structdiff.domains.molecules.data import Structures, embedded
from structdiff.domains.molecules.metrics import (
    baselines,
    comparison,
    evaluate,
    known_smiles,
    nearest_distance,
)
from structdiff.domains.molecules.mols import bonds_of
from structdiff.domains.molecules.reports.report import Report, Row
from structdiff.domains.molecules.structures import AROMATIC, Bonds


@pytest.fixture(scope="module")
def qm9():
    return embedded()


@pytest.fixture(scope="module")
def train(qm9):
    return qm9.select(range(500, 1500))


@pytest.fixture(scope="module")
def some(qm9):
    return qm9.select(range(300))


@pytest.fixture(scope="module")
def report(some, train):
    return evaluate(some, train)


def values(report):
    return {row.name: row.value for row in report.rows}


def test_rates_are_those_of_the_verdicts(some, train, report):
    verdicts = judge(some)
    assert report.drawn == 300
    assert report["validity"].value == np.mean([v.valid for v in verdicts])
    assert report["molecule stability"].value == np.mean([v.stable for v in verdicts])
    smiles = [v.smiles for v in verdicts if v.smiles]
    distinct = set(smiles)
    assert report["unique"].value == pytest.approx(len(distinct) / len(smiles))
    fresh = distinct - known_smiles(train)
    assert report["novel"].value == pytest.approx(len(fresh) / len(distinct))


def test_repeats_and_copies_of_train_are_found(qm9, train):
    good = [i for i, v in enumerate(judge(train)) if v.valid][:4]
    fresh = qm9.select([i for i, v in enumerate(judge(qm9.select(range(50)))) if v.valid][:1])
    drawn = Structures.concatenate([train.select([good[0]] * 3 + good[1:4]), fresh])
    report = evaluate(drawn, train, resamples=20)
    assert report["unique"].value == pytest.approx(5 / 7)
    assert report["novel"].value == pytest.approx(1 / 5)
    assert report["nearest train distance"].value == 0


def test_rate_intervals_are_binomial(some, train):
    report = evaluate(some, train, resamples=4000)
    for name in ("molecule stability", "validity"):
        row = report[name]
        p, n = row.value, report.drawn
        half = 1.96 * np.sqrt(p * (1 - p) / n)
        assert row.low == pytest.approx(p - half, abs=0.004)
        assert row.high == pytest.approx(p + half, abs=0.004)


def test_atom_intervals_follow_the_ratio_of_sums(some, train):
    row = evaluate(some, train, resamples=4000)["atom stability"]
    verdicts = judge(some)
    bad = np.array([sum(r.startswith("atom") for r in v.reasons) for v in verdicts])
    assert bad.max() <= 5  # no reasons were cut off
    n = some.count
    residual = (n - bad) - row.value * n  # the delta method for a ratio of means
    half = 1.96 * residual.std() / np.sqrt(len(n)) / n.mean()
    assert row.high - row.low == pytest.approx(2 * half, rel=0.15)


def test_intervals_hold_the_value_and_follow_the_seed(some, train, report):
    for row in report.rows:
        assert row.low <= row.value <= row.high
    assert evaluate(some, train) == report
    assert evaluate(some, train, seed=1) != report
    assert values(evaluate(some, train, seed=1)) == values(report)


def test_metrics_do_not_depend_on_pose_or_order(some, train, report):
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = np.lexsort((rng.random(len(some.number)), some.owner))
    moved = Structures(
        (some.position @ rotation + rng.normal(size=(len(some), 3))[some.owner])[order],
        some.number[order],
        some.count,
    )
    shuffled = moved.select(rng.permutation(len(moved)))
    assert values(evaluate(shuffled, train, resamples=1)) == pytest.approx(values(report))


def test_histograms_are_total_variations():
    two = ([6, 8], [[0, 0, 0], [0, 0, 1.2]])
    three = ([8, 6, 8], [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])
    generated = Structures.from_list([two, two, two, three])
    reference = Structures.from_list([three, two])
    report = evaluate(generated, generated, reference=reference, resamples=50)
    assert report["size histogram"].value == pytest.approx(0.25)
    assert report["element histogram"].value == pytest.approx(abs(4 / 9 - 2 / 5))
    same = evaluate(generated, generated, resamples=50)
    assert same["size histogram"].value == 0


def test_nearest_distance_is_that_of_a_loop(qm9):
    mine, theirs = qm9.select(range(40)), qm9.select(range(40, 400))

    def describe(number, position, typed):
        i, j = np.triu_indices(len(number), 1)
        kind = [tuple(sorted((number[a], number[b]))) * typed for a, b in zip(i, j, strict=True)]
        length = np.linalg.norm(position[i] - position[j], axis=1)
        return np.array([x for _, x in sorted(zip(kind, length, strict=True))])

    def gap(one, other, typed):
        difference = describe(*one, typed) - describe(*other, typed)
        return np.sqrt(np.mean(difference**2))

    expected = []
    for one in mine:
        formula = [t for t in theirs if sorted(t[0]) == sorted(one[0])]
        size = [t for t in theirs if len(t[0]) == len(one[0])]
        found = [gap(one, t, bool(formula)) for t in formula or size]
        expected.append(min(found, default=np.inf))
    nearest, protocol = nearest_distance(mine, theirs)
    np.testing.assert_allclose(nearest, expected, rtol=1e-9)
    assert "by formula" in protocol


def test_nearest_distance_of_copies_is_zero_and_of_strangers_infinite(qm9, train):
    np.testing.assert_array_equal(nearest_distance(train, train)[0], 0)
    broken = Structures.from_list([([6, 8], [[0, 0, 0], [0, 0, np.nan]])])
    lonely = Structures.from_list([([6] * 200, np.random.default_rng(0).normal(size=(200, 3)))])
    strangers = Structures.concatenate([broken, lonely])
    nearest, protocol = nearest_distance(strangers, train)
    assert np.isinf(nearest).all()
    assert protocol == "median; 0 by formula, 0 by size, 2 alone"
    report = evaluate(strangers, train, resamples=20)
    assert report.to_dict()["metrics"]["nearest train distance"]["value"] is None
    assert report["validity"].value == 0
    assert np.isnan(evaluate(broken, train, resamples=20)["unique"].value)


def test_baselines_are_ordered_by_damage(some, train):
    sources = baselines(some, seed=3)
    reports = {name: evaluate(s, train, resamples=20) for name, s in sources.items()}
    stable = [report["molecule stability"].value for report in reports.values()]
    assert stable[0] > 0.9 > stable[1] > 0.5 > stable[2] > stable[3]
    assert stable[3] == 0
    moved = sources["real + 0.05 A"].position - some.position
    assert moved.std() == pytest.approx(0.05, rel=0.02)
    mixed = sources["shuffled elements"]
    assert (mixed.number != some.number).mean() > 0.3
    for (one, _), (two, _) in zip(mixed, some, strict=True):
        assert sorted(one) == sorted(two)
    table = comparison(reports).split("\n")
    assert table[0].count("|") == 6
    assert "real + 0.02 A (300)" in table[0]
    assert len({len(line) for line in table}) == 1
    assert any(line.startswith("| validity (%)") for line in table)


def test_baselines_keep_charges_with_their_atoms_and_properties(some):
    charge = np.where(some.number == 7, 1, 0)
    known = {"size": some.count.astype(float)}
    full = Structures(some.position, some.number, some.count, some.name, charge, known)
    for copy in baselines(full).values():
        np.testing.assert_array_equal(copy.charge, copy.number == 7)
        np.testing.assert_array_equal(copy.properties["size"], known["size"])


def waters(pair, order, molecule):
    """Molecules of water with these bonds."""
    one = ([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    bond = Bonds(np.array(pair).T, np.array(order), np.array(molecule))
    return replace(Structures.from_list([one] * (1 + max(molecule))), bond=bond)


def test_protocols_say_where_bonds_are_from(some, train):
    known = waters([(0, 1), (0, 2)], [1, 1], [0, 0])
    drawn, inferred = (evaluate(each, train, resamples=5) for each in (known, some))
    assert drawn["atom stability"].protocol == "generated bonds, all drawn"
    assert drawn["validity"].protocol == "RDKit sanitises, generated bonds, all drawn"
    assert inferred["molecule stability"].protocol == "EDM bond table, all drawn"
    assert inferred["validity"].protocol == "RDKit sanitises, EDM bond table, all drawn"


def test_generated_bonds_are_held_against_distances(train):
    """Of four bonds one is between the hydrogens, and one has the wrong order."""
    known = waters([(0, 1), (0, 2), (3, 4), (4, 5)], [1, 1, 2, 1], [0, 0, 1, 1])
    report = evaluate(known, train, resamples=50)
    assert report["bonds confirmed"].value == 3 / 4
    assert report["bond orders confirmed"].value == 2 / 4
    assert report["bonds confirmed"].low == 1 / 2  # of the second molecule alone
    assert report["molecule stability"].value == 1 / 2
    names = values(evaluate(replace(known, bond=None), train, resamples=5))
    assert not any("confirmed" in name for name in names)


def test_aromatic_bonds_are_judged_as_they_are_written_out(train):
    """Pyrrole: three halves of bonds would give the nitrogen a valency of four."""
    mol = Chem.AddHs(Chem.MolFromSmiles("c1cc[nH]c1"))
    assert AllChem.EmbedMolecule(mol, randomSeed=0) == 0
    found = bonds_of(mol)
    assert (found[2] == AROMATIC).sum() == 5
    pyrrole = Structures(
        mol.GetConformer().GetPositions(),
        [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        [10],
        bond=Bonds(found[:2], found[2], 0 * found[2]),
    )
    report = evaluate(pyrrole, train, resamples=5)
    assert report["molecule stability"].value == report["atom stability"].value == 1
    assert report["validity"].value == report["bonds confirmed"].value == 1


def test_noisy_baselines_have_the_bonds_of_their_distances():
    known = waters([(0, 1), (0, 2)], [1, 1], [0, 0])
    copies = baselines(known)
    assert copies["real"].bond is known.bond and copies["shuffled elements"].bond is known.bond
    assert copies["real + 0.02 A"].bond is None and copies["real + 0.05 A"].bond is None


def test_without_hydrogens_stability_is_undefined(some, train):
    report = evaluate(some.without_hydrogens(), train.without_hydrogens(), resamples=20)
    row = report["molecule stability"]
    assert np.isnan(row.value) and row.protocol == "not defined without hydrogens"
    assert row.text() == "-"
    assert report["validity"].value > 0.95


def test_tables_and_json():
    rows = (
        Row("validity", 0.5, 0.25, 0.75, "all drawn"),
        Row("size histogram", 0.1, 0.0, 0.2, "TV", "TV"),
        Row("unique", float("nan"), float("nan"), float("nan"), "of valid"),
        Row("QED", 0.01234, 0.01, 0.02, "", ""),
        Row("bond angles", 1.234, 1.0, 2.0, "", "degrees"),
        Row("MMFF strain", 12.34, 10.0, 20.0, "", "kcal/mol"),
    )
    report = Report(rows, 1234)
    assert report.table() == "\n".join([
        "| metric (1,234 drawn)   | value [95 % interval] | protocol  |",
        "|------------------------|-----------------------|-----------|",
        "| validity (%)           | 50.0 [25.0, 75.0]     | all drawn |",
        "| size histogram (TV)    | 0.100 [0.000, 0.200]  | TV        |",
        "| unique (%)             | -                     | of valid  |",
        "| QED                    | 0.012 [0.010, 0.020]  |           |",
        "| bond angles (degrees)  | 1.23 [1.00, 2.00]     |           |",
        "| MMFF strain (kcal/mol) | 12.3 [10.0, 20.0]     |           |",
    ])  # fmt: skip
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert json.loads(text)["metrics"]["validity"] == {
        "value": 0.5, "low": 0.25, "high": 0.75, "unit": "%", "protocol": "all drawn",
    }  # fmt: skip
    with pytest.raises(KeyError, match="no metric 'fcd'; there are validity"):
        report["fcd"]


def test_empty_sets_are_refused(some):
    none = some.select([])
    with pytest.raises(ValueError, match="generated must hold at least one molecule"):
        evaluate(none, some)
    with pytest.raises(ValueError, match="train must hold"):
        evaluate(some, none)
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        evaluate(some, some, resamples=0)
