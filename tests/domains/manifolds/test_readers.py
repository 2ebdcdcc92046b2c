"""Tables of text in their many forms."""

import gzip
import lzma

import numpy as np
import pytest

from structdiff.domains.manifolds.data import read
from structdiff.domains.manifolds.readers.tables import TextTable
from tests.domains.manifolds.worlds import EARTH, ROWS, all_rows, write

TORSIONS = np.round(np.random.default_rng(5).uniform(-180, 180, (30, 3)), 6)

FORMS = {
    "names after a comment": ("# https://somewhere\nLatitude,Longitude\n" + ROWS, 3),
    "three comments": ("# a, b\r\n# c\r\n# d\r\nLAT,LON\r\n" + ROWS.replace("\n", "\r\n"), 5),
    "a comment": ("# https://somewhere/some-thing\n" + ROWS, 2),
    "nothing above": (ROWS, 1),
    "a byte-order mark": ("\ufefflat,lon\n" + ROWS, 2),
    "words above": ("An export of 2020,\nall rights reserved\n\nlat,lon\n" + ROWS, 5),
    "names in the comment": ("# lat, lon\n" + ROWS, 2),
    "semicolons": ("lat;lon\n" + ROWS.replace(",", ";"), 2),
    "tabs": ("lat\tlon\n" + ROWS.replace(",", "\t"), 2),
    "blanks": ("lat lon\n" + ROWS.replace(",", "   "), 2),
    "blanks before commas": ("lat , lon\n" + ROWS.replace(",", " , "), 2),
    "quotes": ('"lat","lon"\n' + "".join(f'"{a}","{b}"\n' for a, b in EARTH), 2),
    "blank lines and comments": ("lat,lon\n" + ROWS.replace("\n", "\n\n# no\n"), 2),
    "no end of line": (ROWS.rstrip("\n"), 1),
}


@pytest.mark.parametrize(("text", "line"), FORMS.values(), ids=FORMS)
def test_the_same_rows_in_many_forms(tmp_path, text, line):
    path = write(tmp_path, text)
    data = read(path, columns="1,2:sphere", skip_bad=0)
    np.testing.assert_allclose(all_rows(data), EARTH, atol=1e-9)
    assert min(part.rows.min() for part in (data.train, data.validation, data.test)) == line
    if text != FORMS["words above"][0]:
        guessed = read(path)
        assert guessed.train.identity() == data.train.identity()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_packed_tables(tmp_path, pack):
    path = write(tmp_path, pack(FORMS["tabs"][0].encode()), "some.tsv.packed")
    np.testing.assert_allclose(all_rows(read(path)), EARTH, atol=1e-9)


def test_columns_between_others(tmp_path):
    lines = [f'402d,"G, {i}",{a},{b},{c},x\n' for i, (a, b, c) in enumerate(TORSIONS.tolist())]
    path = write(tmp_path, "".join(lines))
    data = read(path, columns="3..5:torus")
    np.testing.assert_allclose(all_rows(data), TORSIONS, atol=1e-9)
    assert data.codec.leaves[0].columns == ("column_3", "column_4", "column_5")
    assert data.codec.specs == {"torus": "torus:3"}
    guessed = read(path)
    assert guessed.codec.leaves == data.codec.leaves


def test_blocks_are_read_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("structdiff.domains.manifolds.readers.tables._BLOCK", 7)
    path = write(tmp_path, FORMS["blank lines and comments"][0])
    np.testing.assert_allclose(all_rows(read(path)), EARTH, atol=1e-9)
    table = TextTable(path).read(["lon"], ["lat"])
    assert table.columns["lat"].tolist() == [str(a) for a, _ in EARTH]
    assert table.number.tolist() == list(range(2, 2 + 3 * 40, 3))


@pytest.mark.parametrize("gap", ["", '"'])
def test_words_have_no_blanks_around(tmp_path, gap):
    path = write(tmp_path, f"a,b\n1, x y \n2,{gap}z{gap} \n")
    assert TextTable(path).read(["a"], ["b"]).columns["b"].tolist() == ["x y", "z"]


def test_two_columns_of_one_name_go_by_number(tmp_path):
    path = write(tmp_path, "lat,lat,lon\n1,2,3\n4,5,6\n")
    table = TextTable(path).read(["column_2", "lon"])
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "column_2": [2, 5],
        "lon": [3, 6],
    }


def test_decimal_commas_are_named(tmp_path):
    for header in ("lat;lon\n", ""):
        path = write(tmp_path, header + "1,5;2,5\n3,5;4,5\n")
        with pytest.raises(ValueError, match="has no number in its first"):
            read(path)
    path = write(tmp_path, "lat;lon\n1;2\n3,5;4,5\n")
    with pytest.raises(ValueError, match="lat = '3,5'; write decimal points, not commas"):
        read(path, columns="lat,lon:sphere")
