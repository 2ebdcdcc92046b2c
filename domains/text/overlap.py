"""Whether generated text was copied: the longest part of each that the training text has.

A part of L tokens occurs in the training text only if all shorter ones inside it do, so the
longest is found by bisection; a longer part can only begin where a shorter one was found. Parts
are compared by a 64-bit hash, which prefix sums give for every place at once,

    H_L(i) = sum_{j < L} B^{L-1-j} v(x_{i+j})  modulo 2^64,

B odd, v random numbers of the tokens. Different parts of a real text have one hash with a chance
of about 2^-64, and the answer is right but for that.

References:
    Efficient randomized pattern-matching algorithms (Karp, Rabin, 1987)
    https://doi.org/10.1147/rd.312.0249
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Overlap", "overlaps"]

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

_BLOCK = 1 << 20
_FEW = 1 << 18  # places that are remembered
_BITS = 22  # of the table that sieves places
_SHIFT = np.uint64(64 - _BITS)
_BASE = 0x9E3779B97F4A7C15


class Overlap(NamedTuple):
    """The longest part of a text that the training text has.

    Arguments:
        start: Its first token in the text.
        length: Its tokens.
    """

    start: int
    length: int


class _Group(NamedTuple):
    """Texts whose overlaps have between `low` and `high` tokens.

    Where parts of `low` tokens of them begin in the training text: `places`, None if anywhere.
    """

    members: list[int]
    low: int
    high: int
    places: Integers | None


def overlaps(
    texts: Sequence[NDArray[Any]], training: NDArray[Any], *, limit: int = 20_000_000
) -> list[Overlap]:
    """The longest common part of each text with the training text.

    Arguments:
        texts: Token ids of each text.
        training: Token ids of the training text, which may lie on the disk.
        limit: The first so many tokens of the training text are looked at.

    Returns:
        Where each is, the first of several.

    Example:
        >>> overlaps([np.array([3, 1, 2, 3])], np.array([1, 2, 3, 3]))
        [Overlap(start=1, length=3)]
    """
    hidden = _Hidden(training[:limit], texts)
    found = [Overlap(0, 0) for _ in texts]
    highs = [min(len(text), len(hidden.tokens)) for text in texts]
    left = [
        _Group([i for i, one in enumerate(highs) if one == high], 0, high, None)
        for high in sorted(set(highs))
    ]
    while left:
        members, low, high, places = left.pop()
        if low == high or not members:
            continue
        middle = (low + high + 1) // 2
        starts, where = hidden.first([texts[i] for i in members], middle, places)
        there = {i: start for i, start in zip(members, starts, strict=True) if start is not None}
        for i, start in there.items():
            found[i] = Overlap(start, middle)
        left.append(_Group(list(there), middle, high, where))
        left.append(_Group([i for i in members if i not in there], low, middle - 1, places))
    return found


class _Hidden:
    """A training text, in which parts of other texts are looked for."""

    def __init__(self, tokens: NDArray[Any], texts: Sequence[NDArray[Any]]) -> None:
        self.tokens = tokens
        most = max([int(block.max()) for _, block in self._blocks(1)], default=0)
        most = max([most, *(int(text.max(initial=0)) for text in texts)])
        self.values = np.random.default_rng(0).integers(0, 1 << 64, most + 1, np.uint64)

    def first(
        self, texts: Sequence[NDArray[Any]], length: int, places: Integers | None
    ) -> tuple[list[int | None], Integers | None]:
        """The first part of each text that is hidden here; and where, None if at many places."""
        hashes = [self._hashes(text, length) for text in texts]
        asked = np.unique(np.concatenate(hashes))
        sieve = np.zeros(1 << _BITS, np.bool_)
        sieve[asked >> _SHIFT] = True
        hit = np.zeros(len(asked), np.bool_)
        where: list[Integers] | None = []
        for start, hashed in self._seen(length, places):
            some = np.flatnonzero(sieve[hashed >> _SHIFT])
            index = np.minimum(np.searchsorted(asked, hashed[some]), len(asked) - 1)
            same = asked[index] == hashed[some]
            hit[index[same]] = True
            if where is not None:
                where.append(start[some[same]])
                where = where if sum(map(len, where)) <= _FEW else None
        starts = []
        for one in hashes:
            good = np.flatnonzero(hit[np.searchsorted(asked, one)])
            starts.append(int(good[0]) if len(good) else None)
        return starts, None if where is None else np.concatenate([np.zeros(0, np.int64), *where])

    def _seen(self, length: int, places: Integers | None) -> Iterator[tuple[Integers, Hashes]]:
        """Places, and the hashes of what begins there."""
        if places is None:
            for start, block in self._blocks(length):
                hashed = self._hashes(block, length)
                yield start + np.arange(len(hashed)), hashed
            return
        inside = places[places + length <= len(self.tokens)]
        rising = _powers(_BASE, length)[::-1]
        few = max(_BLOCK // length, 1)
        for i in range(0, len(inside), few):
            some = inside[i : i + few]
            parts = self.values[self.tokens[some[:, None] + np.arange(length)]]
            yield some, (parts * rising).sum(1, dtype=np.uint64)

    def _hashes(self, text: NDArray[Any], length: int) -> Hashes:
        """H_L of every place of a text: B^(i+L) times the sum of v(x_j) B^-(j+1) from i to i + L.

        B is odd, so it has an inverse modulo 2^64.
        """
        falling = _powers(pow(_BASE, -1, 1 << 64), len(text) + 1)[1:]
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(self.values[text] * falling)])
        rising = _powers(_BASE, len(text) + 1)
        return np.asarray((total[length:] - total[: len(text) - length + 1]) * rising[length:])

    def _blocks(self, length: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Blocks that overlap, so that every part of this length is in one, and their starts."""
        for start in range(0, len(self.tokens) - length + 1, _BLOCK):
            yield start, np.asarray(self.tokens[start : start + _BLOCK + length - 1])


def _powers(base: int, count: int) -> Hashes:
    """1, base, base^2, ... modulo 2^64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
