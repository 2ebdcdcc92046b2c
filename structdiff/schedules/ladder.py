r"""A variance-exploding schedule from the data: how much noise, and in how many steps.

The largest noise level is the largest distance between two points of the data, so that at the
last time every point can become every other one. The ratio gamma of neighbouring levels is the
largest for which their noise overlaps: in D dimensions the norm of N(0, sigma^2 I) is about
N(sqrt(D) sigma, sigma^2 / 2), and the next larger level has the mass

    Phi(sqrt(2 D) (gamma - 1) + 3 gamma) - Phi(sqrt(2 D) (gamma - 1) - 3 gamma) = overlap

within three of its deviations of that. In few dimensions every two levels share more than half;
there the ratio is `LARGEST`.

References:
    Improved Techniques for Training Score-Based Generative Models (Song and Ermon, 2020),
    techniques 1 and 2. https://arxiv.org/abs/2006.09011
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structdiff.schedules.exploding import Geometric

__all__ = ["NoiseLadder", "noise_ladder"]

LARGEST = 2.0
"""Largest ratio of neighbouring levels."""

_BLOCK = 1024  # rows of a table of distances


class NoiseLadder(NamedTuple):
    """A schedule and the number of its levels, both ends counted."""

    schedule: Geometric
    levels: int


def largest_distance(x: Tensor) -> float:
    """The largest Euclidean distance of two rows."""
    rows = x.reshape(len(x), -1).double()
    return max(float(torch.cdist(part, rows).max()) for part in torch.split(rows, _BLOCK))


def overlap_ratio(dimensions: int, overlap: float) -> float:
    """gamma, by bisection, at most `LARGEST`."""

    def mass(gamma: float) -> float:
        centre, width = math.sqrt(2 * dimensions) * (gamma - 1), 3 * gamma
        ends = ((centre + width) / math.sqrt(2), (centre - width) / math.sqrt(2))
        return 0.5 * (math.erf(ends[0]) - math.erf(ends[1]))

    low, high = 1.0, LARGEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mass(middle) > overlap else (low, middle)
    return high


def noise_ladder(x: Tensor, sigma_min: float = 0.01, *, overlap: float = 0.5) -> NoiseLadder:
    """The schedule and the number of levels that suit a sample of the data.

    Arguments:
        x: A sample of the data, `(samples, *event)`; all pairs of them are compared.
        sigma_min: Smallest noise level, which cannot be seen; positive.
        overlap: Mass that neighbouring levels share, in (0, 0.99).

    Raises:
        ValueError: If a number is out of range, or no two points are further apart than
            `sigma_min`.

    Example:
        >>> ladder = noise_ladder(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        >>> round(ladder.schedule.sigma(torch.tensor(1.0)).item(), 6), ladder.levels
        (5.0, 10)
    """
    if not (0 < overlap < 0.99 and sigma_min > 0):
        msg = f"overlap must be in (0, 0.99), sigma_min positive, got {overlap} and {sigma_min}"
        raise ValueError(msg)
    if len(x) < 2 or not bool(torch.isfinite(x).all()):
        msg = f"x must be at least two finite points, got shape {tuple(x.shape)}"
        raise ValueError(msg)
    sigma_max = largest_distance(x)
    if sigma_max <= sigma_min:
        far = f"the points of x are at most {sigma_max:.3g} apart"
        msg = f"{far}, no further than sigma_min = {sigma_min}: choose a smaller one"
        raise ValueError(msg)
    gamma = overlap_ratio(x[0].numel(), overlap)
    steps = math.ceil(math.log(sigma_max / sigma_min) / math.log(gamma) - 1e-6)
    return NoiseLadder(Geometric(sigma_min, sigma_max), steps + 1)
