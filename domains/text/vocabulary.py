"""What every vocabulary offers: text to token ids and back.

A vocabulary has K tokens, numbered from 0. Index K is no token: an absorbing chain uses it for
what is masked, and it prints as a full block, `MASK`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MASK", "Vocabulary", "begins", "utf8"]

MASK = "\u2588"
"""How a masked token prints: a full block."""


@dataclass(frozen=True)
class Vocabulary(ABC):
    """What text is made of.

    Arguments:
        counts: How often each token occurs in the training text; none before they are counted.
    """

    counts: tuple[int, ...] = ()

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of tokens, K."""

    @property
    @abstractmethod
    def widths(self) -> NDArray[np.int64]:
        """Number of characters that begin in each token, `(K,)`."""

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.int64]:
        """The tokens of a text.

        Raises:
            ValueError: If it has something that the vocabulary has no token for.
        """

    @property
    def unknown(self) -> int | None:
        """The token of what there is no token for; None for most vocabularies."""
        return None

    def encode_any(self, text: str) -> NDArray[np.int64]:
        """As `encode`, with the unknown token, if there is one, for what has no other.

        Raises:
            ValueError: If there is none, and the text has something of that kind.
        """
        return self.encode(text)

    @abstractmethod
    def spell(self, ids: NDArray[np.int64]) -> str:
        """The text of tokens, none of them masked."""

    @abstractmethod
    def boundary(self, text: str) -> int:
        """The last place at which a cut leaves the tokens of a text as they are; 0 without one.

        A long text is encoded in pieces, each up to its boundary.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `vocabulary_from_state` needs, as JSON."""

    def decode(self, ids: ArrayLike) -> str:
        """The text of tokens; a masked one, of index K, is a `MASK`.

        Raises:
            ValueError: If an id is not from 0 to K.
        """
        index = np.asarray(ids, np.int64)
        if index.size and not 0 <= index.min() <= index.max() <= self.size:
            wrong = index[(index < 0) | (index > self.size)][0]
            msg = f"token ids must be from 0 to {self.size} (masked), got {wrong}"
            raise ValueError(msg)
        parts = np.split(index, np.flatnonzero(index == self.size))
        return MASK.join([self.spell(parts[0]), *(self.spell(part[1:]) for part in parts[1:])])

    def characters(self, ids: ArrayLike) -> int:
        """Number of characters of these tokens."""
        return int(self.widths[np.asarray(ids, np.int64)].sum())

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Share of each token in the training text, with one more of each so that none is 0."""
        counts = np.asarray(self.counts or (0,) * self.size, np.float64) + 1
        return np.asarray(counts / counts.sum())

    def counted(self, counts: ArrayLike) -> Self:
        """The same vocabulary with the counts of a training text.

        Raises:
            ValueError: If there is not one for each token.
        """
        whole = tuple(int(count) for count in np.asarray(counts, np.int64))
        if len(whole) != self.size or min(whole) < 0:
            msg = f"counts must be {self.size} numbers, one for each token, got {len(whole)}"
            raise ValueError(msg)
        return replace(self, counts=whole)


def utf8(text: str, errors: str = "strict") -> bytes:
    """The bytes of a text.

    Raises:
        ValueError: If it has half a surrogate pair, which is no character.
    """
    try:
        return text.encode("utf-8", errors)
    except UnicodeEncodeError as error:
        msg = (
            f"character {error.start + 1} of the text, {text[error.start]!r}, is half of a "
            "surrogate pair and no character: remove it"
        )
        raise ValueError(msg) from None


def begins(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which bytes begin a character of UTF-8: all but those of the form 10xxxxxx."""
    return np.asarray(values & 0xC0 != 0x80)
