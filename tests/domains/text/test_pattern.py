"""Prompts with gaps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structdiff.domains.text.pattern import parse_pattern
from structdiff.domains.text.tokens import Bytes, Characters

LETTERS = Characters.fit(["To be or not to be {}0123456789"])
PARTS = st.lists(st.one_of(st.integers(1, 5), st.text("To{}6 ", min_size=1)), min_size=1)


def test_gaps_are_unknown_and_the_rest_is_known():
    pattern = parse_pattern("To be {6} not {{6}} be", LETTERS)
    assert LETTERS.decode(pattern.ids) == "To be ██████ not {6} be"
    assert pattern.known.tolist() == [True] * 6 + [False] * 6 + [True] * 11


@given(PARTS)
def test_what_is_written_is_what_is_read(parts):
    written = "".join(
        f"{{{part}}}" if isinstance(part, int) else part.replace("{", "{{").replace("}", "}}")
        for part in parts
    )
    shown = "".join("█" * part if isinstance(part, int) else part for part in parts)
    if not 0 < shown.count("█") < len(shown):
        with pytest.raises(ValueError, match="no (un)?known token"):
            parse_pattern(written, LETTERS)
        return
    pattern = parse_pattern(written, LETTERS)
    assert LETTERS.decode(pattern.ids) == shown
    assert pattern.known.tolist() == [letter != "█" for letter in shown]
    assert len(pattern) == len(shown)


def test_a_gap_counts_tokens_not_characters():
    pattern = parse_pattern("é{2}", Bytes())
    assert pattern.ids.tolist() == [0xC3, 0xA9, 256, 256]


def test_a_pattern_is_extended_to_the_length():
    pattern = parse_pattern("To", LETTERS, length=5, extend=True)
    assert LETTERS.decode(pattern.ids) == "To███"
    assert pattern.known.tolist() == [True, True, False, False, False]
    whole = parse_pattern("{1}To be", LETTERS, length=6, extend=True)
    assert LETTERS.decode(whole.ids) == "█To be"
    with pytest.raises(ValueError, match="has 6 tokens, 5 are the most"):
        whole.extended(5, LETTERS.size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("To {} be", "has {}, at character 4, which is not a number of tokens: write {6}"),
        ("{x}", "has {x}, at character 1"),
        ("be {0}", "not a number of tokens"),
        ("be {-1}", "not a number of tokens"),
        ("be {²}", "not a number of tokens"),
        ("be {1000001}", "not a number of tokens"),
        ("be {99999999999999999999}", "not a number of tokens"),
        ("be {6", "a { alone, at character 4: write"),
        ("be 6}", "a } alone, at character 5"),
        ("{4}", "no known token: leave it out"),
        ("", "no known token"),
        ("To be", "no unknown token, so there is nothing to draw"),
        ("To █", "which stands for an unknown token"),
        ("{2}xyz", "given: the vocabulary has no 'x', 'y', 'z'"),
        ("To be {16}", "given has 22 tokens, the model's texts have at most 21"),
    ],
)
def test_what_is_no_pattern_is_refused(text, message):
    with pytest.raises(ValueError) as error:
        parse_pattern(text, LETTERS, length=21)
    assert message in str(error.value)
