r"""How near drawn points are to real ones.

The maximum mean discrepancy with a kernel k, for samples x of one law and y of another,

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j),

is unbiased and may be below zero. k is a sum of exp(-d(x, y) / s) in the geodesic distance d at
some scales s; this kernel is positive definite on spheres, on hyperbolic spaces and in flat
space, and for other spaces, where it may not be, a measure like any other. Its error is that of a
jackknife over samples.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), lemma 6.
    https://jmlr.org/papers/v13/gretton12a.html
    Geodesic Exponential Kernels: When Curvature and Linearity Conflict (Feragen, Lauze and
    Hauberg, 2015). https://arxiv.org/abs/1411.0296
    Circular Statistics in Biology (Batschelet, 1981), section 6.6: Kuiper's statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from structdiff.metrics.frechet import Measured
from structdiff.metrics.kernel import discrepancy as kernel_discrepancy
from structdiff.spaces import Manifold

__all__ = ["discrepancy", "distances", "kuiper", "nearest", "off_space", "smirnov"]

SCALES = (0.1, 0.5, 2.0)
"""Of the kernel, times the median distance of real points."""
_TOGETHER = 1 << 19  # pairs of points


def distances(space: Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Geodesic distances of all pairs, `(n, m)`."""
    step = max(1, _TOGETHER // max(1, len(y)))
    blocks = []
    for part in torch.split(x, step):
        left = part.repeat_interleave(len(y), 0)
        right = y.repeat(len(part), *(1,) * (y.ndim - 1))
        blocks.append(space.distance(left, right).reshape(len(part), len(y)))
    return torch.cat(blocks)


def nearest(space: Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Distance from each x to the nearest y, `(n,)`."""
    step = max(1, _TOGETHER // max(1, len(y)))
    return torch.cat([distances(space, part, y).amin(1) for part in torch.split(x, step)])


def discrepancy(
    space: Manifold, x: Tensor, y: Tensor, scales: Sequence[float] = SCALES
) -> Measured:
    """MMD^2 between drawn and real points, and its standard error.

    Arguments:
        space: The space.
        x: Drawn points, at least 2.
        y: Real points, at least 2.
        scales: Of the kernel, times the median distance of real points.

    Raises:
        ValueError: If there are fewer than two of either.
    """
    unit = 1.0
    if len(y) > 1:
        off = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
        unit = float(distances(space, y, y)[off].median().clamp(min=1e-12))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        d = distances(space, a, b)
        return torch.stack([torch.exp(-d / (s * unit)) for s in scales]).mean(0)

    return kernel_discrepancy(x, y, kernel)


def off_space(space: Manifold, x: Tensor) -> float:
    """How far points are from the space: the largest change of an entry by projection."""
    return float((space.project(x) - x).abs().amax()) if len(x) else 0.0


def smirnov(x: ArrayLike, y: ArrayLike) -> float:
    """Largest difference of the distribution functions of two samples of numbers.

    Example:
        >>> smirnov([0.0, 1.0], [1.0, 2.0])
        0.5
    """
    gaps = _gaps(np.asarray(x, float), np.asarray(y, float))
    return float(np.abs(gaps).max())


def kuiper(x: ArrayLike, y: ArrayLike) -> float:
    """Kuiper's statistic of two samples of angles: that of `smirnov`, without a first angle.

    The largest difference above plus the largest below; it does not depend on where the circle
    is cut.

    Example:
        >>> kuiper([0.0, 1.0], [2.0, 3.0])
        1.0
    """
    turn = 2 * math.pi
    gaps = _gaps(np.asarray(x, float) % turn, np.asarray(y, float) % turn)
    return float(max(gaps.max(), 0.0) + max(-gaps.min(), 0.0))


def _gaps(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The difference of the distribution functions at every number.

    Raises:
        ValueError: If a sample is empty.
    """
    if not len(x) or not len(y):
        msg = f"both samples must have numbers, got {len(x)} and {len(y)}"
        raise ValueError(msg)
    every = np.concatenate([x, y])
    first = np.searchsorted(np.sort(x), every, side="right") / len(x)
    second = np.searchsorted(np.sort(y), every, side="right") / len(y)
    found: NDArray[np.float64] = first - second
    return found
