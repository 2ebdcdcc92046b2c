"""Properties of molecules in words: what is known, and whether a model could be asked for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdiff.codecs import Condition

__all__ = ["describe", "usable"]

_WORD = 24  # characters of a class


def describe(values: NDArray[Any]) -> tuple[str, str]:
    """A line about a property, and what looks wrong with it, or "".

    Arguments:
        values: Numbers, `(molecules,)` or `(molecules, d)`, or words, as in `Structures`.

    Example:
        >>> describe(np.array([1.0, 3.0]))
        ('known of 2 of 2; mean 2, sd 1, 1 to 3', '')
    """
    return _words(values) if values.dtype.kind in "US" else _numbers(values)


def usable(name: str, values: NDArray[Any]) -> bool:
    """Whether training would take a property as a condition, and it says something."""
    if "cannot be a condition" in describe(values)[1]:
        return False
    try:
        condition = Condition.fit(name, values)
    except ValueError:
        return False
    return not _is_name(len(condition.classes), len(values))


def _is_name(classes: int, known: int) -> bool:
    return classes > max(20, known / 10)


def _numbers(values: NDArray[Any]) -> tuple[str, str]:
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    known = table[np.isfinite(table).all(1)]
    says = f"known of {len(known):,} of {len(table):,}"
    if not len(known):
        return says, "is known of no molecule: it cannot be a condition"
    parts = [
        f"mean {x.mean():.4g}, sd {x.std():.4g}, {x.min():.4g} to {x.max():.4g}"
        for x in known.T[:4]
    ]
    more = f" | and {table.shape[1] - 4} more" if table.shape[1] > 4 else ""
    says = f"{says}; {' | '.join(parts)}{more}"
    if (np.ptp(known, 0) == 0).any():
        return says, "is constant: it cannot be a condition"
    far = (np.abs(known - known.mean(0)) > 10 * known.std(0)).any(1)
    if far.any():
        return says, f"has {int(far.sum())} value(s) beyond 10 standard deviations"
    missing = len(table) - len(known)
    return says, f"is not known of {missing / len(table):.1%}" if missing else ""


def _words(values: NDArray[Any]) -> tuple[str, str]:
    counts = Counter(str(word) for word in values.tolist() if word)
    known = sum(counts.values())
    shown = ", ".join(f"{_short(word)} x {n:,}" for word, n in counts.most_common(5))
    more = f", and {len(counts) - 5} more" if len(counts) > 5 else ""
    says = f"{len(counts)} classes, known of {known:,} of {len(values):,}: {shown}{more}"
    if len(counts) < 2:
        return says, "has fewer than 2 classes: it cannot be a condition"
    if _is_name(len(counts), known):
        return says, f"has {len(counts):,} classes for {known:,} molecules: it is rather a name"
    return says, ""


def _short(word: str) -> str:
    return word if len(word) <= _WORD else f"{word[:_WORD]}..."
