"""Copies are found, whatever the blocks in which they are looked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structdiff.domains.text import overlap
from structdiff.domains.text.overlap import Overlap, overlaps

TOKENS = st.lists(st.integers(0, 2), max_size=40).map(lambda x: np.array(x, np.uint8))


def _longest(text, training):
    text, training = bytes(text.tolist()), bytes(training.tolist())
    for length in range(len(text), 0, -1):
        for start in range(len(text) - length + 1):
            if text[start : start + length] in training:
                return Overlap(start, length)
    return Overlap(0, 0)


@pytest.mark.parametrize(("block", "few"), [(1 << 20, 1 << 18), (5, 1 << 18), (3, 0), (7, 4)])
def test_the_longest_common_part_is_found(block, few, monkeypatch):
    monkeypatch.setattr(overlap, "_BLOCK", block)
    monkeypatch.setattr(overlap, "_FEW", few)

    @settings(max_examples=40, deadline=None)
    @given(st.lists(TOKENS, max_size=5), TOKENS)
    def check(texts, training):
        assert overlaps(texts, training) == [_longest(text, training) for text in texts]

    check()


def test_a_planted_copy_is_found_and_the_rest_is_chance():
    """Of uniform letters of K, the longest common part of n with N has about log_K(n N)."""
    random = np.random.default_rng(0)
    training = random.integers(0, 20, 300_000)
    texts = [random.integers(0, 20, 200) for _ in range(10)]
    texts[3][50:150] = training[123_456:123_556]
    found = overlaps(texts, training)
    assert found[3] == Overlap(50, 100)
    others = [one.length for i, one in enumerate(found) if i != 3]
    # n N 20^-L, the expected number of matches, is 2,400 at 3 letters and 0.05 at 7
    assert min(others) >= 4
    assert max(others) <= 8


def test_only_the_first_tokens_are_looked_at():
    training = np.arange(100)
    assert overlaps([np.arange(40, 60)], training, limit=50) == [Overlap(0, 10)]
    assert overlaps([np.arange(70, 90)], training, limit=50) == [Overlap(0, 0)]
    assert overlaps([np.arange(3)], np.zeros(0, np.int64)) == [Overlap(0, 0)]
