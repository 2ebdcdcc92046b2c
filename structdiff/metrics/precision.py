r"""Are drawn samples like real ones, and do they cover them? Balls around samples say.

Around each sample lies the ball that reaches to its k-th nearest neighbour in its own set. Then

    precision   the share of drawn samples inside some ball of a real one,
    recall      the share of real samples inside some ball of a drawn one,
    density     how many real balls a drawn sample is in, over k,
    coverage    the share of real balls that have a drawn sample inside.

Two samples of one law have a density of 1 in expectation, and, of n real and m drawn ones, a
coverage of 1 - product_{i<k} (n - 1 - i) / (n + m - 1 - i); for k = 5 and n = m some 0.97. What
precision and recall they have depends on the law and the numbers, so it stands beside.

References:
    Improved Precision and Recall Metric for Assessing Generative Models (Kynkaanniemi et al.,
    2019), section 2. https://arxiv.org/abs/1904.06991
    Reliable Fidelity and Diversity Metrics for Generative Models (Naeem et al., 2020), section 3.
    https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.metrics.frechet import Measured, check_features

__all__ = ["Overlap", "expected_coverage", "overlap", "radii"]

_TOGETHER = 1 << 22  # pairs


class Overlap(NamedTuple):
    """How two sets of samples lie in each other's balls; errors take the balls as given."""

    precision: Measured
    recall: Measured
    density: Measured
    coverage: Measured


def radii(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each sample to its k-th nearest neighbour in its set, `(samples,)`.

    Raises:
        ValueError: If there are not more samples than neighbours.
    """
    if not 1 <= neighbours < len(x):
        msg = f"neighbours must be from 1 to {len(x) - 1}, the number of others, got {neighbours}"
        raise ValueError(msg)
    step, found = max(1, _TOGETHER // len(x)), []
    for part in torch.split(x, step):
        far = torch.cdist(part, x)  # a sample is its own nearest, at distance 0
        found.append(far.kthvalue(neighbours + 1, dim=1).values)
    return torch.cat(found)


def overlap(x: Tensor, y: Tensor, neighbours: int = 5) -> Overlap:
    """Precision, recall, density and coverage.

    Arguments:
        x: Features of drawn samples, `(samples, features)`.
        y: Features of real samples.
        neighbours: The k of the balls.

    Raises:
        ValueError: If there are too few, a feature is not finite, or their numbers differ.

    Example:
        >>> y = torch.arange(10.0)[:, None]
        >>> found = overlap(y[:6] + 0.1, y, 1)
        >>> found.precision.value, found.coverage.value
        (1.0, 0.7)
    """
    check_features(x, y)
    x, y = x.double(), y.double()
    around, about = radii(y, neighbours), radii(x, neighbours)
    step, inside = max(1, _TOGETHER // len(y)), []
    covered = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    known = torch.zeros_like(covered)
    for part, reach in zip(torch.split(x, step), torch.split(about, step), strict=True):
        far = torch.cdist(part, y)
        held = far <= around
        inside.append(held.sum(1))
        covered |= held.any(0)
        known |= (far <= reach.unsqueeze(1)).any(0)
    times = torch.cat(inside).double()
    return Overlap(
        _mean((times > 0).double()),
        _mean(known.double()),
        _mean(times / neighbours),
        _mean(covered.double()),
    )


def _mean(x: Tensor) -> Measured:
    return Measured(float(x.mean()), float(x.std()) / math.sqrt(len(x)))


def expected_coverage(real: int, drawn: int, neighbours: int) -> float:
    """The coverage that so many samples of one law have in expectation.

    Example:
        >>> round(expected_coverage(10_000, 10_000, 5), 3)
        0.969
    """
    missed = 1.0
    for i in range(neighbours):
        missed *= (real - 1 - i) / (real + drawn - 1 - i)
    return 1 - missed
