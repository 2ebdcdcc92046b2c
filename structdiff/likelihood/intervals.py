r"""How far a mean or a rate of samples can be trusted: bootstrap intervals.

Samples are drawn anew with replacement, many times; the interval lies between two quantiles of
what the resamples give. It says how the number would vary with other samples of the same kind,
not how it varies with the noise of a Monte-Carlo estimate.

References:
    Bootstrap Methods: Another Look at the Jackknife (Efron, 1979).
    https://doi.org/10.1214/aos/1176344552
    What Teachers Should Know About the Bootstrap (Hesterberg, 2015), section 5.3: intervals of few
    samples, widened. https://doi.org/10.1080/00031305.2015.1089789
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Interval", "ratio"]

_BLOCK = 4_000_000  # numbers held at a time


class Interval(NamedTuple):
    """A value and the ends of its interval."""

    value: float
    low: float
    high: float


def ratio(
    above: ArrayLike,
    below: ArrayLike = 1.0,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The ratio of two sums over samples: a mean or a rate, where the sum below counts samples.

    The interval of one sample is NaN; that of a few very skewed ones is still too narrow.

    Arguments:
        above: A number of each sample, `(samples,)`.
        below: A number of each sample, or one for all; positive.
        level: How much of the resamples the interval holds.
        resamples: How many there are.
        seed: Start of the resampling.

    Raises:
        ValueError: If there are no samples, a number is not finite, one below is not positive, or
            `level` or `resamples` is out of range.

    Example:
        >>> value, low, high = ratio([0.0, 1.0] * 50)
        >>> value, 0.38 < low < 0.42, 0.58 < high < 0.62
        (0.5, True, True)
    """
    table = np.stack(np.broadcast_arrays(np.asarray(above, np.float64), below), axis=-1)
    if table.ndim != 2 or not len(table) or not np.isfinite(table).all():
        msg = "above must be finite numbers, one for each of at least one sample: drop the others"
        raise ValueError(msg)
    if not (table[:, 1] > 0).all():
        msg = "below must be positive for all samples: drop those that have nothing to count"
        raise ValueError(msg)
    if not 0 < level < 1 or resamples < 1:
        msg = f"level must be in (0, 1) and resamples at least 1, got {level} and {resamples}"
        raise ValueError(msg)
    random, sums = np.random.default_rng(seed), []
    for start in range(0, resamples, block := max(1, _BLOCK // len(table))):
        rows = min(block, resamples - start)
        index = random.integers(len(table), size=(rows, len(table)))
        sums.append(table[index].sum(1))
    values = np.concatenate(sums)
    total = table.sum(0)
    value = float(total[0] / total[1])
    if len(table) == 1:
        return Interval(value, float("nan"), float("nan"))
    # Resamples of n spread like n - 1 free numbers: the level is widened as Student's t asks.
    from scipy.special import ndtr, stdtrit  # loads slowly

    n = len(table)
    tail = ndtr(stdtrit(n - 1, (1 - level) / 2) * np.sqrt(n / (n - 1)))
    ends = np.quantile(values[:, 0] / values[:, 1], [tail, 1 - tail])
    return Interval(value, float(ends[0]), float(ends[1]))
