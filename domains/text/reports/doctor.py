"""Looking at text before training."""

from __future__ import annotations

import numpy as np

from structdiff.domains.text.data import Data
from structdiff.domains.text.recipe import TextConfig
from structdiff.domains.text.reports.measuring import decoded, reference_bits
from structdiff.domains.text.run import load_data
from structdiff.domains.text.tokens import Characters

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
    data = load_data(TextConfig.model_validate({"data": {"path": path}}))
    lines = [data.report, "", *_characters(data), "", *_windows(data)]
    return "\n".join(lines)


def _characters(data: Data) -> list[str]:
    letters = Characters.fit(text for part in (data.train, data.test) for text in decoded(part))
    counts = np.asarray(letters.counts)
    order = np.argsort(-counts, kind="stable")
    named = [letters.alphabet[i] for i in order.tolist()]
    shares = [
        f"{letter!r} {counts[i] / counts.sum():.1%}"
        for letter, i in zip(named[:_SHOWN], order.tolist(), strict=False)
    ]
    lines = [f"the commonest characters: {', '.join(shares)}"]
    rare = [letter for letter, i in zip(named, order.tolist(), strict=True) if counts[i] < 5]
    if rare:
        some = " ".join(map(repr, rare[:_SHOWN]))
        lines.append(f"{len(rare)} characters occur fewer than 5 times: {some}")
    control = [letter for letter in named if not _plain(letter)]
    if control:
        names = ", ".join(map(repr, control[:_SHOWN]))
        lines.append(f"control characters: {names}; remove them if they are not meant")
    return lines


def _plain(character: str) -> bool:
    return character in "\n\t" or character.isprintable()


def _windows(data: Data) -> list[str]:
    lines = [
        f"{len(data.train):,} windows of {data.train.length} tokens for training, "
        f"{len(data.validation):,} for validation, {len(data.test):,} for the test"
    ]
    for name, bits in reference_bits(data, data.test).items() if len(data.test.tokens) else ():
        lines.append(f"a {name} model takes {bits:.3f} bits a character of the test")
    return lines
