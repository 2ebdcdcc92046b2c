"""Reading text: what is in the parts, what is kept on the disk, what is refused."""

import gzip
import lzma
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from structdiff.domains.text import corpus
from structdiff.domains.text import data as module
from structdiff.domains.text.data import read
from structdiff.domains.text.files import digest, embedded, text_files
from structdiff.domains.text.tokens import Bytes, Characters, Subwords
from structdiff.training import Source

TEXT8 = Path(__file__).parents[3].parent / "shared" / "data" / "text" / "text8_first6877825.xz"
SENTENCE = "The quick brown fox jumps over the lazy dog, été comme hiver.\n"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STRUCTDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text"


@pytest.fixture
def prose(tmp_path):
    random = np.random.default_rng(0)
    text = "".join(random.choice(list(SENTENCE), 10_000))
    path = tmp_path / "prose.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return path, text


def whole(data):
    return "".join(
        data.vocabulary.decode(part.tokens) for part in (data.train, data.validation, data.test)
    )


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe"])
def test_running_text_is_cut_in_order(cache, prose, tokens):
    path, text = prose
    data = read(path, tokens=tokens, vocabulary_size=300, length=40)
    sizes = [len(part.tokens) for part in (data.train, data.validation, data.test)]
    total = sum(sizes)
    assert sizes[0] == int(0.9 * total)
    assert sizes[0] + sizes[1] == int(0.95 * total)
    joined = np.concatenate([data.train.tokens, data.validation.tokens, data.test.tokens])
    assert data.vocabulary.decode(joined) == text
    assert data.vocabulary.counts == tuple(
        np.bincount(np.asarray(data.train.tokens), minlength=data.vocabulary.size)
    )
    assert (
        data.train.characters() + data.validation.characters() + data.test.characters() == 10_000
    )


def test_windows_lie_side_by_side_to_judge_and_overlap_to_train(cache, prose):
    path, text = prose
    data = read(path, length=40)
    assert (data.train.stride, data.validation.stride, data.test.stride) == (5, 40, 40)
    assert len(data.train) == (9_000 - 40) // 5 + 1
    assert data.train.text(7) == text[35:75]
    assert data.test.texts(range(len(data.test))) == [
        text[9_500 + i : 9_540 + i] for i in range(0, 480, 40)
    ]
    assert data.train.text(-1) == text[8_960:9_000]
    with pytest.raises(IndexError):
        data.train.window(len(data.train))
    assert data.train.with_stride(1).text(13) == text[13:53]
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        data.train.with_stride(0)


def test_samples_are_packed(cache, prose):
    data = read(prose[0], length=40)
    batch = data.train.collate(np.array([9, 3]))
    expected = np.concatenate([data.train.window(9), data.train.window(3)])
    assert batch["token"].tolist() == expected.tolist()
    assert batch["token"].dtype == torch.long
    assert batch.layouts["token"].counts == (40, 40)
    assert batch.ids.tolist() == [9, 3]
    source = Source(len(data.train), data.train.collate, batch_size=8)
    assert source(3).ids.tolist() == source.indices(3).tolist()


def test_a_second_start_reads_what_the_first_wrote(cache, prose, monkeypatch):
    for tokens in ("characters", "bpe"):
        first = read(prose[0], tokens=tokens, vocabulary_size=300, length=40)
        with monkeypatch.context() as patch:
            patch.setattr(module, "Writer", None)
            patch.setattr(module, "_fit", None)
            second = read(prose[0], tokens=tokens, vocabulary_size=300, length=50)
        assert second.vocabulary == first.vocabulary
        assert second.train.tokens.tolist() == first.train.tokens.tolist()
        assert isinstance(second.train.tokens, np.memmap)
    assert len(list(cache.iterdir())) == 2


def test_another_text_or_vocabulary_is_another_entry(cache, prose):
    path, text = prose
    identity = read(path, length=40).train.identity()
    assert read(path, length=40).train.identity() == identity
    assert read(path, length=41).train.identity()["samples"] != identity["samples"]
    assert read(path, tokens="bytes", length=40).train.identity() != identity
    path.write_text(text[::-1], encoding="utf-8", newline="")
    assert read(path, length=40).train.identity()["digest"] != identity["digest"]
    assert len(list(cache.iterdir())) == 3


def test_equal_ids_of_other_letters_are_other_data(cache, tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 100)
    (tmp_path / "b.txt").write_text("xy" * 100)
    one, other = (read(tmp_path / name, length=5).train for name in ("a.txt", "b.txt"))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.identity() != other.identity()


@pytest.mark.parametrize("damage", ["tokens", "entry.json"])
def test_a_damaged_entry_is_written_anew(cache, prose, damage):
    first = read(prose[0], length=40).train.tokens.tolist()
    file = next(cache.iterdir()) / damage
    file.write_bytes(file.read_bytes()[:-9])
    assert read(prose[0], length=40).train.tokens.tolist() == first


