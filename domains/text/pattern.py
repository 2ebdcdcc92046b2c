"""Prompts with gaps: `To be {6} not to be`, where `{6}` stands for six unknown tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.vocabulary import MASK, Vocabulary

__all__ = ["Pattern", "beginning", "parse_pattern"]

_LIMIT = 1_000_000  # tokens of a gap

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_HOW = "write {6} for six unknown tokens, and {{ or }} for a brace"


@dataclass(frozen=True, eq=False)
class Pattern:
    """Tokens of which some are known.

    Arguments:
        ids: Token ids, `(tokens,)`; K, the masked one, where nothing is known.
        known: Where they are known, `(tokens,)`.
    """

    ids: NDArray[np.int64]
    known: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    def extended(self, length: int, mask: int) -> Pattern:
        """The pattern with unknown tokens after its end, up to a length.

        Arguments:
            length: Tokens in all.
            mask: K, the id of an unknown token.

        Raises:
            ValueError: If the pattern is longer.
        """
        more = length - len(self)
        if more < 0:
            msg = f"the pattern has {len(self)} tokens, {length} are the most: shorten it"
            raise ValueError(msg)
        return Pattern(
            np.concatenate([self.ids, np.full(more, mask)]),
            np.concatenate([self.known, np.zeros(more, np.bool_)]),
        )


def parse_pattern(
    text: str, vocabulary: Vocabulary, *, length: int | None = None, extend: bool = False
) -> Pattern:
    """The tokens of a pattern.

    Between gaps the text is cut into tokens by itself: with sub-words, other tokens may spell the
    same words where the text is whole.

    Arguments:
        text: What is known, with `{n}` for n unknown tokens; `{{` and `}}` are braces.
        vocabulary: What text is made of.
        length: The most tokens that the model has; any number without one.
        extend: Whether unknown tokens are added up to `length`.

    Raises:
        ValueError: If a gap is not a number, all is known or nothing, or there are more tokens
            than `length`.

    Example:
        >>> from structdiff.domains.text.tokens import Characters
        >>> letters = Characters.fit(["abc {}"])
        >>> pattern = parse_pattern("ab{2}{{", letters)
        >>> letters.decode(pattern.ids), pattern.known.tolist()
        ('ab██{', [True, True, False, False, True])
    """
    ids = _ids(text, vocabulary)
    if length is not None and len(ids) > length:
        msg = f"given has {len(ids)} tokens, the model's texts have at most {length}: shorten it"
        raise ValueError(msg)
    pattern = Pattern(ids, ids != vocabulary.size)
    if extend and length is not None:
        pattern = pattern.extended(length, vocabulary.size)
    if not pattern.known.any():
        msg = f"given = {text!r} has no known token: leave it out, or {_HOW}"
        raise ValueError(msg)
    if pattern.known.all():
        msg = f"given = {text!r} has no unknown token, so there is nothing to draw: {_HOW}"
        raise ValueError(msg)
    return pattern


def beginning(text: str, vocabulary: Vocabulary, length: int) -> tuple[Pattern, int]:
    """The pattern of a window of running text that begins so.

    Arguments:
        text: As in `parse_pattern`.
        vocabulary: What text is made of.
        length: Tokens of the window.

    Returns:
        The pattern of the whole window, and how many of its tokens are meant: those that the text
        names, or all of them where it names none that is unknown, as in `The end of`.

    Raises:
        ValueError: As `parse_pattern`.

    Example:
        >>> from structdiff.domains.text.tokens import Characters
        >>> letters = Characters.fit(["abc"])
        >>> [beginning(text, letters, 5)[1] for text in ("a{2}", "abc")]
        [3, 5]
    """
    pattern = parse_pattern(text, vocabulary, length=length, extend=True)
    named = len(_ids(text, vocabulary))
    return pattern, length if pattern.known[:named].all() else named


def _ids(text: str, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """The tokens of a pattern; K where one is unknown.

    Raises:
        ValueError: If it is no string, or a gap is not a number.
    """
    if not isinstance(text, str):
        msg = f"given must be a string, got {text!r}: {_HOW}"
        raise ValueError(msg)
    if MASK in text:
        msg = f"given has a {MASK}, which stands for an unknown token in what is printed: {_HOW}"
        raise ValueError(msg)
    parts = [
        np.full(part, vocabulary.size) if isinstance(part, int) else _encoded(part, vocabulary)
        for part in _parts(text)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _encoded(text: str, vocabulary: Vocabulary) -> NDArray[np.int64]:
    try:
        return vocabulary.encode(text)
    except ValueError as error:
        msg = f"given: {error}"
        raise ValueError(msg) from None


def _parts(text: str) -> list[str | int]:
    """Pieces of text, and lengths of gaps.

    Raises:
        ValueError: If a brace is alone, or a gap is not a positive number.
    """
    parts: list[str | int] = []
    letters, last = "", 0
    for match in _PART.finditer(text):
        letters += text[last : match.start()]
        last = match.end()
        if match[0] in ("{{", "}}"):
            letters += match[0][0]
            continue
        number = match[1]
        if number is None:
            msg = f"given has a {match[0]} alone, at character {match.start() + 1}: {_HOW}"
            raise ValueError(msg)
        if not (number.isascii() and number.isdigit() and 0 < int(number[:9]) <= _LIMIT):
            where = f"at character {match.start() + 1}"
            msg = f"given has {match[0]}, {where}, which is not a number of tokens: {_HOW}"
            raise ValueError(msg)
        parts += [letters, int(number)] if letters else [int(number)]
        letters = ""
    letters += text[last:]
    return [*parts, letters] if letters else parts
