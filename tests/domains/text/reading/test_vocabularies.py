"""Tokens of a text: how wide they are, and vocabularies that are given."""

from pathlib import Path

import numpy as np
import pytest

from structdiff.domains.text.data import read
from structdiff.domains.text.tokens import Characters, Subwords
from tests.domains.text.reading.prose import SENTENCE, whole

TEXT8 = Path(__file__).parents[4].parent / "shared" / "data" / "text" / "text8_first6877825.xz"


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


def test_text8_has_27_letters(cache):
    if not TEXT8.exists():
        pytest.skip(f"{TEXT8} is not there: the first characters of text8")
    data = read(TEXT8)
    assert isinstance(data.vocabulary, Characters)
    assert data.vocabulary.alphabet == " abcdefghijklmnopqrstuvwxyz"
    sizes = [len(part.tokens) for part in (data.train, data.validation, data.test)]
    assert sizes == [6_190_042, 343_891, 343_892]
    assert data.train.text(0).startswith(" anarchism originated as a term of abuse")


def test_training_says_how_many_words_have_no_pieces(cache, tmp_path):
    vocabulary = Subwords.train(["the cat sat on the mat " * 20], 60, "wordpiece")
    path = tmp_path / "a.txt"
    path.write_text("the cat sat " * 100 + "漢 " * 5 + "the mat " * 100)
    data = read(path, length=16, vocabulary=vocabulary)
    assert "5 tokens for training are [UNK]" in data.report
    assert data.vocabulary.counts[vocabulary.unknown] == 5
