"""A table read back is the table that was written."""

import csv
import math

import pytest

from structdiff.artifacts.table import write_csv


def test_cells_come_back(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, {"name": ['a "b", c', "line\nbreak"], "n": [1, 2], "x": [1 / 3, math.nan]})
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["name", "n", "x"],
        ['a "b", c', "1", "0.33333333"],
        ["line\nbreak", "2", ""],
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_columns_of_different_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one length, got \{'a': 1, 'b': 2\}"):
        write_csv(tmp_path / "table.csv", {"a": [1], "b": [1, 2]})
    assert not list(tmp_path.iterdir())
