r"""How generated text differs from real text, and whether it was copied.

Distances between laws p and q of n-grams of characters: total variation, (1/2) sum |p - q|, and
the Jensen-Shannon divergence in bits, H((p + q)/2) - (H(p) + H(q))/2; both are from 0 to 1. Two
finite samples of one law are apart too, so each distance comes with a *baseline*, that of as much
real text to the same reference: what a perfect model would get.

References:
    A Diversity-Promoting Objective Function for Neural Conversation Models (Li et al., 2016),
    section 5 (distinct-n). https://arxiv.org/abs/1510.03055
    Neural Text Generation with Unlikelihood Training (Welleck et al., 2020), section 6
    (repetition). https://arxiv.org/abs/1908.04319
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.ngram import codes, merged

__all__ = [
    "Distance",
    "bits_per",
    "distinct",
    "known_words",
    "longest_repeat",
    "ngram_distances",
    "repetition",
    "words",
]

Integers = NDArray[np.int64]
Law = tuple[Integers, Integers]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class Distance(NamedTuple):
    """How far generated text is from real text, and how far as much real text is.

    Arguments:
        total_variation: Of the generated text, 0 to 1.
        jensen_shannon: Of the generated text, bits, 0 to 1.
        baseline_total_variation: Of real text.
        baseline_jensen_shannon: Of real text.
    """

    total_variation: float
    jensen_shannon: float
    baseline_total_variation: float
    baseline_jensen_shannon: float


def bits_per(nats: float, count: float) -> float:
    """Bits for each of `count` tokens or characters that together take so many nats.

    Raises:
        ValueError: If the count is not positive.

    Example:
        >>> bits_per(8 * math.log(27), 8)
        4.755
    """
    if not count > 0:
        msg = f"count must be positive, got {count}: there is nothing to divide among"
        raise ValueError(msg)
    return nats / (count * math.log(2))


def ngram_distances(
    generated: Sequence[str],
    reference: Sequence[str],
    real: Sequence[str],
    orders: Sequence[int] = (1, 2, 3, 4),
) -> dict[int, Distance]:
    """Distances between the laws of n-grams of characters, by n.

    Of `generated` the first are taken and of `real` some evenly spread, as many of each as there
    are of the fewer. Neighbours in a text are alike, so `real` and `reference` must not be of one
    part of it: the test part as reference, for instance, and the part for validation.

    Arguments:
        generated: Texts of a model.
        reference: Real texts that both are compared with.
        real: Other real texts, of about the lengths of the generated ones, for the baseline.
        orders: The n.

    Raises:
        ValueError: If there are none of one of them, or only too short ones.

    Example:
        >>> distance = ngram_distances(["abab"], ["abab"], ["abba"], [1, 2])[2]
        >>> distance.total_variation, distance.baseline_total_variation
        (0.0, 0.333)
    """
    for name, texts in (("generated", generated), ("reference", reference), ("real", real)):
        if not texts:
            msg = f"{name} has no text: give at least one"
            raise ValueError(msg)
    share = min(len(generated), len(real))
    places = np.linspace(0, len(real) - 1, share).round().astype(int).tolist()
    three = (generated[:share], [real[i] for i in places], reference)
    alphabet = np.array(sorted({letter for texts in three for text in texts for letter in text}))
    found = {}
    for order in orders:
        made, other, right = (_law(texts, alphabet, order) for texts in three)
        found[order] = Distance(
            _total_variation(made, right),
            _jensen_shannon(made, right),
            _total_variation(other, right),
            _jensen_shannon(other, right),
        )
    return found


def _law(texts: Sequence[str], alphabet: NDArray[np.str_], order: int) -> Law:
    """Codes of the n-grams of texts, and how often each occurs."""
    ids = [np.searchsorted(alphabet, np.array(list(text), alphabet.dtype)) for text in texts]
    parts = [codes(one, len(alphabet), order) for one in ids]
    grams, counts = np.unique(np.concatenate(parts), return_counts=True)
    if not len(grams):
        msg = f"no text has {order} characters: give longer texts, or lower orders"
        raise ValueError(msg)
    return grams, counts


def _shares(one: Law, other: Law) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two laws on what either has."""
    first, p = merged(*one, other[0], np.zeros_like(other[1]))
    _, q = merged(other[0], other[1], first, np.zeros_like(p))
    return p / p.sum(), q / q.sum()


def _total_variation(one: Law, other: Law) -> float:
    p, q = _shares(one, other)
    return float(np.abs(p - q).sum() / 2)


def _jensen_shannon(one: Law, other: Law) -> float:
    p, q = _shares(one, other)
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _entropy(law: NDArray[np.float64]) -> float:
    some = law[law > 0]
    return float(-(some * np.log2(some)).sum())


def words(text: str) -> list[str]:
    """Its words in lower case: runs of letters and digits, with apostrophes inside.

    Example:
        >>> words("Don't panic, 42!")
        ["don't", 'panic', '42']
    """
    return _WORD.findall(text.lower())


def _ngrams(text: str, order: int) -> list[tuple[str, ...]]:
    split = words(text)
    return list(zip(*(split[i:] for i in range(order)), strict=False))


def distinct(texts: Sequence[str], order: int) -> float:
    """Share of different ones among all n-grams of words, of all texts; NaN if there are none.

    It falls with the amount of text: compare equal amounts only.

    Example:
        >>> distinct(["a b a b"], 2)
        0.667
    """
    grams = [gram for text in texts for gram in _ngrams(text, order)]
    return len(set(grams)) / len(grams) if grams else math.nan


def repetition(texts: Sequence[str], order: int = 4) -> float:
    """Mean over texts of the share of n-grams of words that came before in the same text.

    Texts without an n-gram do not count; NaN if none has one.

    Example:
        >>> repetition(["a b a b", "a b c d"], 2)
        0.167
    """
    grams = [found for text in texts if (found := _ngrams(text, order))]
    return float(np.mean([1 - len(set(g)) / len(g) for g in grams])) if grams else math.nan


def longest_repeat(text: str) -> int:
    """Characters of the longest part of a text that occurs in it twice; the two may overlap.

    Example:
        >>> longest_repeat("banana")
        3
    """
    low, high = 0, max(len(text) - 1, 0)
    while low < high:
        middle = (low + high + 1) // 2
        parts = [text[i : i + middle] for i in range(len(text) - middle + 1)]
        low, high = (middle, high) if len(set(parts)) < len(parts) else (low, middle - 1)
    return low


def known_words(texts: Iterable[str], known: set[str], *, whole: bool = True) -> float:
    """Share of the words of texts that are known; NaN if there are none.

    Arguments:
        texts: Texts of a model.
        known: The words of the training text, see `words`.
        whole: Whether the texts begin and end with whole words; those of windows do not, and
            their first and last word are left out.
    """
    found = [words(text) if whole else words(text)[1:-1] for text in texts]
    flat = [word for some in found for word in some]
    return sum(word in known for word in flat) / len(flat) if flat else math.nan
