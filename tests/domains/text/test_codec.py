"""Texts as packed rows and back."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.data import read
from structdiff.domains.text.tokens import Bytes


@given(st.lists(st.text(min_size=1), min_size=1))
def test_texts_come_back(texts):
    for codec in (TextCodec.fit(texts), TextCodec.fit(texts, Bytes())):
        batch = codec.encode(texts)
        assert codec.decode(batch) == texts
        sizes = [len(codec.vocabulary.encode(text)) for text in texts]
        assert list(batch.layouts["token"].counts) == sizes
        assert batch["token"].dtype == torch.long
        assert codec.length == max(sizes)
        assert sum(codec.sizes.histogram) == len(texts)
        assert sum(n * count for n, count in enumerate(codec.sizes.histogram)) == sum(sizes)
        assert sum(codec.vocabulary.counts) == sum(sizes)


def test_a_noisy_leaf_shows_its_masks():
    codec = TextCodec.fit(["abc"])
    assert codec.texts(torch.tensor([0, 3, 3, 2, 1, 3]), (3, 0, 3)) == ["a██", "", "cb█"]
    assert codec.texts(torch.zeros(0, dtype=torch.long), ()) == []


def test_the_codec_of_a_text_has_its_length_and_counts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abracadabra" * 100)
    codec = TextCodec.of(read(path, length=20, cache=tmp_path / "cache"))
    assert codec.length == 20
    assert set(codec.sizes.histogram[:-1]) == {0}
    assert sum(codec.vocabulary.counts) == 990


def test_the_codec_of_lines_is_as_long_as_the_longest(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{'ab' * (1 + i % 7)}{i}\n" for i in range(200)))
    data = read(path, documents="lines", length=500, cache=tmp_path / "cache")
    codec = TextCodec.of(data)
    sizes = [len(data.train.window(i)) for i in range(len(data.train))]
    assert codec.length == max(sizes) == 17
    assert codec.sizes.histogram == tuple(sizes.count(n) for n in range(18))


def test_states_go_through_json():
    codec = TextCodec.fit(["to be", "or"])
    again = TextCodec.from_state(json.loads(json.dumps(codec.state())))
    assert again.vocabulary == codec.vocabulary
    assert again.sizes == codec.sizes


def test_what_cannot_be_encoded_is_named():
    codec = TextCodec.fit(["to be"])
    with pytest.raises(ValueError, match="text 2 of 3: the vocabulary has no 'x', first at char"):
        codec.encode(["to", "box", "bx"])
    with pytest.raises(ValueError, match="text 2 of 2 is empty: leave it out"):
        codec.encode(["to", ""])
    with pytest.raises(ValueError, match="no text to fit to"):
        TextCodec.fit([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": {}}, "vocabulary: 'kind' is missing"),
        ({"sizes": {"histogram": [], "tables": {}}}, "histogram must count"),
        ({"sizes": {"histogram": [1, 1], "tables": {}}}, "of which none is"),
        ({"sizes": {"histogram": [0, 1, 0], "tables": {}}}, "histogram must count"),
        ({"sizes": {"histogram": [0, -1, 1], "tables": {}}}, "histogram must count"),
        ({"sizes": {"histogram": ["x", "y"], "tables": {}}}, "histogram must count"),
        ({"sizes": {"histogram": [0, 1]}}, "'tables' is missing"),
        ({"sizes": {"histogram": [0, 1], "tables": {"a": {"edges": [], "counts": []}}}}, "empty"),
        ({"sizes": 3}, "not the state of a text codec"),
    ],
)
def test_states_that_are_none_are_refused(change, message):
    state = TextCodec.fit(["to be"]).state()
    with pytest.raises(ValueError, match=message):
        TextCodec.from_state({**state, **change})
    with pytest.raises(ValueError, match="is missing"):
        TextCodec.from_state({name: state[name] for name in state.keys() - change.keys()})
