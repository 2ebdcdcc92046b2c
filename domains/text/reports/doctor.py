"""Looking at text before training."""

from __future__ import annotations

import numpy as np

from structdiff.domains.text.data import Data, read
from structdiff.domains.text.ngram import NGram

__all__ = ["examine"]

_SHOWN = 12


def examine(path: str) -> str:
    """What training with the default settings would do with a text, in words.

    Arguments:
        path: What training would be given as data.path.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If nothing in it can be trained on.
    """
    data = read(path)
    lines = [data.report, "", *_vocabulary(data), "", *_windows(data)]
    return "\n".join(lines)


def _vocabulary(data: Data) -> list[str]:
    counts = np.asarray(data.vocabulary.counts)
    order = np.argsort(-counts, kind="stable")
    shares = [
        f"{data.vocabulary.decode([i])!r} {counts[i] / counts.sum():.1%}"
        for i in order[:_SHOWN].tolist()
    ]
    rare = order[(counts[order] > 0) & (counts[order] < 5)].tolist()
    unseen = int((counts == 0).sum())
    lines = [f"the commonest characters: {', '.join(shares)}"]
    if rare:
        some = " ".join(repr(data.vocabulary.decode([i])) for i in rare[:_SHOWN])
        lines.append(f"{len(rare)} characters occur fewer than 5 times: {some}")
    if unseen:
        lines.append(f"{unseen} characters occur in held-out text only: they cannot be learned")
    control = [i for i in order.tolist() if not _plain(data.vocabulary.decode([i]))]
    if control:
        names = ", ".join(repr(data.vocabulary.decode([i])) for i in control[:_SHOWN])
        lines.append(f"control characters: {names}; remove them if they are not meant")
    return lines


def _plain(character: str) -> bool:
    return character in "\n\t" or character.isprintable()


def _windows(data: Data) -> list[str]:
    size = data.vocabulary.size
    lines = [
        f"{len(data.train):,} windows of {data.train.length} tokens for training, "
        f"{len(data.validation):,} for validation, {len(data.test):,} for the test"
    ]
    for order in (1, 3):
        if len(data.test.tokens) >= order and len(data.train.tokens) >= order:
            bits = NGram.fit([data.train.tokens], size, order).bits(data.test.tokens)
            lines.append(f"a {order}-gram model takes {bits:.3f} bits a character of the test")
    return lines
