"""Pieces of words, by a tokenizer of the library `tokenizers`, which is imported when one is used.

References:
    Neural Machine Translation of Rare Words with Subword Units (Sennrich, Haddow, Birch, 2016)
    https://arxiv.org/abs/1508.07909
    Byte-level pieces, which lose nothing: Language Models are Unsupervised Multitask Learners
    (Radford et al., 2019), section 2.2.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.vocabulary import Vocabulary, begins, utf8

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["Subwords", "word_boundary"]

_UNKNOWN, _INSIDE = "[UNK]", "##"  # the latter before a piece that continues a word
_LETTERS = 1000  # characters of word pieces, the most frequent
_FEWEST = 257  # a byte-level vocabulary has the 256 bytes and at least one piece
_NEAR = 1000  # characters in which one without a piece is looked for
_TAIL = 1 << 16  # characters at the end of a text in which a boundary is looked for


@dataclass(frozen=True)
class Subwords(Vocabulary):
    """Pieces of words, by a tokenizer of the library `tokenizers`.

    Arguments:
        definition: The content of its tokenizer.json.

    Raises:
        ValueError: If it is not one, or has no token.
        ImportError: If `tokenizers` is not installed.
    """

    definition: str = ""

    def __post_init__(self) -> None:
        if not self._tokenizer.get_vocab_size():
            msg = "this is the definition of a tokenizer without a token: train it first"
            raise ValueError(msg)

    @classmethod
    def train(
        cls, texts: Iterable[str], size: int, kind: Literal["bpe", "wordpiece"] = "bpe"
    ) -> Self:
        """Fit a tokenizer: byte-level pair encoding, which gives every text back, or word pieces.

        Word pieces drop how words are separated: text comes back with single spaces, around
        punctuation too, and a word with an unknown character as `[UNK]`.

        Arguments:
            texts: The training text, in pieces; read twice for word pieces.
            size: Number of tokens; fewer where the text has fewer pieces that repeat.
            kind: Which of the two.

        Raises:
            ValueError: If the size is too small to hold the bytes, and a piece more.
        """
        if kind == "bpe" and size < _FEWEST:
            msg = (
                f"data.vocabulary must be at least {_FEWEST} for bpe, the 256 bytes and a pair of "
                f"them, got {size}: give more, or use --data.tokenizer bytes"
            )
            raise ValueError(msg)
        tokenizer = (_byte_pairs if kind == "bpe" else _word_pieces)(texts, size)
        return cls((), tokenizer.to_str())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The tokenizer of a tokenizer.json.

        Raises:
            ValueError: If the file cannot be read or is not one.
        """
        try:
            return cls((), Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            msg = f"cannot read {path} as the tokenizer.json of a tokenizer: {reason}"
            raise ValueError(msg) from None

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        library = _library()
        try:
            tokenizer: Tokenizer = library.Tokenizer.from_str(self.definition)
        except Exception as error:  # the library raises nothing more special
            msg = f"this is not the definition of a tokenizer: {error}"
            raise ValueError(msg) from None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def size(self) -> int:
        """Number of tokens, with those that a gap in their numbers leaves out."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @cached_property
    def unknown(self) -> int | None:
        """The token that stands for what has no piece, such as `[UNK]`."""
        model = json.loads(self.definition)["model"]
        if model.get("unk_token") is None:
            place = model.get("unk_id")
            return None if place is None else int(place)
        found = self._tokenizer.token_to_id(model["unk_token"])
        return None if found is None else int(found)

    @cached_property
    def _pieces(self) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in range(self.size)]

    @cached_property
    def widths(self) -> NDArray[np.int64]:
        """Characters that begin in each token.

        Exact for byte-level tokens. A word piece that does not continue a word counts the space
        before it too, so their sum is right to the number of spaces that are not single.
        """
        decoder = (json.loads(self.definition).get("decoder") or {}).get("type")
        if decoder == "ByteLevel":
            values = [int(begins(np.array(_raw(piece))).sum()) for piece in self._pieces]
        elif decoder == "WordPiece":
            values = [len(p) - 2 if p.startswith(_INSIDE) else len(p) + 1 for p in self._pieces]
        else:
            values = [len(piece) for piece in self._pieces]
        return np.array(values, np.int64)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The tokens of a text, with none added.

        Raises:
            ValueError: If there is no piece for something in it, or it has half a surrogate pair,
                which UTF-8 has no bytes for.
        """
        found = self._encoding(text)
        ids = np.array(found.ids, np.int64)
        wrong = np.flatnonzero(ids == self.unknown) if self.unknown is not None else ids[:0]
        if len(wrong):
            raise ValueError(self._missing(text, *found.offsets[int(wrong[0])]))
        return ids

    def encode_any(self, text: str) -> NDArray[np.int64]:
        """The same with the unknown token for what there is no piece for.

        Raises:
            ValueError: If there is no unknown token either, and something would be left out.
        """
        return np.array(self._encoding(text).ids, np.int64)

    def _encoding(self, text: str) -> Encoding:
        """The pieces and their places, which leave out nothing but spaces.

        Raises:
            ValueError: If they do.
        """
        found = self._tokenizer.encode(utf8(text).decode(), add_special_tokens=False)
        places = np.array(found.offsets, np.int64).reshape(-1, 2)
        change = np.zeros(len(text) + 1, np.int64)
        np.add.at(change, places[:, 0], 1)
        np.add.at(change, places[:, 1], -1)
        cut = self._tokenizer.pre_tokenizer is not None or self._tokenizer.normalizer is not None
        for place in np.flatnonzero(np.cumsum(change[:-1]) == 0).tolist():
            if not (cut and text[place].isspace()) and not self._composed(text[place]):
                first = self._left_out(text, place)
                raise ValueError(self._missing(text, first, first + 1))
        return found

    def _left_out(self, text: str, place: int) -> int:
        """The first character without a piece; the places of a word are counted without it."""
        near = range(max(place - _NEAR, 0), place)
        return next((i for i in near if not self._tokenizer.encode(text[i]).ids), place)

    def _composed(self, letter: str) -> bool:
        """Whether a mark may have become part of the letter before it."""
        return bool(unicodedata.combining(letter)) and self._tokenizer.normalizer is not None

    def _missing(self, text: str, start: int, end: int) -> str:
        near = text[max(start - 10, 0) : start + 10]
        return (
            f"the vocabulary has no pieces for {text[start:end][:40]!r}, at character "
            f"{start + 1}, in {near!r}: replace it, or train with --data.tokenizer "
            "bytes, which has all"
        )

    def spell(self, ids: NDArray[np.int64]) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def boundary(self, text: str) -> int:
        """The last space or line end that follows a letter: no piece reaches over it."""
        return word_boundary(text)

    def state(self) -> dict[str, Any]:
        """The definition and the counts."""
        return {"kind": "subwords", "definition": self.definition, "counts": list(self.counts)}


def word_boundary(text: str) -> int:
    """The last space or line end that follows something else, near the end of a text; or 0."""
    places = [match.start() for match in re.finditer(r"(?<=\S)[ \n]", text[-_TAIL:])]
    return max(len(text) - _TAIL, 0) + places[-1] if places else 0


def _raw(piece: str) -> list[int]:
    """The bytes of a byte-level token.

    Printable bytes of Latin-1 stand for themselves, the others in turn for U+0100 and up.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    places = {chr(byte): byte for byte in shown}
    places |= {chr(256 + i): byte for i, byte in enumerate(hidden)}
    return [places[letter] for letter in piece if letter in places]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        msg = "sub-words need the library tokenizers: pip install 'structdiff[text]'"
        raise ImportError(msg) from None
    return tokenizers


def _byte_pairs(texts: Iterable[str], size: int) -> Tokenizer:
    """Byte-level pair encoding."""
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_pieces(texts: Iterable[str], size: int) -> Tokenizer:
    """Word pieces.

    The library numbers the letters that continue a word in no fixed order, and what it merges
    depends on their numbers. Given as special tokens they have fixed ones; a tokenizer of the
    vocabulary alone then has no special tokens.
    """
    library = _library()
    counts = Counter(letter for text in texts for letter in text if not letter.isspace())
    letters = sorted(sorted(counts), key=lambda letter: -counts[letter])[:_LETTERS]
    inside = [f"{_INSIDE}{letter}" for letter in sorted(letters)]
    trained = _words(library.models.WordPiece(unk_token=_UNKNOWN))
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[_UNKNOWN, *inside],
        limit_alphabet=_LETTERS,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return _words(library.models.WordPiece(trained.get_vocab(), unk_token=_UNKNOWN))


def _words(model: Any) -> Tokenizer:
    """A tokenizer that looks at words and marks of punctuation one by one."""
    library = _library()
    tokenizer: Tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece(cleanup=False)
    return tokenizer
