"""Texts, folders and caches that are refused."""

import gzip
import sys

import pytest

from structdiff.domains.text.data import read
from structdiff.domains.text.files import text_files


def test_a_python_without_topics_says_what_to_do(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="without the topics of help.*: give data.path a text"):
        read()


BAD = {
    "empty.txt": (b"", {}, "is empty: give a file with text"),
    "nul.txt": (b"\0" * 1000, {}, "has a NUL byte, byte 0"),
    "nul1.txt": (b"ab" * 999 + b"\0ab", {}, "has a NUL byte, byte 1998"),
    "one3.txt": (b"a" * 1000, {"tokens": "bpe"}, "only one distinct character, 'a'"),
    "few.txt": (b"ab", {}, "has 2 tokens, of which 1 is for training: .*; give more text$"),
    "nul2.txt": (b"\0" * 1000, {"tokens": "bytes"}, "has a NUL byte, byte 0"),
    "latin.txt": (
        b"x" * 300_000 + b"caf\xe9 au lait",
        {},
        r"latin.txt is not UTF-8: byte 300003 .from 0. is 0xe9 .*data.tokenizer bytes",
    ),
    "cut.txt": (b"abc\xe2\x82", {}, r"byte 3 .from 0. is 0xe2 .*data.tokenizer bytes"),
    "utf16.txt": ("hello".encode("utf-16"), {}, "is UTF-16, not UTF-8: convert it"),
    "one.txt": (b"a" * 1000, {}, "only one distinct character"),
    "one2.txt": (b"a" * 1000, {"tokens": "bytes"}, "only one distinct character"),
    "short.txt": (b"abcd" * 70, {}, "280 tokens, of which 252 .* window of 256; .* up to 252"),
    "blank.txt": (
        b"\n" * 1000,
        {"documents": "lines"},
        "has no line for training: give more lines",
    ),
    "gz.txt.gz": (gzip.compress(b"abc" * 1000)[:-20], {}, "cannot read .*copy it again"),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"abc")), {}, "compressed twice"),
    "fine.txt": (b"abc" * 1000, {"length": 0}, "length must be at least 1, got 0"),
    "fine2.txt": (b"abc" * 1000, {"documents": "pages"}, "must be running or lines, got 'pages'"),
    "fine3.txt": (b"abc" * 1000, {"tokens": "bpe", "vocabulary_size": 9}, "must be at least 257"),
    "fine4.txt": (
        b"abc" * 1000,
        {"tokens": "none.json"},
        "cannot read none.json as the tokenizer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_refused_and_nothing_is_written(cache, tmp_path, name):
    content, arguments, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path, **arguments)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert not cache.exists() or not list(cache.iterdir())


def test_folders_without_text_and_missing_files_are_refused(cache, tmp_path):
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(ValueError, match=r"has no text, a file that ends in \.txt"):
        text_files(tmp_path)
    with pytest.raises(ValueError, match="the path of the text is empty"):
        read("")
    with pytest.raises(FileNotFoundError, match="no such file: .*none.txt; check its name"):
        read(tmp_path / "none.txt")
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 200)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write tokens to .*set STRUCTDIFF_CACHE"):
        read(tmp_path / "a.txt", cache=tmp_path / "file")
