"""The whole report: what it is of, how it stands beside real molecules, what it refuses."""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from structdiff.domains.molecules.data import Structures, embedded
from structdiff.domains.molecules.measures import busters
from structdiff.domains.molecules.measures.chemistry import (
    Chemistry,
    _report,
    chemistry_report,
)
from structdiff.domains.molecules.measures.valid import Valid
from structdiff.domains.molecules.metrics import baselines
from structdiff.domains.molecules.reports.charts import PICTURES, chemistry_charts
from structdiff.reports.charts import COLOURS, DATA


@pytest.fixture(scope="module")
def qm9():
    return embedded()


@pytest.fixture(scope="module")
def found(qm9):
    """Noisy molecules beside real ones."""
    noisy = baselines(qm9.select(range(60)))["real + 0.05 A"]
    return chemistry_report(noisy, qm9.select(range(60, 220)), resamples=50)


def test_molecules_are_not_apart_from_themselves(qm9):
    same = Chemistry(Valid.of(qm9.select(range(40)), most=25))
    report = _report(same, same, lambda smiles: np.eye(len(smiles))[:, :3], 20, 0)
    for row in report.rows:
        if row.unit in ("A", "degrees", "TV", ""):
            assert row.value == pytest.approx(0, abs=1e-6), row.name
        if row.unit == "cosine":
            assert row.value == pytest.approx(1), row.name
        assert row.low <= row.value <= row.high


def test_noise_is_seen_beside_as_many_real_molecules(found):
    drawn, real = found.reports.values()
    for name in ("bond lengths", "MMFF strain"):
        assert drawn[name].low > real[name].high, name
    for name in ("bond angles", "descriptor Frechet distance"):
        assert drawn[name].value > real[name].high, name
    for name in ("valid", "fragment similarity"):
        assert drawn[name].high < real[name].low, name
    assert drawn["bond lengths"].value == pytest.approx(0.04, abs=0.01)  # of 0.05 sqrt(2) normal


def test_the_protocol_says_of_how_many(found):
    drawn = found.reports["drawn"]
    good, target = len(found.drawn.valid), len(found.real.valid)
    assert drawn.drawn == 60 and drawn["valid"].value == good / 60 < 1
    assert f"{good} against {target}" in drawn["bond lengths"].protocol
    assert f"{good} of 60 drawn" in drawn["valid"].protocol
    assert found.reports["as many real ones"].drawn == 60
    assert "as many real ones (60)" in found.table()
    json.dumps([report.to_dict() for report in found.reports.values()], allow_nan=False)


def test_some_molecules_are_enough_for_what_takes_long(qm9):
    some = Valid.of(qm9.select(range(50)), most=10)
    chosen = some.some()
    assert len(set(chosen.tolist())) == 10 and chosen.max() > 10
    assert [m for m, _ in some.each(some.mols, "")] == chosen.tolist()
    parted = chemistry_report(qm9.select(range(30)), qm9.select(range(30, 90)), most=10)
    assert "10 against 10" in parted.reports["drawn"]["QED"].protocol
    assert "of 10" in parted.reports["drawn"]["MMFF strain"].protocol


def test_nothing_valid_is_reported_as_such(qm9):
    heap = Structures.from_list([([6] * 9, np.zeros((9, 3)))] * 3)
    found = chemistry_report(heap, qm9.select(range(20)), resamples=5)
    drawn = found.reports["drawn"]
    assert drawn["valid"].value == 0
    assert all(np.isnan(row.value) for row in drawn.rows[1:])


def test_pictures_show_drawn_molecules_and_the_data(found, tmp_path):
    paths = chemistry_charts(found, tmp_path)
    assert [path.stem for path in paths] == list(PICTURES)
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image)[..., :3].astype(int)
        for colour in (COLOURS[0], DATA):
            wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
            seen = (np.abs(pixels - wanted).max(-1) < 3).any(0)
            panels = np.array_split(seen, pixels.shape[1] // 690)  # 4.6 inches at 150 dots
            assert all(panel.sum() > 50 for panel in panels), (path.stem, colour)


def test_a_network_sees_the_smiles_of_valid_molecules(qm9):
    seen = []

    def chemnet(smiles):
        seen.append(smiles)
        return np.array([[len(s), s.count("C")] for s in smiles], float)

    found = chemistry_report(
        qm9.select(range(20)), qm9.select(range(20, 60)), chemnet=chemnet, resamples=5
    )
    assert len(seen) == 4 and found.drawn.valid.smiles in seen
    row = found.reports["drawn"]["Frechet ChemNet distance"]
    assert row.value > 0 and "2 features" in row.protocol


def test_bad_arguments_are_refused(qm9):
    some = qm9.select(range(4))
    with pytest.raises(ValueError, match="generated must hold at least one"):
        chemistry_report(qm9.select([]), some)
    with pytest.raises(ValueError, match="reference must hold at least 2"):
        chemistry_report(some, some.select([0]))
    with pytest.raises(ValueError, match="most must be at least 1, not 0"):
        chemistry_report(some, some, most=0)
    with pytest.raises(ValueError, match="resamples must be at least 1, not 0"):
        chemistry_report(some, some, resamples=0)


def test_checks_of_posebusters_are_rates_of_molecules(qm9, monkeypatch):
    """A stand-in says that heavy molecules have no clash, and of one that nothing is known."""
    pandas = pytest.importorskip("pandas")

    class PoseBusters:
        def __init__(self, config):
            assert config == "mol"

        def bust(self, mols):
            self.size = [mol.GetNumAtoms() for mol in mols]
            clash = [size > 10 for size in self.size]
            flat = [True] * (len(mols) - 1) + [None]
            return pandas.DataFrame({"internal_clash": clash, "ring_flat": flat})

    stand_in = ModuleType("posebusters")
    stand_in.PoseBusters = PoseBusters
    monkeypatch.setitem(sys.modules, "posebusters", stand_in)
    monkeypatch.setattr(busters, "find_spec", lambda name: stand_in)
    monkeypatch.setattr(busters, "version", lambda name: "0")
    some = Valid.of(qm9.select(range(30)))
    measures = {m.name: m for m in busters.compared(busters.busted(some))}
    rates = {n: float(m.statistic(np.ones((1, len(some))))[0]) for n, m in measures.items()}
    large = some.structures.count > 10
    assert rates["PoseBusters: internal clash"] == pytest.approx(large.mean())
    assert rates["PoseBusters: ring flat"] == pytest.approx(1 - 1 / len(some))
    assert rates["PoseBusters: all checks"] == pytest.approx(large[:-1].sum() / len(some))


def test_without_posebusters_there_are_no_checks(found, monkeypatch):
    monkeypatch.setattr(busters, "find_spec", lambda name: None)
    assert busters.busted(found.drawn.valid) == {}
    assert busters.compared({}) == []
