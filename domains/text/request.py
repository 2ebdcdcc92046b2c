"""What to draw: how many texts, how long, and what of them is known.

The texts of a request are numbered from 0; lengths follow those of the training texts.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from structdiff.codecs import draw_sizes
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.pattern import Pattern, beginning, parse_pattern
from structdiff.runs import whole

__all__ = ["Request", "request"]

_BLOCK = 4096  # lengths drawn at a time


@dataclass(frozen=True)
class Request:
    """What to draw.

    Arguments:
        counts: Number of tokens of each text, as it is drawn.
        given: What is known of every text, over all of its tokens; None for nothing.
        kept: How many tokens of each text are kept, from its start; None for all.
        seed: Start of the random numbers.
    """

    counts: tuple[int, ...]
    given: Pattern | None
    kept: int | None
    seed: int


def request(
    codec: TextCodec,
    texts: int,
    *,
    running: bool,
    sizes: Sequence[int] | None = None,
    given: str | None = None,
    seed: int = 0,
) -> Request:
    """A request, with lengths as in the training texts, from a list, or that of a pattern.

    The first texts of a longer request are those of a shorter one. A pattern of running text is
    the beginning of a window of the model's length, which is drawn in whole, for the model knows
    no other, and of which as much is kept as the pattern names, or all if it names nothing
    unknown; of documents it is a whole one.

    Arguments:
        codec: Vocabulary and lengths.
        texts: How many.
        running: Whether texts are windows of running text, or documents.
        sizes: Numbers of tokens to choose from, at most the model's.
        given: A pattern, see `parse_pattern`.
        seed: Start of the random numbers.

    Raises:
        ValueError: If a number is out of range, or the pattern does not fit.
    """
    texts, seed = whole("the number of texts", texts, 1), whole("seed", seed, 0)
    if given is not None:
        if sizes is not None:
            msg = "sizes cannot be chosen with given, which says how many tokens there are"
            raise ValueError(msg)
        return _of_pattern(codec, texts, given, seed, running=running)
    weights = np.asarray(codec.sizes.histogram if sizes is None else _counted(codec, sizes), float)
    random, counts = np.random.default_rng(seed), list[int]()
    for low in range(0, texts, _BLOCK):
        rows = min(_BLOCK, texts - low)
        counts += draw_sizes(np.tile(weights, (rows, 1)), random).tolist()
    return Request(tuple(counts), None, None, seed)


def _of_pattern(codec: TextCodec, texts: int, given: str, seed: int, *, running: bool) -> Request:
    if running:
        pattern, kept = beginning(given, codec.vocabulary, codec.length)
    else:
        pattern = parse_pattern(given, codec.vocabulary, length=codec.length)
        kept = len(pattern)
    return Request((len(pattern),) * texts, pattern, kept, seed)


def _counted(codec: TextCodec, sizes: Sequence[int]) -> list[int]:
    """How often each length was named.

    Raises:
        ValueError: If one is out of range.
    """
    try:
        found = [operator.index(size) for size in sizes]
    except TypeError:
        found = []
    if not found or not 1 <= min(found) <= max(found) <= codec.length:
        msg = (
            "sizes must be a list of numbers of tokens, each at least 1 and at most those of the "
            f"model's texts, {codec.length}, got {found or sizes!r}"
        )
        raise ValueError(msg)
    return [int(count) for count in np.bincount(found)]