def test_a_killed_writer_leaves_no_entry(cache, prose):
    """It is killed after some of the tokens are on the disk."""
    code = (
        "import os, signal, sys\n"
        "from structdiff.domains.text import data, files\n"
        "from structdiff.domains.text.tokens import Characters\n"
        "files._BLOCK = 1000\n"
        "encode = Characters.encode\n"
        "def dying(self, text, calls=[]):\n"
        "    calls.append(text)\n"
        "    if len(calls) > 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(self, text)\n"
        "Characters.encode = dying\n"
        "data.read(sys.argv[1], length=40)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(prose[0])], check=False)
    assert ended.returncode == -9
    left = list(cache.iterdir())
    assert [path.name[0] for path in left] == ["."]
    data = read(prose[0], length=40)
    assert whole(data) == prose[1]
    os.utime(left[0], (0, 0))
    read(prose[0], tokens="bytes", length=40)
    assert left[0].exists()  # of another entry
    entry = next(path for path in cache.iterdir() if left[0].name.startswith(f".{path.name}."))
    (entry / "entry.json").unlink()
    read(prose[0], length=40)
    assert not left[0].exists()


def test_memory_does_not_grow_with_the_text(tmp_path):
    """4 MB and 16 MB of characters: the same peak to 10 %, and less than the larger text."""
    peaks = {}
    for size in (4, 16):
        path = tmp_path / f"{size}.txt"
        path.write_text((SENTENCE * 17_000)[:1_000_000] * size, encoding="utf-8", newline="")
        tracemalloc.start()
        data = read(path, cache=tmp_path / "cache")
        data.train.collate(np.arange(64))
        data.train.identity()
        data.train.sizes()
        peaks[size] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(len(p.tokens) for p in (data.train, data.validation, data.test)) == size * 10**6
    assert peaks[16] < 1.1 * peaks[4]
    assert peaks[16] < 16e6


def test_windows_stay_few_enough_to_be_put_in_order(cache, prose, monkeypatch):
    monkeypatch.setattr(module, "_WINDOWS", 900)
    assert read(prose[0], length=40).train.stride == 10
    monkeypatch.setattr(module, "_WINDOWS", 10)
    assert read(prose[0], length=40).train.stride == 40


def test_folders_packed_files_and_marks(cache, tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "c.TXT").write_bytes("\ufeffthird".encode())
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"first\n"))
    (folder / "b" / "x.md.xz").write_bytes(lzma.compress(b"second"))
    (folder / ".hidden.txt").write_text("no")
    (folder / "empty.txt").write_text("")
    (folder / "table.csv").write_text("no")
    data = read(folder, length=4)
    assert whole(data) == "first\nsecond\nthird"
    assert data.name == str(folder)


def test_lines_are_documents_and_equal_ones_share_a_part(cache, tmp_path):
    lines = [f"line {i % 400}" + "é" * (i % 5) for i in range(2_000)]
    path = tmp_path / "lines.txt"
    path.write_bytes("\r\n\n".join(lines).encode())
    data = read(path, documents="lines", length=100)
    parts = [p.texts(range(len(p))) for p in (data.train, data.validation, data.test)]
    assert sorted(sum(parts, [])) == sorted(lines)
    sets = [set(part) for part in parts]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    # each of 400 lines is drawn with probability 1/20: 20, with a standard deviation of 4.4
    assert 5 <= len(sets[1]) <= 38
    assert 5 <= len(sets[2]) <= 38
    assert parts[0] == [line for line in lines if line in sets[0]]
    path.write_bytes("\n".join(lines[::-1]).encode())
    again = read(path, documents="lines", length=100)
    assert set(again.test.texts(range(len(again.test)))) == sets[2]
    lengths = [len(text) for text in parts[0]]
    assert data.train.sizes().tolist() == np.bincount(lengths, minlength=101).tolist()


def test_one_line_in_twenty_is_for_the_test():
    """200,000 draws of probability 1/20: a standard deviation of 97."""
    parts = Counter(module._part_of(f"line {i}") for i in range(200_000))
    assert abs(parts["test"] - 10_000) < 4 * 97
    assert abs(parts["validation"] - 10_000) < 4 * 97


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_counting_in_blocks_changes_nothing(cache, tmp_path, monkeypatch, block):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i:03}{'x' * (i % 10)}\n" for i in range(100)))
    data = read(path, documents="lines", length=9)
    identity = data.train.identity()
    monkeypatch.setattr(corpus, "_BLOCK", block)
    lengths = [len(data.train.window(i)) for i in range(len(data.train))]
    assert data.train.sizes().tolist() == np.bincount(lengths, minlength=10).tolist()
    tokens = np.asarray(data.train.tokens)
    assert data.train.counts().tolist() == np.bincount(tokens, minlength=11).tolist()
    ends = np.asarray(data.train.ends)
    assert data.train.longer() == sum(np.diff(ends, prepend=0) > 9)
    assert data.train.identity() == identity


