"""Measures of drawn text beside real text, and of held-out text beside n-gram models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.data import Corpus, Data
from structdiff.domains.text.metrics import (
    Distance,
    distinct,
    known_words,
    ngram_distances,
    repetition,
    words,
)
from structdiff.domains.text.ngram import NGram
from structdiff.domains.text.overlap import overlaps
from structdiff.domains.text.run import Run
from structdiff.domains.text.scoring import Scores, score, windows
from structdiff.domains.text.tokens import Characters

__all__ = ["beside", "decoded", "distances", "held_out", "reference_bits"]

_SCORED = 1 << 15  # tokens of held-out text
_DRAWS = 4
_READ = 1 << 21  # tokens of the training text whose words are known
_COUNTED = 20_000_000  # tokens that n-grams are counted in
_ORDERS = (1, 2, 3, 5)


def held_out(run: Run, corpus: Corpus, seed: int, *, progress: bool) -> Scores:
    """Scores of samples of a corpus, evenly spread."""
    few = max(2, _SCORED // max(1, corpus.length))
    ids = [corpus.window(i) for i in _spread(len(corpus), few)]
    texts = windows(run.codec, ids)
    return score(run.denoiser, texts, draws=_DRAWS, seed=seed, progress=progress)


def reference_bits(data: Data, held: Corpus) -> dict[str, float]:
    """Bits per character of held-out text under n-gram models of the training text, by name.

    The models are of characters, whatever the tokens, and see what 20 million tokens say.
    """
    strings = [decoded(data.train), decoded(held)]
    letters = Characters.fit(text for texts in strings for text in texts)
    train, test = ([letters.encode(text) for text in texts] for texts in strings)
    longest = min(max(len(text) for text in texts) for texts in (train, test))
    found = dict[str, float]()
    for order in _ORDERS:
        if order > longest or order * math.log2(letters.size) >= 62:
            break
        model = NGram.fit(train, letters.size, order)
        nats = np.concatenate([model.nats(text) for text in test])
        found[f"{order}-gram"] = float(nats.mean() / math.log(2))
    return found


def decoded(corpus: Corpus) -> list[str]:
    """Running text as one, documents each."""
    if corpus.ends is None:
        return [corpus.vocabulary.decode(corpus.tokens[:_COUNTED])]
    return corpus.texts(range(len(corpus)))


def _spread(total: int, most: int) -> list[int]:
    """At most so many places, evenly spread."""
    places = np.linspace(0, total - 1, min(total, most)).astype(int)
    return [int(place) for place in np.unique(places)]


def distances(data: Data, drawn: Sequence[str]) -> dict[int, Distance]:
    """Distances of n-grams of characters; of texts that are long enough for one.

    There are none without held-out text.
    """
    if not len(data.test) or not len(data.validation):
        return {}
    reference = data.test.texts(range(len(data.test)))
    real = data.validation.texts(range(len(data.validation)))
    found = dict[int, Distance]()
    for order in (1, 2, 3, 4):
        made, right, other = (
            [text for text in texts if len(text) >= order] for texts in (drawn, reference, real)
        )
        if made and right and other:
            found |= ngram_distances(made, right, other, [order])
    return found


def beside(codec: TextCodec, data: Data, drawn: list[str]) -> list[tuple[str, float, float]]:
    """Measures of drawn text and of as much real text, held out if there is some."""
    source = data.validation if len(data.validation) else data.train
    real = source.texts(_spread(len(source), len(drawn)))
    known = {word for text in _beginning(data.train) for word in words(text)}
    documents = data.train.ends is not None
    measures: dict[str, Callable[[Sequence[str]], float]] = {
        "words that training text has": lambda texts: known_words(texts, known, whole=documents),
        "distinct words": lambda texts: distinct(texts, 1),
        "distinct 2-grams of words": lambda texts: distinct(texts, 2),
        "distinct 3-grams of words": lambda texts: distinct(texts, 3),
        "repeated 4-grams of words in a text": lambda texts: repetition(texts, 4),
    }
    rows = [(name, measure(drawn), measure(real)) for name, measure in measures.items()]
    copied = [_copied(codec, data, texts) for texts in (drawn, real)]
    title = "characters in one piece as in training text"
    mean, most = ([float(each) for each in map(f, copied)] for f in (np.mean, np.max))
    rows += [(f"{title}, mean", mean[0], mean[1]), (f"{title}, most", most[0], most[1])]
    return rows


def _beginning(corpus: Corpus) -> list[str]:
    """The first tokens of running text, or the first documents, each by itself."""
    if corpus.ends is None:
        return [corpus.vocabulary.decode(corpus.tokens[:_READ])]
    few = int(np.searchsorted(corpus.ends, _READ))
    return corpus.texts(range(min(few + 1, len(corpus))))


def _apart(corpus: Corpus) -> NDArray[Any]:
    """The first tokens, with one that no text has between documents."""
    if corpus.ends is None:
        return corpus.tokens
    between = corpus.vocabulary.size
    tokens = np.asarray(corpus.tokens[:_COUNTED], np.min_scalar_type(between))
    return np.insert(tokens, corpus.ends[corpus.ends < len(tokens)], between)


def _copied(codec: TextCodec, data: Data, texts: Sequence[str]) -> list[int]:
    """Characters of the longest part of each text that the training text has."""
    ids = [codec.vocabulary.encode_any(text) for text in texts]
    found = overlaps(ids, _apart(data.train))
    return [
        codec.vocabulary.characters(one[part.start : part.start + part.length])
        for one, part in zip(ids, found, strict=True)
    ]
