"""Distances of text and what tells copies, against other ways to compute them."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from structdiff.domains.text import TextCodec, read
from structdiff.domains.text.metrics import (
    bits_per,
    distinct,
    known_words,
    longest_repeat,
    ngram_distances,
    repetition,
    words,
)
from structdiff.domains.text.reports.measuring import beside, distances

SHORT = st.text("abé ", min_size=4, max_size=30)


def _shares(texts, order, grams):
    counts = Counter(t[i : i + order] for t in texts for i in range(len(t) - order + 1))
    return np.array([counts[gram] for gram in grams]) / counts.total(), counts


@given(
    st.lists(SHORT, min_size=1, max_size=3),
    st.lists(SHORT, min_size=1, max_size=3),
    st.lists(SHORT, min_size=3, max_size=3),
)
def test_distances_are_those_of_histograms(generated, reference, real):
    for order, got in ngram_distances(generated, reference, real).items():
        share = len(generated)
        chosen = {1: [0], 2: [0, 2], 3: [0, 1, 2]}[share]
        pairs = ((generated, got[:2]), ([real[i] for i in chosen], got[2:]))
        for texts, (variation, divergence) in pairs:
            grams = sorted(_shares(texts, order, [])[1] | _shares(reference, order, [])[1])
            p, q = _shares(texts, order, grams)[0], _shares(reference, order, grams)[0]
            assert variation == pytest.approx(abs(p - q).sum() / 2, abs=1e-12)
            assert divergence == pytest.approx(jensenshannon(p, q, 2) ** 2, abs=1e-7)


def test_distances_are_zero_and_one_at_their_ends():
    for value in ngram_distances(["abcab"], ["abcab"], ["xyzzy"]).values():
        assert value == pytest.approx((0, 0, 1, 1), abs=1e-12)


def test_real_text_is_at_its_baseline_and_a_lesser_law_is_not():
    """4,000 letters of an order-1 chain; 12 repetitions, the spread of the baseline from them."""
    random = np.random.default_rng(0)
    law = random.dirichlet(np.full(5, 0.5), 5)

    def texts(number):
        rows = []
        for _ in range(number):
            state, letters = 0, []
            for step in random.random(200):
                state = min(int(np.searchsorted(law[state].cumsum(), step)), 4)
                letters.append("abcde"[state])
            rows.append("".join(letters))
        return rows

    def shuffled(text):
        return "".join(random.permutation(list(text)))

    reference = texts(100)
    good = [ngram_distances(texts(20), reference, texts(20), [2])[2] for _ in range(12)]
    differences = [one.total_variation - one.baseline_total_variation for one in good]
    spread = np.std([one.baseline_total_variation for one in good])
    assert abs(np.mean(differences)) < 4 * spread * math.sqrt(2 / 12)
    poor = ngram_distances([shuffled(t) for t in texts(20)], reference, texts(20), [1, 2])
    assert poor[2].total_variation > poor[2].baseline_total_variation + 10 * spread
    assert poor[1].total_variation < poor[1].baseline_total_variation + 10 * spread


def test_missing_and_short_texts_are_refused():
    for name, three in (
        ("generated", ([], ["ab"], ["ab"])),
        ("reference", (["ab"], [], ["ab"])),
        ("real", (["ab"], ["ab"], [])),
    ):
        with pytest.raises(ValueError, match=f"{name} has no text"):
            ngram_distances(*three, [1])
    with pytest.raises(ValueError, match="no text has 3 characters"):
        ngram_distances(["ab"], ["abcd"], ["abc"], [3])


def test_words_distinct_and_repeated():
    text = "The cat's hat, the CAT'S hat; the end."
    assert words(text) == ["the", "cat's", "hat", "the", "cat's", "hat", "the", "end"]
    assert distinct([text], 1) == 4 / 8
    assert distinct([text], 2) == 4 / 7
    assert distinct([text, text], 2) == 4 / 14
    assert repetition([text, "one two three", "word"], 2) == pytest.approx((3 / 7 + 0) / 2)
    assert repetition(["a a a a a a"], 4) == pytest.approx(2 / 3)
    assert math.isnan(distinct(["a"], 2))
    assert math.isnan(repetition(["a b"], 4))


def test_known_words_leave_out_what_a_window_cut():
    texts = ["og barks at the c", "cats xyz"]
    assert known_words(texts, {"barks", "at", "the"}, whole=False) == 1
    assert known_words(texts, {"barks", "at", "the"}) == 3 / 7
    assert math.isnan(known_words([""], {"a"}))


@given(st.text("ab", max_size=25))
def test_the_longest_repeat_is_found(text):
    sizes = [
        size
        for size in range(len(text))
        for i in range(len(text) - size + 1)
        if text.find(text[i : i + size], i + 1) >= 0
    ]
    assert longest_repeat(text) == max(sizes, default=0)


def test_bits():
    assert bits_per(3 * math.log(2), 3) == pytest.approx(1)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        bits_per(1.0, 0)


def test_documents_are_not_run_together(tmp_path):
    """No word and no copied part goes over a line end."""
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"hello{i}\nworld\n" for i in range(60)))
    data = read(path, documents="lines", length=16, cache=tmp_path / "cache")
    codec = TextCodec.of(data)
    known = {word for text in data.train.texts(range(len(data.train))) for word in words(text)}
    some = sorted(known - {"world"})[:2]
    assert len(some) == 2
    drawn = ["".join(some), some[0]]
    found = {name: made for name, made, _ in beside(codec, data, drawn)}
    assert found["words that training text has"] == 0.5
    longest = max(len(one) for one in some)
    assert found["characters in one piece as in training text, most"] == longest


def test_a_short_text_leaves_the_longer_n_grams_of_others(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"number {i}\n" for i in range(200)))
    data = read(path, documents="lines", length=16, cache=tmp_path / "cache")
    several = distances(data, ["a", "number 7", "number 77"])
    assert [*several] == [1, 2, 3, 4]
    assert several[4] == distances(data, ["number 7", "number 77"])[4]
    assert [*distances(data, ["a"])] == [1]