def test_long_lines_are_cut_and_counted(cache, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i:03}{'x' * (i % 10)}\n" for i in range(100)))
    data = read(path, documents="lines", length=9)
    assert max(len(data.train.window(i)) for i in range(len(data.train))) == 9
    assert "30 lines have more than 9 tokens: the rest of them is left out" in data.report
    assert data.train.sizes().sum() == len(data.train)


def test_any_bytes_but_nul_can_be_read_as_bytes(cache, tmp_path):
    path = tmp_path / "latin.txt"
    content = bytes(range(1, 256)) * 30
    path.write_bytes(content)
    data = read(path, tokens="bytes", length=10)
    parts = (data.train, data.validation, data.test)
    assert b"".join(part.tokens.tobytes() for part in parts) == content
    assert data.train.tokens.dtype == np.uint8


def test_numbers_are_as_wide_as_the_vocabulary_needs(cache, tmp_path):
    for size, kind in ((256, "uint8"), (257, "uint16"), (70_000, "uint32")):
        path = tmp_path / "a.txt"
        # no surrogates: those are no characters
        path.write_text("".join(chr(0x10000 + i) for i in range(size)), encoding="utf-8")
        data = read(path, length=10)
        assert data.train.tokens.dtype == kind
        assert whole(data) == path.read_text(encoding="utf-8")


def test_a_stored_vocabulary_is_used_and_must_fit(cache, prose, tmp_path):
    stored = read(prose[0], length=40).vocabulary
    other = tmp_path / "other.txt"
    other.write_text("The dog. " * 40)
    data = read(other, vocabulary=stored, length=10)
    assert isinstance(data.vocabulary, Characters)
    assert data.vocabulary.alphabet == stored.alphabet
    assert whole(data) == "The dog. " * 40
    before = sorted(cache.iterdir())
    other.write_text("The dog. " * 40_000 + "Zebra" + "The dog. " * 9)
    with pytest.raises(ValueError, match=r"after the first \d+ characters .* no 'Z', first at"):
        read(other, vocabulary=stored, length=10)
    assert sorted(cache.iterdir()) == before


def test_a_tokenizer_json_can_be_given(cache, prose, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(Subwords.train([prose[1]], 300).definition)
    data = read(prose[0], tokens=str(path), length=40)
    assert whole(data) == prose[1]
    with pytest.raises(
        ValueError, match="data.tokenizer must be one of characters, .* got 'runes'"
    ):
        read(prose[0], tokens="runes")


def test_pieces_of_the_disk_do_not_change_the_tokens(cache, tmp_path, monkeypatch):
    from structdiff.domains.text import files

    path = tmp_path / "a.txt"
    path.write_text(SENTENCE * 300, encoding="utf-8")
    expected = {
        t: read(path, tokens=t, vocabulary_size=300) for t in ("characters", "bpe", "wordpiece")
    }
    monkeypatch.setattr(files, "_BLOCK", 7)  # cuts characters of two bytes
    for tokens, data in expected.items():
        cut = read(path, tokens=tokens, vocabulary_size=300, cache=tmp_path / "other")
        assert cut.train.tokens.tolist() == data.train.tokens.tolist()
        assert cut.train.identity() == data.train.identity()


def test_the_embedded_text_is_that_of_help(cache):
    from pydoc_data.topics import topics

    data = read()
    text = whole(data)
    assert topics["assert"].strip() in text
    assert len(text) > 400_000
    assert digest([embedded()]) == digest([embedded()])
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in data.report


def test_a_python_without_topics_says_what_to_do(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="without the topics of help.*: give data.path a text"):
        read()


def test_text8_has_27_letters(cache):
    if not TEXT8.exists():
        pytest.skip(f"{TEXT8} is not there: the first characters of text8")
    data = read(TEXT8)
    assert isinstance(data.vocabulary, Characters)
    assert data.vocabulary.alphabet == " abcdefghijklmnopqrstuvwxyz"
    sizes = [len(part.tokens) for part in (data.train, data.validation, data.test)]
    assert sizes == [6_190_042, 343_891, 343_892]
    assert data.train.text(0).startswith(" anarchism originated as a term of abuse")


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


def test_short_parts_are_noted(cache, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcd" * 100)
    data = read(path, length=30)
    assert (len(data.validation), len(data.test)) == (0, 0)
    assert data.notes[0] == "the part for validation, 20 tokens, has no window"
    assert read(path, vocabulary=Bytes(), length=20).notes == ()


def test_training_says_how_many_words_have_no_pieces(cache, tmp_path):
    vocabulary = Subwords.train(["the cat sat on the mat " * 20], 60, "wordpiece")
    path = tmp_path / "a.txt"
    path.write_text("the cat sat " * 100 + "漢 " * 5 + "the mat " * 100)
    data = read(path, length=16, vocabulary=vocabulary)
    assert "5 tokens for training are [UNK]" in data.report
    assert data.vocabulary.counts[vocabulary.unknown] == 5
