"""Drawing: what is given stays, and numbers follow from what is asked."""

import re

import pytest

from structdiff.domains.text import TextConfig
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.recipe import build
from structdiff.domains.text.run import Run
from tests.domains.text.worlds import settings

KINDS = ["ancestral", "leaping", "first-hitting", "confidence", "remasking", "blocks"]
GIVEN = "the {3} sat {5} mat"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_stays_and_nothing_is_masked(run, kind):
    texts = run.sample(6, given=GIVEN, kind=kind, progress=False)
    assert len(texts) == 6
    for text in texts:
        assert re.fullmatch(r"the [^█]{3} sat [^█]{5} mat", text, re.DOTALL), text


def test_a_gap_is_filled_by_what_stands_around_it(run):
    """One letter of a common word is nearly sure."""
    texts = run.sample(20, given="the cat s{1}t on the mat. ", progress=False)
    assert sum("sat" in text for text in texts) >= 15


@pytest.mark.parametrize("kind", KINDS)
def test_given_holds_in_a_vocabulary_of_many_tokens(kind):
    """Draws from laws of more than 64 classes go another way."""
    letters = "".join(chr(0x100 + i) for i in range(100))
    codec = TextCodec.fit([letters[:50], letters[50:]])
    config = TextConfig.model_validate({"network": {"width": 16, "layers": 1, "heads": 2}})
    run = Run(None, config, codec, build(config, codec))
    known = letters[7:12]
    for text in run.sample(3, given=f"{known}{{4}}{known}", steps=4, kind=kind, progress=False):
        assert text[:5] == text[-5:] == known
        assert len(text) == 14


@pytest.mark.parametrize("given", [0.0, 0.5])
def test_redrawn_tokens_leave_what_is_given(source, given):
    """Held as in training, or by replacement where training held nothing."""
    codec = TextCodec.fit(["abc def", "fed cba"])
    config = settings(source, noise={"process": "uniform"}, loss={"given": given})
    run = Run(None, config, codec, build(config, codec))
    assert all(text[0] == "a" for text in run.sample(20, given="a{2}", progress=False))


def test_noise_by_sample_is_the_same_in_every_batch(run):
    one = run.sample(5, seed=2, randomness="sample", batch_size=5, progress=False)
    other = run.sample(5, seed=2, randomness="sample", batch_size=2, progress=False)
    assert one == other


def test_the_first_texts_of_a_longer_request_are_those_of_a_shorter(run):
    assert run.sample(9, seed=1, progress=False)[:4] == run.sample(4, seed=1, progress=False)


def test_lengths_are_those_that_were_asked(run):
    sizes = {len(text) for text in run.sample(30, sizes=[3, 9], progress=False)}
    assert sizes == {3, 9}


def test_the_last_noisy_text_is_the_text(run):
    seen = {}
    (text,) = run.sample(
        1, progress=False, watch=lambda step, texts: seen.update({step: texts[0]})
    )
    assert sorted(seen) == list(range(1, 17))
    assert seen[16] == text
    assert seen[1].count("█") > seen[8].count("█") > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"given": "the " * 9 + "{1}"}, "given has 37 tokens, .* at most 32"),
        ({"given": "the QUEEN {3}"}, "given: the vocabulary has no 'E', 'N', 'Q', 'U'"),
        ({"given": "the " * 8}, "no unknown token"),
        ({"given": 3}, "given must be a string, got 3"),
        ({"given": "{5}"}, "no known token"),
        ({"given": "the {x}"}, "not a number of tokens"),
        ({"given": "a{2}", "sizes": [3]}, "sizes cannot be chosen with given"),
        ({"sizes": [0, 3]}, "at least 1 and at most .* 32"),
        ({"sizes": [33]}, "at least 1 and at most .* 32"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"temperature": 0}, "temperature"),
        ({"repaint": 2}, "repaint"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, asked, message):
    with pytest.raises(ValueError, match=message):
        run.sample(2, progress=False, **asked)


def test_a_window_goes_on_after_what_is_given(run):
    for text in run.sample(3, given="the cat", progress=False):
        assert len(text) == 32
        assert text.startswith("the cat")
    assert [len(text) for text in run.sample(2, given="the {2}", progress=False)] == [6, 6]
