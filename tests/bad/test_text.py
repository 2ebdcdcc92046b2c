"""Text that is cut, foreign or no text at all: read as it is, or refused by name."""

import gzip
import lzma

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from structdiff.domains.text.data import read

MARK = "\ufeff".encode()
SPOILED = st.one_of(
    st.binary(max_size=200),
    st.text("ab\n\r\0é\ufeff", max_size=200).map(str.encode),
    st.lists(st.sampled_from([b"ab", b"\n", b"\xc3", b"\xa9", b"\xff", b"\0", MARK])).map(
        b"".join
    ),
)
GENERATED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _parts(path, **arguments):
    data = read(path, length=4, **arguments)
    return data, (data.train, data.validation, data.test)


@GENERATED
@given(content=SPOILED, tokens=st.sampled_from(["characters", "bytes"]))
def test_running_text_is_read_as_it_is_or_refused(tmp_path, content, tokens):
    path = tmp_path / "some.txt"
    path.write_bytes(content)
    before = set(tmp_path.rglob("*"))
    try:
        data, parts = _parts(path, tokens=tokens, cache=tmp_path / "kept" / "text")
    except ValueError as error:
        assert "some.txt" in str(error)
        assert {p for p in set(tmp_path.rglob("*")) - before if p.is_file()} == set()
        return
    ids = [int(token) for part in parts for token in part.tokens]
    expected = content.removeprefix(MARK)
    assert (
        bytes(ids) == expected
        if tokens == "bytes"
        else data.vocabulary.decode(ids).encode() == expected
    )


@GENERATED
@given(content=SPOILED, tokens=st.sampled_from(["characters", "bytes"]))
def test_lines_are_read_as_they_are_or_refused(tmp_path, content, tokens):
    path = tmp_path / "some.txt"
    path.write_bytes(content)
    try:
        data, parts = _parts(path, tokens=tokens, documents="lines", cache=tmp_path / "kept")
    except ValueError as error:
        assert "some.txt" in str(error)
        return
    ends = [int(end) for part in parts for end in part.ends]
    lines = [line.removesuffix(b"\r") for line in content.removeprefix(MARK).split(b"\n")]
    lines = [line for line in lines if line]
    assert len(ends) == len(lines)
    wide = lines if tokens == "bytes" else [line.decode() for line in lines]
    assert sum(len(part.tokens) for part in parts) == sum(map(len, wide))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("keep", [0, 1, 5, 12, 30, 200, -1])
def test_a_packed_file_that_is_cut_is_refused(tmp_path, pack, keep):
    content = pack(" ".join(str(i * i) for i in range(2_000)).encode())
    path = tmp_path / "some.txt.packed"
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match="some.txt.packed"):
        read(path, cache=tmp_path / "kept")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["some.txt.packed"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"kind": 3, "vocabulary": {}, "parts": []}', '{"kind": "uint8"}'],
)
def test_a_spoiled_entry_of_the_cache_is_written_anew(tmp_path, content):
    path = tmp_path / "some.txt"
    path.write_text("to be or not to be " * 50)
    data, parts = _parts(path, cache=tmp_path / "kept")
    expected = [part.tokens.tolist() for part in parts]
    entry = next((tmp_path / "kept").iterdir()) / "entry.json"
    entry.write_text(content)
    again, parts = _parts(path, cache=tmp_path / "kept")
    assert [part.tokens.tolist() for part in parts] == expected
    assert again.vocabulary == data.vocabulary
