"""Text as records: `token`, one row for each token, padding-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structdiff.batch import Batch
from structdiff.codecs import Codec, SizeLaw
from structdiff.domains.text.data import Data
from structdiff.domains.text.tokens import Characters, Vocabulary, vocabulary_from_state
from structdiff.layout import Layout

__all__ = ["TextCodec"]


class TextCodec(Codec[list[str]]):
    """A vocabulary, and the law of the number of tokens.

    Arguments:
        vocabulary: What text is made of.
        sizes: Law of the number of tokens: one length for running text.

    Example:
        >>> codec = TextCodec.fit(["to be", "or not"])
        >>> batch = codec.encode(["bent", "or"])
        >>> batch["token"].tolist(), batch.layouts["token"].counts
        ([1, 2, 3, 6, 4, 5], (4, 2))
        >>> codec.decode(batch)
        ['bent', 'or']
    """

    def __init__(self, vocabulary: Vocabulary, sizes: SizeLaw) -> None:
        self.vocabulary, self.sizes = vocabulary, sizes

    @classmethod
    def fit(cls, objects: list[str], vocabulary: Vocabulary | None = None) -> Self:
        """Count the tokens of texts.

        Arguments:
            objects: Training texts.
            vocabulary: What they are made of; by default their characters.

        Raises:
            ValueError: If there is no text, one is empty, or has something that the vocabulary
                has no token for.
        """
        if not objects:
            msg = "there is no text to fit to"
            raise ValueError(msg)
        vocabulary = vocabulary or Characters.fit(objects)
        ids = _encoded(vocabulary, objects)
        counts = np.bincount(np.concatenate(ids), minlength=vocabulary.size)
        sizes = SizeLaw.fit(np.array([len(one) for one in ids]), {}, {})
        return cls(vocabulary.counted(counts), sizes)

    @classmethod
    def of(cls, data: Data) -> Self:
        """The codec of a text that was read: its vocabulary, and the lengths of its samples."""
        histogram = np.trim_zeros(data.train.sizes(), "b").tolist()
        return cls(data.vocabulary, SizeLaw(tuple(histogram), {}))

    @property
    def length(self) -> int:
        """The most tokens that a training text has."""
        return len(self.sizes.histogram) - 1

    def encode(self, objects: list[str]) -> Batch:
        """A clean batch.

        Raises:
            ValueError: If a text is empty, or has something that the vocabulary has no token for.
        """
        ids = _encoded(self.vocabulary, objects)
        leaf = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *ids]))
        return Batch({"token": leaf}, {"token": Layout.ragged([len(one) for one in ids])})

    def decode(self, batch: Batch) -> list[str]:
        """The texts of a batch, clean or noisy; a masked token is a full block, see `MASK`."""
        return self.texts(batch["token"], batch.layouts["token"].counts)

    def texts(self, token: Tensor, counts: Sequence[int]) -> list[str]:
        """The texts of a leaf, clean or noisy.

        Arguments:
            token: Token ids, `(rows,)`; K is a masked one.
            counts: Rows of each text.
        """
        ids = np.split(token.cpu().numpy(), np.cumsum(counts)[:-1])
        return [self.vocabulary.decode(one) for one in ids[: len(counts)]]

    def state(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {"vocabulary": self.vocabulary.state(), "sizes": self.sizes.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """From what `state` gave.

        Raises:
            ValueError: If a part is missing, of another kind or out of range.
        """
        try:
            vocabulary = vocabulary_from_state(state["vocabulary"])
            sizes = SizeLaw.from_state(state["sizes"])
            fault = _fault(sizes)
        except KeyError as error:
            fault = f"{error} is missing"
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            fault = str(error)
        if fault:
            msg = f"this is not the state of a text codec: {fault}"
            raise ValueError(msg)
        return cls(vocabulary, sizes)


def _fault(sizes: SizeLaw) -> str:
    """What is out of range in a law of lengths."""
    histogram = np.asarray(sizes.histogram)
    counted = histogram.ndim == 1 and histogram.dtype.kind in "iu" and histogram.size > 1
    if not counted or histogram.min() < 0 or not histogram[-1] or histogram[0]:
        return "sizes.histogram must count the texts of each length, from 0 (of which none is)"
    return "sizes.tables must be empty" if sizes.tables else ""


def _encoded(vocabulary: Vocabulary, texts: list[str]) -> list[NDArray[np.int64]]:
    """The tokens of each text.

    Raises:
        ValueError: If one has none, or something that there is no token for.
    """
    ids = []
    for number, text in enumerate(texts, 1):
        try:
            ids.append(vocabulary.encode(text))
        except ValueError as error:
            msg = f"text {number} of {len(texts)}: {error}"
            raise ValueError(msg) from None
        if not len(ids[-1]):
            msg = f"text {number} of {len(texts)} is empty: leave it out"
            raise ValueError(msg)
    return ids
