"""What is in the parts of a text: windows, packed samples, lines."""

import gzip
import lzma
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from structdiff.domains.text import corpus
from structdiff.domains.text import data as module
from structdiff.domains.text.data import read
from structdiff.domains.text.files import digest, embedded
from structdiff.domains.text.tokens import Bytes
from structdiff.training import Source
from tests.domains.text.reading.prose import whole


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


def test_the_embedded_text_is_that_of_help(cache):
    from pydoc_data.topics import topics

    data = read()
    text = whole(data)
    assert topics["assert"].strip() in text
    assert len(text) > 400_000
    assert digest([embedded()]) == digest([embedded()])
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}" in data.report


def test_short_parts_are_noted(cache, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abcd" * 100)
    data = read(path, length=30)
    assert (len(data.validation), len(data.test)) == (0, 0)
    assert data.notes[0] == "the part for validation, 20 tokens, has no window"
    assert read(path, vocabulary=Bytes(), length=20).notes == ()
