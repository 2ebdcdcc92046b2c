r"""Distances of laws of few numbers: of classes, of lines, of forecasts.

Between probabilities p and q of classes: total variation, (1/2) sum |p - q|, and the divergence
of Jensen and Shannon in bits, H((p + q)/2) - (H(p) + H(q))/2, both from 0 to 1. Between sets of
vectors: the squared 2-Wasserstein distance of their shadows on a line, the mean of it over all
directions. Between a forecast and what came: the continuous ranked probability score

    CRPS = E|X - y| - (1/2) E|X - X'| = int (F(z) - 1[z >= y])^2 dz.

References:
    Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015).
    https://doi.org/10.1007/s10851-014-0506-3
    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting and Raftery, 2007), section
    4.2. https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from structdiff.metrics.frechet import Measured, check_features

__all__ = ["crps", "jensen_shannon", "sliced_wasserstein", "total_variation"]


def total_variation(counts: ArrayLike, others: ArrayLike) -> float:
    """Of two laws of classes, from how often each occurred.

    Arguments:
        counts: How often, or how probable, `(classes,)`.
        others: The same of the other law.

    Raises:
        ValueError: If they are no counts of the same classes.

    Example:
        >>> total_variation([2, 2], [1, 3])
        0.25
    """
    p, q = _laws(counts, others)
    return float(np.abs(p - q).sum() / 2)


def jensen_shannon(counts: ArrayLike, others: ArrayLike) -> float:
    """Of two laws of classes, in bits, from how often each occurred; see `total_variation`.

    Raises:
        ValueError: If they are no counts of the same classes.

    Example:
        >>> jensen_shannon([1, 0], [0, 1])
        1.0
    """
    p, q = _laws(counts, others)
    return _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2


def _laws(counts: ArrayLike, others: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    both = [np.asarray(each, np.float64) for each in (counts, others)]
    for each in both:
        right = each.ndim == 1 and each.shape == both[0].shape and np.isfinite(each).all()
        if not right or (each < 0).any() or not each.sum() > 0:
            shapes = f"{both[0].shape} and {both[1].shape}"
            msg = f"counts must be (classes,) of both laws, none negative, some positive: {shapes}"
            raise ValueError(msg)
    return tuple(each / each.sum() for each in both)


def _entropy(law: NDArray[np.float64]) -> float:
    some = law[law > 0]
    return float(-(some * np.log2(some)).sum())


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 256, *, seed: int = 0) -> Measured:
    """The squared sliced 2-Wasserstein distance of two sets, and its error from the directions.

    Quantile functions of shadows are steps, compared exactly, for any numbers of samples.

    Arguments:
        x: Vectors of one set, `(samples, entries)`, at least 2.
        y: Of the other.
        directions: How many lines they are thrown on, at least 2.
        seed: Start of the drawing of directions.

    Raises:
        ValueError: If there are too few samples or directions, or an entry is not finite.

    Example:
        >>> x = torch.randn(50, 1)
        >>> round(sliced_wasserstein(x, x + 2).value, 4)
        4.0
    """
    check_features(x, y)
    if directions < 2:
        msg = f"directions must be at least 2, got {directions}"
        raise ValueError(msg)
    x, y = x.double(), y.double()
    random = torch.Generator().manual_seed(seed)
    lines = torch.randn(x.shape[1], directions, generator=random, dtype=torch.float64)
    lines = torch.nn.functional.normalize(lines, dim=0).to(x.device)
    first, second = (x @ lines).sort(0).values, (y @ lines).sort(0).values
    n, m = len(x), len(y)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n])
    ends = torch.unique(ends)
    widths = ends.diff(prepend=ends.new_zeros(1)).double().to(x.device) / (n * m)
    step = (ends - 1).to(x.device)
    far = (first[step // m] - second[step // n]).square()
    each = (far * widths.unsqueeze(1)).sum(0)
    return Measured(float(each.mean()), float(each.std()) / math.sqrt(directions))


def crps(samples: Tensor, y: Tensor) -> Tensor:
    """The score of a forecast by samples, of the shape of y; smaller is better.

    The pairs of a sample with itself are left out, so the mean over forecasts is unbiased.

    Arguments:
        samples: Draws of the forecast, `(draws, *shape)`, at least 2.
        y: What came, `shape`.

    Raises:
        ValueError: If there are fewer than 2 draws, or the shapes differ.

    Example:
        >>> crps(torch.tensor([0.0, 2.0]), torch.tensor(1.0))
        tensor(0.)
    """
    if samples.ndim != y.ndim + 1 or samples.shape[1:] != y.shape or len(samples) < 2:
        has = f"{tuple(samples.shape)} and {tuple(y.shape)}"
        msg = f"samples must be (draws, *shape) with at least 2 draws, y shape, got {has}"
        raise ValueError(msg)
    draws = len(samples)
    rank = torch.arange(draws, device=samples.device, dtype=samples.dtype)
    weight = (2 * rank - draws + 1) / (draws * (draws - 1))
    spread = (samples.sort(0).values * weight.reshape(-1, *(1,) * y.ndim)).sum(0)
    return (samples - y).abs().mean(0) - spread
