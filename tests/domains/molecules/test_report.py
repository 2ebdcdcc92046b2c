"""Tables line up and mean what they say."""

import json
import math

import pytest

from structdiff.domains.molecules.reports.report import (
    Report,
    Row,
    comparison,
    comparison_rows,
)
from structdiff.reports.tables import markdown_table

RATE = Row("validity", 0.756, 0.718, 0.792, "all drawn")
LENGTH = Row("nearest", 0.0791, 0.072, math.inf, "median", "A")
NOTHING = Row("unique", math.nan, math.nan, math.nan, "of valid")


def test_rates_are_percents_and_lengths_are_not():
    assert RATE.text() == "75.6 [71.8, 79.2]"
    assert LENGTH.text() == "0.079 [0.072, inf]"
    assert NOTHING.text() == "-"


def test_a_source_without_a_metric_has_a_dash():
    rows = comparison_rows({"model": Report((RATE, LENGTH), 500), "real": Report((RATE,), 1000)})
    assert rows == [
        ["metric", "model (500)", "real (1,000)"],
        ["validity (%)", "75.6 [71.8, 79.2]", "75.6 [71.8, 79.2]"],
        ["nearest (A)", "0.079 [0.072, inf]", "-"],
    ]
    assert comparison({"model": Report((RATE,), 1)}).splitlines() == [
        "| metric       | model (1)         |",
        "|--------------|-------------------|",
        "| validity (%) | 75.6 [71.8, 79.2] |",
    ]


def test_cells_cannot_break_a_table():
    lines = markdown_table([["a", "b"], ["x|y", "one\ntwo"]]).splitlines()
    assert lines[2] == "| x\\|y | one two |"
    assert len({len(line) for line in lines}) == 1


def test_json_has_no_infinities():
    report = Report((RATE, LENGTH, NOTHING), 7)
    metrics = json.loads(json.dumps(report.to_dict(), allow_nan=False))["metrics"]
    assert metrics["validity"]["low"] == 0.718
    assert metrics["nearest"]["high"] is None
    assert metrics["unique"]["value"] is None
    assert "all drawn" in report.table()
    with pytest.raises(KeyError, match="no metric 'speed'; there are validity, nearest, unique"):
        report["speed"]
