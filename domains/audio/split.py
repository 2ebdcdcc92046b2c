"""Which sounds are for training, for validation and for the test.

By *number*: of each class and speaker the first numbers are for the test, the next for validation;
with a tenth for the test and fifty recordings each, those of the numbers 0 to 4: the split of the
Free Spoken Digit Dataset. By *speaker*: no speaker is in two parts. By *content*: a digest of its
wave says the part of a sound, so equal sounds are in one part.

References:
    Free Spoken Digit Dataset (Jackson et al., 2018). https://github.com/Jakobovski/free-spoken-digit-dataset
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.audio.labels import Words, words_of
from structdiff.domains.audio.sounds import Sound

__all__ = ["By", "Split", "split"]

By = Literal["auto", "number", "speaker", "content"]
"""What says the part of a sound."""

Integers = NDArray[np.int64]


class Split(NamedTuple):
    """The sounds of each part."""

    train: Integers
    validation: Integers
    test: Integers


def split(sounds: Sequence[Sound], by: By, validation: float, test: float, seed: int) -> Split:
    """A split of sounds.

    Arguments:
        sounds: The sounds.
        by: What says their part; by default their numbers, where all names have one, else their
            content.
        validation: Share of them.
        test: Share of them.
        seed: Of the order of speakers and contents.

    Raises:
        ValueError: If their names do not have what is asked for.
    """
    words = [words_of(sound.name) for sound in sounds]
    known = [word for word in words if word is not None]
    if by == "auto":
        by = "number" if known and len(known) == len(words) else "content"
    if by != "content" and len(known) < len(words):
        missing = sounds[words.index(None)].name
        msg = (
            f"data.split_by {by} needs names like 7_jackson_32, got {missing!r}: rename it, or "
            "split by content"
        )
        raise ValueError(msg)
    make: Mapping[str, Callable[[], list[float]]] = {
        "number": lambda: _by_number(known),
        "speaker": lambda: _spread([word.speaker for word in known], seed),
        "content": lambda: _spread([sound.wave.tobytes() for sound in sounds], seed),
    }
    place = np.array(make[by]())
    tested = place < test - 1e-9
    looked_at = ~tested & (place < test + validation - 1e-9)
    rest = ~tested & ~looked_at
    return Split(*(np.flatnonzero(part) for part in (rest, looked_at, tested)))


def _by_number(words: Sequence[Words]) -> list[float]:
    """How far each is in the numbers of its class and speaker, in [0, 1)."""
    groups: dict[tuple[str, str], list[int]] = {}
    for word in words:
        groups.setdefault((word.label, word.speaker), []).append(word.number)
    ranked = {
        group: {number: rank for rank, number in enumerate(sorted(set(numbers)))}
        for group, numbers in groups.items()
    }
    return [
        ranked[word.label, word.speaker][word.number] / len(ranked[word.label, word.speaker])
        for word in words
    ]


def _spread(keys: Sequence[str] | Sequence[bytes], seed: int) -> list[float]:
    """A place in [0, 1) for each key: how many sounds come before it in an order of the seed."""
    digests: list[Hashable] = [_digest(key, seed) for key in keys]
    first: dict[Hashable, int] = {}
    for place, digest in enumerate(sorted(digests)):  # type: ignore[type-var]
        first.setdefault(digest, place)
    return [first[digest] / len(keys) for digest in digests]


def _digest(key: str | bytes, seed: int) -> bytes:
    content = key.encode() if isinstance(key, str) else key
    return blake2b(content, digest_size=16, key=str(seed).encode()).digest()
