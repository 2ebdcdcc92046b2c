"""Vocabularies: text to token ids and back.

`Characters` has those of the training text, `Bytes` the 256 of UTF-8, `Subwords` whatever a
tokenizer of the library `tokenizers` was trained to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.subwords import Subwords
from structdiff.domains.text.vocabulary import MASK, Vocabulary, begins, utf8

__all__ = ["MASK", "Bytes", "Characters", "Subwords", "Vocabulary", "vocabulary_from_state"]


@dataclass(frozen=True)
class Characters(Vocabulary):
    """The characters of a text, in the order of Unicode.

    Arguments:
        alphabet: The characters, ascending, each once.

    Raises:
        ValueError: If they are not.

    Example:
        >>> letters = Characters.fit(["banana"])
        >>> letters.alphabet, letters.encode("nab").tolist(), letters.counts
        ('abn', [2, 0, 1], (3, 1, 2))
        >>> letters.decode([1, 0, 3, 0])
        'ba█a'
    """

    alphabet: str = ""

    def __post_init__(self) -> None:
        if not self.alphabet or sorted(set(self.alphabet)) != list(self.alphabet):
            msg = "alphabet must have at least one character, ascending, each once"
            raise ValueError(msg)

    @classmethod
    def fit(cls, texts: Iterable[str]) -> Self:
        """All characters that occur, with their counts.

        Raises:
            ValueError: If there are none.
        """
        total = np.zeros(0, np.int64)
        for text in texts:
            counts = np.bincount(_codes(text)) if text else np.zeros(0, np.int64)
            longer, shorter = (counts, total) if len(counts) > len(total) else (total, counts)
            longer[: len(shorter)] += shorter
            total = longer
        known = np.flatnonzero(total)
        if not len(known):
            msg = "there is no text to take characters from"
            raise ValueError(msg)
        return cls(tuple(int(x) for x in total[known]), "".join(map(chr, known)))

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.alphabet)

    @property
    def widths(self) -> NDArray[np.int64]:
        """One for each."""
        return np.ones(self.size, np.int64)

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        return _codes(self.alphabet)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The index of each character.

        Raises:
            ValueError: If there is a character that the training text does not have.
        """
        codes = _codes(text)
        ids = np.minimum(np.searchsorted(self._known, codes), self.size - 1)
        wrong = np.flatnonzero(self._known[ids] != codes)
        if len(wrong):
            raise ValueError(self._missing(text, wrong))
        return np.asarray(ids, np.int64)

    def _missing(self, text: str, wrong: NDArray[np.int64]) -> str:
        first = int(wrong[0])
        names = sorted({text[i] for i in wrong.tolist()})
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        near = text[max(first - 10, 0) : first + 10]
        alphabet = self.alphabet if self.size <= 80 else self.alphabet[:80] + "..."
        return (
            f"the vocabulary has no {', '.join(map(repr, names[:8]))}{more}, first at character "
            f"{first + 1}, in {near!r}; it has the {self.size} characters of its training text, "
            f"{alphabet!r}: replace what is missing, or train with --data.tokenizer bytes, which "
            "has all"
        )

    def spell(self, ids: NDArray[np.int64]) -> str:
        """The characters of these indices."""
        return self._known[ids].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def boundary(self, text: str) -> int:
        """The end: each character is a token of its own."""
        return len(text)

    def state(self) -> dict[str, Any]:
        """The alphabet and the counts."""
        return {"kind": "characters", "alphabet": self.alphabet, "counts": list(self.counts)}


@dataclass(frozen=True)
class Bytes(Vocabulary):
    """The 256 bytes of UTF-8: any text can be written with them.

    Example:
        >>> Bytes().encode("é").tolist(), Bytes().decode([195, 169])
        ([195, 169], 'é')
    """

    @property
    def size(self) -> int:
        """256."""
        return 256

    @property
    def widths(self) -> NDArray[np.int64]:
        """1 for a byte that begins a character, 0 for one that continues it."""
        return np.asarray(begins(np.arange(256)), np.int64)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The bytes of a text; what is not UTF-8 comes as Python's `surrogateescape` has it.

        Raises:
            ValueError: If it has half a surrogate pair, which UTF-8 has no bytes for.
        """
        return np.frombuffer(utf8(text, "surrogateescape"), np.uint8).astype(np.int64)

    def spell(self, ids: NDArray[np.int64]) -> str:
        """The text of bytes; those that are not UTF-8 become U+FFFD."""
        return ids.astype(np.uint8).tobytes().decode("utf-8", "replace")

    def boundary(self, text: str) -> int:
        """The end: each byte is a token of its own."""
        return len(text)

    def state(self) -> dict[str, Any]:
        """The counts."""
        return {"kind": "bytes", "counts": list(self.counts)}


def vocabulary_from_state(state: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary with that state.

    Raises:
        ValueError: If it is not the state of one.
    """
    try:
        made = _of_kind(state)
        return made.counted(state["counts"]) if state["counts"] else made
    except KeyError as error:
        reason = f"{error} is missing"
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        reason = str(error)
    msg = f"this is not the state of a vocabulary: {reason}"
    raise ValueError(msg)


def _of_kind(state: Mapping[str, Any]) -> Vocabulary:
    match state["kind"]:
        case "characters":
            return Characters((), state["alphabet"])
        case "bytes":
            return Bytes()
        case "subwords":
            return Subwords((), state["definition"])
        case kind:
            msg = f"kind must be characters, bytes or subwords, got {kind!r}"
            raise ValueError(msg)


def _codes(text: str) -> NDArray[np.int64]:
    """Code point of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
