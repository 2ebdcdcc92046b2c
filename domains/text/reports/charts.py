"""Plots of an evaluation of text: bits beside n-gram models, distances beside real text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from structdiff.domains.text.metrics import Distance
from structdiff.reports.charts import COLOURS, DATA, framed, keep

__all__ = ["measures"]


def measures(bits: Mapping[str, float], distances: Mapping[int, Distance], path: Path) -> None:
    """Draws bits of held-out text by model, and distances of n-grams by n.

    Arguments:
        bits: Name of a model to its bits; that of the run is the last.
        distances: Of generated text from real text, see `ngram_distances`.
        path: The PNG to write.
    """
    figure, (left, right) = framed(2)
    place = np.arange(len(bits))
    left.bar(place[:-1], [*bits.values()][:-1], 0.7, color=DATA, label="n-gram models")
    left.bar(place[-1:], [*bits.values()][-1:], 0.7, color=COLOURS[0], label="the run, a bound")
    left.set_xticks(place, [*bits])
    left.set(title="held-out text", ylabel="bits a character")
    orders = np.array([*distances])
    real = [one.jensen_shannon for one in distances.values()]
    base = [one.baseline_jensen_shannon for one in distances.values()]
    right.bar(orders - 0.2, base, 0.38, color=DATA, label="as much real text")
    right.bar(orders + 0.2, real, 0.38, color=COLOURS[0], label="drawn")
    right.set_xticks(orders)
    right.set(
        title="distance of n-grams from real text", xlabel="n", ylabel="Jensen-Shannon, bits"
    )
    keep(figure, path)
