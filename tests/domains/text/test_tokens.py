"""Vocabularies: what is encoded comes back, and what cannot be is named."""

import json
import pydoc_data.topics
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structdiff.domains.text import subwords
from structdiff.domains.text.tokens import (
    MASK,
    Bytes,
    Characters,
    Subwords,
    vocabulary_from_state,
)

TEXT = "".join(pydoc_data.topics.topics[name] for name in ("assert", "booleans", "class"))
ODD = "to be 'or' not\n\n  to  be — ça\tва 漢字 \U0001f600, don't\r\nbe2 \x1c b"


@pytest.fixture(scope="module")
def bpe():
    return Subwords.train([TEXT, ODD], 400)


@pytest.fixture(scope="module")
def wordpiece():
    return Subwords.train([TEXT], 300, "wordpiece")


@given(st.text(min_size=1))
def test_characters_give_every_text_back(text):
    letters = Characters.fit([text[: len(text) // 2], text[len(text) // 2 :]])
    ids = letters.encode(text)
    assert letters.decode(ids) == text
    assert letters.counts == tuple(np.bincount(ids, minlength=letters.size))
    assert letters.alphabet == "".join(sorted(set(text)))
    assert letters.characters(ids) == len(text)


@given(st.text())
def test_bytes_give_every_text_back(text):
    ids = Bytes().encode(text)
    assert ids.tolist() == list(text.encode())
    assert Bytes().decode(ids) == text
    assert Bytes().characters(ids) == len(text)


@settings(deadline=None)
@given(text=st.text())
def test_byte_level_pieces_give_every_text_back(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.characters(ids) == len(text)


def test_pieces_are_fewer_than_bytes_and_the_vocabulary_has_the_size_asked(bpe):
    assert bpe.size == 400
    assert len(bpe.encode(TEXT)) < 0.6 * len(TEXT.encode())


@settings(deadline=None)
@given(text=st.text(st.sampled_from("ab '\n\t\x1c\u00a0é1.,s"), max_size=60))
def test_a_text_cut_at_its_boundary_has_the_tokens_of_the_whole(bpe, text):
    cut = bpe.boundary(text)
    pieces = [*bpe.encode(text[:cut]), *bpe.encode(text[cut:])]
    assert pieces == bpe.encode(text).tolist()
    assert cut == max((i for i in range(1, len(text)) if _between(text, i)), default=0)


def _between(text, i):
    return text[i] in " \n" and not text[i - 1].isspace()


def test_a_boundary_of_a_long_text_is_near_its_end(bpe):
    assert bpe.boundary("ab " * 50_000 + "cd") == 149_999
    assert bpe.boundary("a b" + "x" * 100_000) == 0


def test_word_pieces_give_words_back_with_single_spaces(wordpiece):
    text = "the class  statement\nis a class"
    ids = wordpiece.encode(text)
    assert wordpiece.decode(ids) == "the class statement is a class"
    assert wordpiece.characters(ids) == len(" the class statement is a class")
    assert wordpiece.decode(wordpiece.encode_any("a 漢 b")) == "a [UNK] b"


@pytest.mark.parametrize("name", ["characters", "bytes", "bpe", "wordpiece"])
def test_states_go_through_json_and_a_mask_prints(name, bpe, wordpiece):
    made = {
        "characters": Characters.fit([TEXT]),
        "bytes": Bytes(),
        "bpe": bpe,
        "wordpiece": wordpiece,
    }[name]
    ids = made.encode("the class")
    counted = made.counted(np.bincount(ids, minlength=made.size))
    again = vocabulary_from_state(json.loads(json.dumps(counted.state())))
    assert again == counted
    assert again.decode(ids) == "the class"
    assert again.decode([made.size, *ids, made.size]) == f"{MASK}the class{MASK}"
    share = again.frequencies
    assert share.sum() == pytest.approx(1)
    assert share[ids[0]] == (counted.counts[ids[0]] + 1) / (len(ids) + made.size)
    assert share.min() == 1 / (len(ids) + made.size)


@pytest.mark.parametrize(("kind", "size"), [("bpe", 600), ("wordpiece", 400)])
def test_training_again_gives_the_same_vocabulary(kind, size):
    one = Subwords.train([TEXT, ODD], size, kind)
    assert one.size == size
    assert all(Subwords.train([TEXT, ODD], size, kind).state() == one.state() for _ in range(4))


def test_word_pieces_have_the_most_frequent_characters(monkeypatch):
    monkeypatch.setattr(subwords, "_LETTERS", 3)
    made = Subwords.train(["aaaa bbbb cccc dd e"], 20, "wordpiece")
    assert made.decode(made.encode_any("abc dab ##ab")) == "abc [UNK] [UNK] [UNK] ab"


def _pairs(vocabulary, merges=()):
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=list(merges)))
    return Subwords((), made.to_str())


def test_what_has_no_piece_is_refused_with_its_place(wordpiece):
    with pytest.raises(ValueError, match=r"no pieces for '漢', at character 3, in 'a 漢 b'"):
        wordpiece.encode("a 漢 b")
    assert wordpiece.encode_any("a 漢 b")[1] == wordpiece.unknown == 0
    pairs = _pairs({"a": 0, "b": 1, " ": 2, "ab": 3}, [("a", "b")])
    assert pairs.encode("ab ba").tolist() == [3, 2, 1, 0]
    for text in ("abcab", "ca  ", "c", "ab  c"):
        place = text.index("c") + 1
        with pytest.raises(ValueError, match=f"no pieces for 'c', at character {place}, "):
            pairs.encode(text)


def test_gaps_in_the_numbers_of_tokens_are_tokens_that_do_not_occur():
    gaps = _pairs({"a": 0, "b": 1, "c": 5})
    ids = gaps.encode("cab")
    assert (gaps.size, ids.tolist(), gaps.decode([5, 6])) == (6, [5, 0, 1], f"c{MASK}")
    assert gaps.counted(np.bincount(ids, minlength=gaps.size)).counts == (1, 1, 0, 0, 0, 1)
    with pytest.raises(ValueError, match="without a token"):
        _pairs({})


def test_a_tokenizer_json_is_loaded(bpe, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(bpe.definition)
    assert Subwords.load(path).encode(ODD).tolist() == bpe.encode(ODD).tolist()
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"cannot read .*tokenizer.json.*not the definition"):
        Subwords.load(path)
    with pytest.raises(ValueError, match="No such file"):
        Subwords.load(tmp_path / "none.json")


def test_unknown_characters_are_named_with_their_place():
    letters = Characters.fit(["abc "])
    message = r"no 'X', 'é', first at character 4, in 'ab éXcé'; .* ' abc'.*data.tokenizer bytes"
    with pytest.raises(ValueError, match=message):
        letters.encode("ab éXcé")
    many = "".join(chr(0x4E00 + i) for i in range(20))
    with pytest.raises(ValueError, match="and 12 more"):
        letters.encode(many)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        Bytes().encode("a\ud800")


@pytest.mark.parametrize("ids", [[0, 4], [-1]])
def test_ids_that_are_no_tokens_are_refused(ids):
    with pytest.raises(ValueError, match=f"from 0 to 3 .masked., got {ids[-1]}"):
        Characters.fit(["abc"]).decode(ids)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "'kind' is missing"),
        ({"kind": "runes", "counts": []}, "kind must be"),
        ({"kind": "bytes"}, "'counts' is missing"),
        ({"kind": "bytes", "counts": [1, 2]}, "counts must be 256"),
        ({"kind": "characters", "alphabet": "ba", "counts": []}, "ascending"),
        ({"kind": "characters", "alphabet": "", "counts": []}, "at least one"),
        ({"kind": "characters", "alphabet": 3, "counts": []}, "not iterable"),
        ({"kind": "subwords", "definition": "x", "counts": []}, "definition of a tokenizer"),
        ([], "list indices"),
    ],
)
def test_states_that_are_none_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        vocabulary_from_state(state)


def test_small_vocabularies_and_no_text_are_refused():
    with pytest.raises(ValueError, match="vocabulary must be at least 257 for bpe"):
        Subwords.train([TEXT], 256)
    with pytest.raises(ValueError, match="no text"):
        Characters.fit([""])


def test_a_missing_library_is_named(monkeypatch, bpe):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'structdiff\[text\]'"):
        Subwords((), bpe.definition)
