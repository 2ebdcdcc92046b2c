"""Counts that add up, their intervals, and why molecules fail."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from structdiff.domains.molecules import Structures, embedded, judge
from structdiff.domains.molecules.chemistry import Verdict
from structdiff.domains.molecules.metrics import evaluate
from structdiff.domains.molecules.tally import Tally, interval, unique


@pytest.fixture(scope="module")
def broken():
    """Molecules of QM9 with noise that breaks some."""
    qm9 = embedded().select(range(300))
    noise = np.random.default_rng(0).standard_normal(qm9.position.shape)
    return Structures(qm9.position + 0.05 * noise, qm9.number, qm9.count)


def verdict(*reasons, valid=False, connected=True):
    return Verdict("C" if valid else None, valid, connected, False, reasons)


@pytest.mark.parametrize(("count", "total"), [(0, 7), (3, 7), (7, 7), (850, 1000)])
def test_the_interval_is_wilsons(count, total):
    expected = binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_rates_are_those_of_an_evaluation(broken):
    """The same columns, whose intervals are there found by resampling 300 molecules."""
    verdicts = judge(broken)
    report = Tally.of(verdicts, 0).report(v.smiles for v in verdicts if v.smiles)
    expected = evaluate(broken, embedded().select(range(300, 400)))
    for row in report.rows:
        assert row.value == expected[row.name].value
        assert row.low == pytest.approx(expected[row.name].low, abs=0.012)
        assert row.high == pytest.approx(expected[row.name].high, abs=0.012)
    assert 0.05 < report["valid and connected"].value < 0.95


def test_parts_add_up_through_json(broken):
    verdicts = judge(broken)
    whole = Tally.of(verdicts, 300)
    cuts = [(0, 10), (10, 10), (10, 250), (250, 300)]
    parts = [Tally.of(verdicts[a:b], b - a).counts() for a, b in cuts]
    assert Tally.total(json.loads(json.dumps(parts))) == whole
    assert sum(whole.reasons.values()) == whole.drawn - whole.whole > 0
    assert Tally.total([]) == Tally()


def test_reasons_are_told_without_numbers_of_atoms():
    verdicts = [
        verdict("atom 3 (C) has valence 5, allowed 4", "2 fragments"),
        verdict("atom 11 (C) has valence 5, allowed 4"),
        verdict("RDKit: Explicit valence for atom # 3 C, 5, is greater than permitted"),
        verdict("RDKit: Explicit valence for atom # 12 C, 5, is greater than permitted"),
        verdict("RDKit: Can't kekulize mol.  Unkekulized atoms: 0 1 2"),
        verdict("RDKit: Can't kekulize mol.  Unkekulized atoms: 4 5 6 7"),
        verdict("atom 0 (H) has valence 0, allowed 1", "2 fragments", valid=True, connected=False),
        verdict("atom 7 (N+) has valence 5, allowed 4"),
        verdict("3 fragments", valid=True, connected=False),
        verdict("atom 0 (C) has valence 3, allowed 4", valid=True),
    ]
    tally = Tally.of(verdicts, 0)
    assert (tally.drawn, tally.valid, tally.whole) == (10, 3, 1)
    assert sorted(tally.reasons.values()) == [1, 2, 2, 2, 2]
    known = {"several fragments", "C has valence 5, allowed 4", "N+ has valence 5, allowed 4"}
    assert known < tally.reasons.keys()
    assert not any(digit in reason for reason in tally.reasons for digit in "0123679")


def test_uniqueness_of_none_is_not_defined():
    assert all(math.isnan(x) for x in unique([]))
    assert unique(["C"] * 4)[0] == 0.25
    assert unique(["C", "N"]) == (1.0, 1.0, 1.0)


def test_lines_say_the_rate_and_the_commonest_reason():
    tally = Tally(2000, 1700, 1600, 1600, {"rare": 100, "often": 300})
    first, second, _ = tally.lines()
    assert first.startswith("2,000 drawn: 1,700 valid (85.0% [83.4, 86.5]), 1,600 valid and in")
    assert second == "  300 x often"
