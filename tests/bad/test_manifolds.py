"""Tables and arrays that are cut, foreign or wrong: refused in one line, or read but for rows."""

import gzip
import io
import lzma
import re
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structdiff.domains.manifolds.data import read
from structdiff.domains.manifolds.doctor import examine
from tests.bad.corpus import snapshot

GENERATED = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ROWS = "".join(f"{(7 * i) % 90},{(11 * i) % 170 - 85}\n" for i in range(40))


def _packed(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _header(shape, data=b"", kind="<f8", packing=zipfile.ZIP_STORED):
    """An npz whose array says that it has some shape."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (117 - len(head)) + "\n"
    array = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + data
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as archive:
        archive.writestr("x.npy", array)
    return buffer.getvalue()


CURVED = np.stack([np.eye(2) * (i + 1) for i in range(30)])
FOREIGN = [
    ("empty", b"", "is empty: give a table"),
    ("one line end", b"\n", "is empty"),
    ("comments", b"# a\n# b\n", "is only comments and blank lines"),
    ("a header", b"lat,lon\n", "has no number in its first 1 lines, .* 'lat,lon'"),
    ("prose", b"It was a dark night,\nand late.\n", "has no number in its first 2 lines"),
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "NUL byte: it is no table of text"),
    ("UTF-16", ("lat,lon\n" + ROWS).encode("utf-16"), "is UTF-16: convert it"),
    ("one long line", b"1," * (1 << 20), "line 1, has more than 1,048,576 bytes"),
    ("packed twice", gzip.compress(lzma.compress(ROWS.encode())), "compressed twice"),
    ("packed and cut", gzip.compress(ROWS.encode())[:-12], "cannot read .*copy it again"),
    ("packed nothing", gzip.compress(b""), "is empty"),
    ("an npy", b"\x93NUMPY\x01\x00v\x00", "is an .npy, one array without a name"),
    ("a zip of text", None, "cannot read .*give a whole npz"),
    ("a cut npz", _packed(cov=CURVED)[:-40], "cannot read .*give a whole npz"),
    ("an npz of nothing", _packed(), "no array of numbers, it has: nothing"),
    ("an npz of words", _packed(x=np.array(["a", "b"])), "no array of numbers, it has: x"),
    ("an npz of objects", _packed(x=np.array([{}, 3], object)), "no array of numbers"),
    ("an npz of one number", _packed(x=np.array(3.0)), "no array of numbers"),
    ("an npz of no rows", _packed(x=np.zeros((0, 2, 2))), "is not clear; it has: x"),
    ("complex numbers", _packed(x=np.ones((9, 2)) * 1j), "no array of numbers"),
    ("a shape of terabytes", _header((10**7, 10**7)), "larger than 134,217,728 numbers"),
    ("a shape below 0", _header((-3, 2)), "cannot read"),
    ("a shape it has not", _header((30, 2, 2), bytes(40)), r"says it has shape \(30, 2, 2\)"),
    ("far too much in few bytes",
        _header((1000, 1000), bytes(8_000_000), packing=zipfile.ZIP_BZIP2),
        "says it has 8000128 bytes in"),
    ("a type it has not", _header((3,), bytes(24), "<x8"), "cannot read"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "why"), FOREIGN, ids=[name for name, *_ in FOREIGN])
def test_what_is_no_table(tmp_path, name, content, why):
    path = tmp_path / "some.csv"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "words")
    else:
        path.write_bytes(content)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="some.csv") as caught:
        examine(str(path))
    said = str(caught.value)
    assert re.search(why, said), said
    assert "\n" not in said
    assert snapshot(tmp_path) == before


def test_folders_and_missing_files(tmp_path):
    with pytest.raises(ValueError, match="is a folder: give a file"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file: .*nowhere.csv"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="data.path is empty"):
        read("")


def _quaternions(row):
    rows = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0.6, 0, 0.8, 0]] * 50
    return ("w,x,y,z", "w,x,y,z:so3-quaternion", rows, row)


def _nine(matrix):
    rows = [np.eye(3).ravel().tolist()] * 150
    return (",".join("abcdefghi"), "a..i:so3-matrix", rows, np.ravel(matrix).tolist())


def _cov(row):
    return ("a,b,c", "a,b,c:spd-upper", [[2.0 + i, 1, 3] for i in range(150)], row)


def _share(row):
    return ("a,b,c", "a..c:simplex", [[0.2, 0.3, 0.5], [1, 0, 0]] * 75, row)


BROKEN = [
    (_quaternions([1, 1, 0, 0]), "a quaternion that is not of length 1: w, x, y, z = 1, 1, 0, 0 "
        r"\(length 1.41421\); divide each row by its length"),
    (_quaternions([0, 0, 0, 0]), r"w, x, y, z = 0, 0, 0, 0 \(length 0\)"),
    (_nine(np.diag([1, 1, 2])), r"no rotation: .*\(R R\^T is off the identity by 3\); its rows"),
    (_nine(np.diag([1, 1, -1])), r"a reflection, .*\(determinant -1\); its determinant must be 1"),
    (_nine(np.zeros((3, 3))), r"no rotation: .*off the identity by 1"),
    (_nine(np.full((3, 3), 1e99)), "no rotation"),
    (_cov([1, 2, 1]), r"not positive definite: a, b, c = 1, 2, 1 \(smallest eigenvalue -1\); add"),
    (_cov([1e99, 0, 1e-99]), r"not positive definite: .*\(smallest eigenvalue"),
    (_cov([0, 0, 0]), r"not positive definite: .*\(smallest eigenvalue 0\)"),
    (_share([0.5, 0.5, 0.5]), r"do not sum to 1: a, b, c = 0.5, 0.5, 0.5 \(sum 1.5\); divide"),
    (_share([1.5, 0, -0.5]), "a probability below 0: a, b, c = 1.5, 0, -0.5; "),
]  # fmt: skip


@pytest.mark.parametrize(("case", "why"), BROKEN, ids=[f"{w[:22]}{i}" for i, (_, w) in
                                                         enumerate(BROKEN)])  # fmt: skip
def test_a_row_that_is_no_point_is_named_or_left_out(tmp_path, case, why):
    names, schema, rows, bad = case
    path = tmp_path / "some.csv"
    lines = [",".join(map(repr, map(float, row))) for row in [*rows, bad, rows[0]]]
    path.write_text("\n".join([names, *lines]))
    with pytest.raises(ValueError, match=rf"some.csv, line {len(rows) + 2}: .*{why}"):
        read(path, columns=schema, skip_bad=0)
    data = read(path, columns=schema)
    kept = np.concatenate([data.train.rows, data.validation.rows, data.test.rows])
    assert sorted(kept.tolist()) == [
        line for line in range(2, len(rows) + 4) if line != len(rows) + 2
    ]
    assert "1 of 152 rows left out: 1 x" in data.report


def test_all_rows_bad_is_refused_whatever_the_share(tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("lat,lon\n95,3\n96,4\n")
    with pytest.raises(ValueError, match="2 of 2 rows are no points, all"):
        read(path, skip_bad=1.0)


SPOILED = st.one_of(
    st.binary(max_size=300),
    st.text('0123456789.,;-e\n\t #"anN', max_size=300).map(str.encode),
    st.lists(
        st.sampled_from(
            [
                b"lat,lon\n",
                b"1,2\n",
                b"95,2\n",
                b"3",
                b",",
                b"\n",
                b'"',
                b"nan",
                b"#",
                b"\xff",
                b";",
            ]
        ),
        max_size=40,
    ).map(b"".join),
)
SCHEMAS = st.sampled_from(
    [None, "1,2:sphere", "1:torus", "lat,lon:sphere", "1,2:simplex", "1..3:ball", "1:euclidean",
     "1,2,3:spd-upper", "1,2:euclidean", "1,2:hyperbolic"]
)  # fmt: skip


@GENERATED
@given(content=SPOILED, schema=SCHEMAS)
def test_any_bytes_are_points_or_refused_in_one_line(tmp_path, content, schema):
    path = tmp_path / "some.csv"
    path.write_bytes(content)
    try:
        data = read(path, columns=schema, skip_bad=0.5)
    except ValueError as error:
        assert "some.csv" in str(error)
        assert "\n" not in str(error)
        return
    for name, space in data.codec.spaces.items():
        assert space.belongs(data.train.leaves[name], 1e-6).inside.all()


@GENERATED
@given(place=st.integers(0, 600), value=st.integers(0, 255), cut=st.integers(0, 700))
def test_an_npz_with_a_changed_byte_is_read_or_refused(tmp_path, place, value, cut):
    content = bytearray(_packed(cov=CURVED, label=np.arange(30)))
    content[place % len(content)] = value
    path = tmp_path / "some.npz"
    path.write_bytes(bytes(content[: len(content) - (cut if cut < 300 else 0)]))
    try:
        data = read(path, columns="cov:spd")
    except ValueError as error:
        assert "some.npz" in str(error)
        return
    assert data.train.leaves["spd"].shape[1:] == (2, 2)


def test_many_random_bytes_are_refused_at_once(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(np.random.default_rng(0).bytes(1 << 24))
    with pytest.raises(ValueError, match="some.csv, line [12], has a NUL byte"):
        examine(str(path))
    path.write_bytes(np.random.default_rng(0).integers(33, 127, 1 << 24, np.uint8).tobytes())
    with pytest.raises(ValueError, match="line 1, has more than 1,048,576 bytes"):
        examine(str(path))
