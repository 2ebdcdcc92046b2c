"""Where text comes from: the embedded topics of Python's help, anyone's files and folders.

Text is read, made into tokens and written to the disk once, piece by piece; windows of it are read
from there. So memory does not grow with the corpus, except by the order of its samples that a
`Source` draws: 8 bytes for each of at most four million windows.

*Running* text is cut in order: the first 90 % of the tokens are for training, the next 5 % for
validation, the last 5 % for the test. Its samples are windows of one length: side by side for
validation and test, so that each token counts once; at every eighth of a window for training, so
that no word has one place in its window. With *lines* each line that is not empty is a document; a
digest of its content says its part, so equal lines are in one part, wherever they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.text.cache import (
    Entry,
    Part,
    Writer,
    cache_folder,
    ends_file,
    entry_name,
    mapped,
    opened,
)
from structdiff.domains.text.corpus import Corpus, token_counts
from structdiff.domains.text.files import TextFile, digest, embedded, joined, lines, text_files
from structdiff.domains.text.subwords import word_boundary
from structdiff.domains.text.tokens import (
    Bytes,
    Characters,
    Subwords,
    Vocabulary,
    vocabulary_from_state,
)

__all__ = ["TOKENS", "Corpus", "Data", "Documents", "read", "stride_of"]

TOKENS = ("characters", "bytes", "bpe", "wordpiece")
"""Kinds of tokens; the path of a tokenizer.json is another."""

Documents = Literal["running", "lines"]

_PARTS = ("train", "validation", "test")
_FITTED = 50_000_000  # characters that sub-words are fitted to
_WINDOWS = 1 << 22
_PATIENCE = 1 << 20  # characters without a boundary after which a text is cut anywhere


@dataclass(frozen=True, eq=False)
class Data:
    """A text in three parts.

    Arguments:
        train: What is trained on.
        validation: What is looked at meanwhile; it may have no window.
        test: What is judged on.
        vocabulary: Tokens, with their counts in the part for training.
        name: Where the text is from.
        notes: What one should know of how it was read.
    """

    train: Corpus
    validation: Corpus
    test: Corpus
    vocabulary: Vocabulary
    name: str
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """How much text there is, and the notes."""
        sizes = ", ".join(
            f"{len(part.tokens):,} {name}"
            for name, part in zip(_PARTS, (self.train, self.validation, self.test), strict=True)
        )
        head = f"{self.name}: tokens {sizes}; vocabulary of {self.vocabulary.size}"
        return "\n".join([head, *self.notes])


def read(
    path: Path | str | None = None,
    *,
    tokens: str = "characters",
    vocabulary_size: int = 4096,
    documents: Documents = "running",
    length: int = 256,
    vocabulary: Vocabulary | None = None,
    cache: Path | str | None = None,
) -> Data:
    """Reads a text and splits it.

    The characters of a vocabulary are those of the whole text, so that every part can be read; its
    counts are of the part for training. Sub-words are fitted to the first 50 million characters.

    Arguments:
        path: A file of UTF-8 text, plain, .gz or .xz; a folder of such files (.txt, .text, .md,
            .rst), read in the order of their names; without one, the topics of Python's `help()`.
        tokens: What the text is cut into: characters, bytes, bpe, wordpiece, or the path of a
            tokenizer.json.
        vocabulary_size: Number of tokens of bpe or wordpiece.
        documents: Whether the text is running, or each line is a document.
        length: Tokens of a window of running text, and the most of a document.
        vocabulary: A vocabulary to use in place of a new one; it gets the counts of this text.
        cache: Folder in which tokens are kept for the next start; anything in it may be deleted.
            By default `text` in $STRUCTDIFF_CACHE, or in ~/.cache/structdiff.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the text cannot be read or is too short, or an argument is out of range.

    Example:
        >>> data = read(length=64)
        >>> len(data.train.window(0)), data.vocabulary.size > 90
        (64, True)
    """
    if length < 1:
        msg = f"length must be at least 1, got {length}"
        raise ValueError(msg)
    if documents not in ("running", "lines"):
        msg = f"documents must be running or lines, got {documents!r}"
        raise ValueError(msg)
    files = [embedded()] if path is None else text_files(path)
    name = files[0].name if path is None else str(path)
    kind = _kind(tokens, vocabulary_size) if vocabulary is None else vocabulary.state()
    folder = cache_folder() if cache is None else Path(cache)
    folder = folder / entry_name(digest(files), kind, documents)
    entry = opened(folder)
    if entry is None:
        errors = (
            "surrogateescape" if kind == ["bytes"] or isinstance(vocabulary, Bytes) else "strict"
        )
        _several((lines if documents == "lines" else joined)(files, errors), name)
        made = vocabulary or _fit(files, tokens, vocabulary_size)
        check = _check(name, documents, length)
        entry = _write(folder, files, made, documents, check)
    else:
        _check(name, documents, length)(entry.parts, entry.vocabulary["counts"])
    return _data(folder, entry, name, documents, length)


def _several(texts: Iterable[str], name: str) -> None:
    """Refuses a text of one character, however often it stands there."""
    seen = set[str]()
    for text in texts:
        seen |= set(text)
        if len(seen) > 1:
            return
    if not seen:
        return
    msg = f"{name} has only one distinct character, {min(seen)!r}: give a text to learn from"
    raise ValueError(msg)


def _kind(tokens: str, size: int) -> list[str | int]:
    """What the vocabulary of a text follows from.

    Raises:
        ValueError: If there are no such tokens.
    """
    if tokens in ("bpe", "wordpiece"):
        return [tokens, size]
    if tokens in TOKENS:
        return [tokens]
    if not tokens.endswith(".json"):
        msg = (
            f"data.tokenizer must be one of {', '.join(TOKENS)}, or the path of a tokenizer.json, "
            f"got {tokens!r}"
        )
        raise ValueError(msg)
    return ["file", Subwords.load(tokens).definition]


def _fit(files: list[TextFile], tokens: str, size: int) -> Vocabulary:
    """The vocabulary of a text, all of which is looked at, so that what is wrong is found here."""
    if tokens == "characters":
        return Characters.fit(joined(files))
    if tokens == "bytes":
        return Bytes()
    if tokens.endswith(".json"):
        return Subwords.load(tokens)
    kind: Literal["bpe", "wordpiece"] = "bpe" if tokens == "bpe" else "wordpiece"
    return Subwords.train(_Beginning(files), size, kind)


class _Beginning:
    """The first characters of files, in pieces of whole words, any number of times."""

    def __init__(self, files: list[TextFile]) -> None:
        self.files = files

    def __iter__(self) -> Iterator[str]:
        left = _FITTED
        for text in _cut(joined(self.files), word_boundary):
            yield text[:left]
            left -= len(text)
            if left <= 0:
                return


Check = Callable[[Any, Any], None]


def _check(name: str, documents: Documents, length: int) -> Check:
    """Refuses a text that nothing can be learned from."""

    def check(parts: dict[str, Part], counts: list[int]) -> None:
        train = parts["train"]
        if documents == "lines" and not train.documents:
            msg = f"{name} has no line for training: give more lines, or data.documents running"
            raise ValueError(msg)
        if documents == "running" and train.count < length:
            whole = sum(part.count for part in parts.values())
            shorter = f", or data.length up to {train.count}" if train.count > 1 else ""
            msg = (
                f"{name} has {whole} {'token' if whole == 1 else 'tokens'}, of which "
                f"{train.count} {'is' if train.count == 1 else 'are'} for training: fewer than "
                f"one window of {length}; give more text{shorter}"
            )
            raise ValueError(msg)
        if sum(count > 0 for count in counts) < 2:
            msg = (
                f"{name} has only one distinct token in the part for training: there is nothing "
                "to learn; give a text with more"
            )
            raise ValueError(msg)

    return check


def _write(
    folder: Path, files: list[TextFile], vocabulary: Vocabulary, documents: Documents, check: Check
) -> Entry:
    """Writes the tokens of a text, unless there is something wrong with it."""
    errors = "surrogateescape" if isinstance(vocabulary, Bytes) else "strict"
    with Writer(folder, vocabulary.size) as writer:
        if documents == "lines":
            texts = lines(files, errors)
            parts = writer.documents(texts, vocabulary.encode_any, _part_of, _PARTS)
        else:
            count = writer.running(_encoded(joined(files, errors), vocabulary))
            cuts = [0, count * 9 // 10, count * 19 // 20, count]
            parts = {
                name: Part("tokens", cuts[i], cuts[i + 1] - cuts[i])
                for i, name in enumerate(_PARTS)
            }
        counts = token_counts(writer.tokens(parts["train"]), vocabulary.size)
        check(parts, counts.tolist())
        return writer.keep(vocabulary.counted(counts).state(), parts)


def _part_of(line: str) -> str:
    """One line in twenty is for the test and one for validation, by a digest of its content."""
    number = (
        int.from_bytes(
            blake2b(line.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little"
        )
        % 20
    )
    return {0: "test", 1: "validation"}.get(number, "train")


def _encoded(texts: Iterable[str], vocabulary: Vocabulary) -> Iterator[NDArray[np.int64]]:
    """The tokens of a text that comes in pieces.

    Raises:
        ValueError: If the vocabulary has no token for something; it says where in the whole text.
    """
    done = 0
    for text in _cut(texts, vocabulary.boundary):
        yield _piece(text, vocabulary, done)
        done += len(text)


def _cut(texts: Iterable[str], boundary: Callable[[str], int]) -> Iterator[str]:
    """The same text in pieces that end at boundaries, where there are any."""
    rest = ""
    for text in texts:
        rest += text
        cut = boundary(rest) or (len(rest) if len(rest) > _PATIENCE else 0)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _piece(text: str, vocabulary: Vocabulary, done: int) -> NDArray[np.int64]:
    try:
        return vocabulary.encode_any(text)
    except ValueError as error:
        if not done:
            raise
        msg = f"after the first {done} characters of the text: {error}"
        raise ValueError(msg) from None


def _data(folder: Path, entry: Entry, name: str, documents: Documents, length: int) -> Data:
    vocabulary = vocabulary_from_state(entry.vocabulary)
    corpora = []
    for part in (entry.parts[which] for which in _PARTS):
        tokens = mapped(folder / part.tokens, entry.kind, part.start, part.count)
        ends = None
        if documents == "lines":
            ends = mapped(ends_file(folder, part), "<i8", 0, part.documents)
        corpora.append(Corpus(tokens, ends, length, length, vocabulary))
    train, validation, test = corpora
    train = train.with_stride(stride_of(len(train.tokens), length))
    notes = list(_notes(train, validation, test))
    return Data(train, validation, test, vocabulary, name, tuple(notes))


def stride_of(tokens: int, length: int) -> int:
    """How far apart windows for training begin, in a text of so many tokens."""
    return min(length, max(length // 8, -(-tokens // _WINDOWS), 1))


def _notes(train: Corpus, validation: Corpus, test: Corpus) -> Iterator[str]:
    for name, part in (("validation", validation), ("test", test)):
        if not len(part):
            what = "window" if part.ends is None else "line"
            yield f"the part for {name}, {len(part.tokens)} tokens, has no {what}"
    if (unknown := train.vocabulary.unknown) is not None and train.vocabulary.counts[unknown]:
        many, name = train.vocabulary.counts[unknown], train.vocabulary.decode([unknown])
        yield f"{many} tokens for training are {name}: the vocabulary cannot spell these words"
    longer = sum(part.longer() for part in (train, validation, test))
    if longer:
        yield f"{longer} lines have more than {train.length} tokens: the rest of them is left out"
