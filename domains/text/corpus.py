"""Samples of text that stay on the disk until they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from structdiff.batch import Batch
from structdiff.domains.text.cache import entry_name
from structdiff.domains.text.vocabulary import Vocabulary
from structdiff.layout import Layout

__all__ = ["Corpus", "token_counts"]

_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of many samples, on the disk until they are asked for.

    Arguments:
        tokens: All of them, one document after the other, `(tokens,)`.
        ends: Where each document ends, `(documents,)`; None for running text.
        length: Tokens of a window of running text; the most of a document, of which no more than
            these are used.
        stride: Distance between the starts of two windows of running text.
        vocabulary: What the tokens mean.

    Example:
        >>> from structdiff.domains.text.tokens import Characters
        >>> words = Characters.fit(["abcabc"])
        >>> corpus = Corpus(words.encode("abcabc"), None, 4, 2, words)
        >>> len(corpus), corpus.text(1), corpus.collate([0, 1])["token"].tolist()
        (2, 'cabc', [0, 1, 2, 0, 2, 0, 1, 2])
    """

    tokens: NDArray[Any]
    ends: NDArray[np.int64] | None
    length: int
    stride: int
    vocabulary: Vocabulary

    def __len__(self) -> int:
        if self.ends is not None:
            return len(self.ends)
        return max((len(self.tokens) - self.length) // self.stride + 1, 0)

    def window(self, index: int) -> NDArray[np.int64]:
        """The token ids of a sample."""
        index = range(len(self))[index]
        if self.ends is None:
            start, end = index * self.stride, index * self.stride + self.length
        else:
            start = int(self.ends[index - 1]) if index else 0
            end = min(int(self.ends[index]), start + self.length)
        return np.asarray(self.tokens[start:end], np.int64)

    def text(self, index: int) -> str:
        """The text of a sample."""
        return self.vocabulary.decode(self.window(index))

    def texts(self, indices: Iterable[int]) -> list[str]:
        """The texts of samples."""
        return [self.text(int(index)) for index in indices]

    def collate(self, indices: ArrayLike) -> Batch:
        """A batch of samples: the leaf `token`, their tokens one sample after the other.

        Arguments:
            indices: Which, `(samples,)`; they are the ids of the batch.
        """
        chosen = np.asarray(indices, np.int64)
        windows = [self.window(index) for index in chosen.tolist()]
        leaf = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *windows]))
        layout = Layout.ragged([len(window) for window in windows])
        return Batch({"token": leaf}, {"token": layout}, ids=torch.from_numpy(chosen))

    def sizes(self) -> NDArray[np.int64]:
        """Number of samples of each length, from 0 up to `length`."""
        total = np.zeros(self.length + 1, np.int64)
        if self.ends is None:
            total[self.length] = len(self)
            return total
        last = 0
        for ends in _chunks(self.ends):
            counts = np.minimum(np.diff(ends, prepend=last), self.length)
            total += np.bincount(counts, minlength=self.length + 1)
            last = int(ends[-1])
        return total

    def longer(self) -> int:
        """Number of documents of more tokens than are used."""
        if self.ends is None:
            return 0
        total, last = 0, 0
        for ends in _chunks(self.ends):
            total += int((np.diff(ends, prepend=last) > self.length).sum())
            last = int(ends[-1])
        return total

    def counts(self) -> NDArray[np.int64]:
        """How often each token occurs, `(K,)`."""
        return token_counts(self.tokens, self.vocabulary.size)

    def characters(self) -> int:
        """Number of characters of all tokens, see `Vocabulary.widths`."""
        return int(self.counts() @ self.vocabulary.widths)

    def with_stride(self, stride: int) -> Corpus:
        """The same tokens with windows that start at other distances.

        Raises:
            ValueError: If it is not positive.
        """
        if stride < 1:
            msg = f"stride must be at least 1, got {stride}"
            raise ValueError(msg)
        return replace(self, stride=stride)

    def identity(self) -> dict[str, str | int]:
        """What tells these samples from others: how many, and a digest of all tokens."""
        total = blake2b(digest_size=16)
        for array in (self.tokens, self.ends if self.ends is not None else np.zeros(0, np.int64)):
            for block in _chunks(array):
                total.update(np.asarray(block, "<i8").tobytes())
            total.update(b"|")
        kind = self.vocabulary.counted(np.zeros(self.vocabulary.size, np.int64)).state()
        total.update(entry_name(kind).encode())
        return {"samples": len(self), "tokens": len(self.tokens), "digest": total.hexdigest()}


def token_counts(tokens: NDArray[Any], size: int) -> NDArray[np.int64]:
    """How often each of `size` tokens occurs."""
    total = np.zeros(size, np.int64)
    for block in _chunks(tokens):
        total += np.bincount(block, minlength=size)
    return total


def _chunks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (array[i : i + _BLOCK] for i in range(0, len(array), _BLOCK))
