"""Bootstrap intervals of measures: molecules are drawn anew, each with all that it has.

A measure is a function of how often each molecule counts; all ones give its value, rows of
multinomial draws its interval.

References:
    Bootstrap Methods: Another Look at the Jackknife (Efron, 1979).
    https://doi.org/10.1214/aos/1176344552
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from structdiff.domains.molecules.measures.laws import Numbers, Statistic
from structdiff.domains.molecules.reports.report import Row

__all__ = ["Measure", "rows_of"]

_BLOCK = 4_000_000  # numbers held at a time


@dataclass(frozen=True)
class Measure:
    """A row before it has an interval.

    Arguments:
        name: What is measured.
        statistic: From weights `(resamples, molecules)` to values `(resamples,)`.
        size: How many numbers it holds for each resample.
        protocol: How it is measured.
        unit: As in `Row`.
        top: Its largest possible value.
    """

    name: str
    statistic: Statistic
    size: int
    protocol: str
    unit: str
    top: float = np.inf


def rows_of(
    measures: Sequence[Measure], molecules: int, *, resamples: int = 200, seed: int = 0
) -> list[Row]:
    """The measures with 95 % bootstrap intervals over molecules.

    Resampling draws laws apart, so that the interval of a distance is moved: its resamples keep
    their spread and get the value as their mean.

    Arguments:
        measures: What is measured.
        molecules: How many there are.
        resamples: The number of bootstrap resamples.
        seed: Where the resampling starts.
    """
    if not molecules:
        nan = float("nan")
        return [Row(m.name, nan, nan, nan, m.protocol, m.unit) for m in measures]
    random = np.random.default_rng(seed)
    weights = random.multinomial(molecules, np.full(molecules, 1 / molecules), resamples)
    return [_row(measure, weights.astype(np.float64)) for measure in measures]


def _row(measure: Measure, weights: Numbers) -> Row:
    value = float(measure.statistic(np.ones((1, weights.shape[1])))[0])
    step = max(1, _BLOCK // max(1, measure.size))
    parts = [weights[i : i + step] for i in range(0, len(weights), step)]
    drawn = np.concatenate([measure.statistic(part) for part in parts])
    drawn = drawn[np.isfinite(drawn)]
    low = high = float("nan")
    if len(drawn) and np.isfinite(value):
        moved = np.clip(drawn - drawn.mean() + value, 0, measure.top)
        low, high = np.quantile(moved, [0.025, 0.975], method="inverted_cdf").tolist()
        low, high = min(low, value), max(high, value)
    return Row(measure.name, value, low, high, measure.protocol, measure.unit)
