r"""The maximum mean discrepancy of two sets of samples, with any kernel.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)

is unbiased, whatever the numbers of samples, and may be below zero. With the cubic kernel
(x . y / D + 1)^3 of features it is the kernel inception distance (KID), which compares their first
three moments. Its error is that of a jackknife over samples. Kernels are computed in blocks of
rows, so memory grows with the number of samples, not with its square.

References:
    A Kernel Two-Sample Test (Gretton et al., 2012), lemma 6.
    https://jmlr.org/papers/v13/gretton12a.html
    Demystifying MMD GANs (Binkowski et al., 2018), section 4. https://arxiv.org/abs/1801.01401
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from structdiff.metrics.frechet import Measured, check_features

__all__ = ["Kernel", "cubic", "discrepancy", "kernel_distance"]

Kernel = Callable[[Tensor, Tensor], Tensor]
"""From `(n, ...)` and `(m, ...)` to the kernel of all pairs, `(n, m)`."""

_TOGETHER = 1 << 23  # pairs


def cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x . y / D + 1)^3 of features `(n, D)` and `(m, D)`."""
    base = torch.addmm(x.new_ones(()), x, y.mT, alpha=1 / x.shape[1])
    return base * base * base


def kernel_distance(x: Tensor, y: Tensor) -> Measured:
    """The squared discrepancy of features with the cubic kernel, and its standard error.

    Arguments:
        x: Features of drawn samples, `(samples, features)`, at least 2.
        y: Features of real samples.

    Raises:
        ValueError: If there are too few, a feature is not finite, or their numbers differ.
    """
    check_features(x, y)
    return discrepancy(x.double(), y.double(), cubic)


def discrepancy(x: Tensor, y: Tensor, kernel: Kernel) -> Measured:
    """MMD^2 of two sets of samples, and its standard error (NaN with two of either).

    Arguments:
        x: Samples of one law, `(n, ...)`, at least 2.
        y: Samples of the other.
        kernel: From two sets to the kernel of all pairs.

    Raises:
        ValueError: If there are fewer than two of either.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> discrepancy(x, x, lambda a, b: a @ b.T).value
        -2.0
    """
    if min(len(x), len(y)) < 2:
        msg = f"two samples of either are needed, got {len(x)} and {len(y)}: draw more"
        raise ValueError(msg)
    inside, own = _rows(x, x, kernel)
    among, theirs = _rows(y, y, kernel)
    across, crossed = _rows(x, y, kernel)
    return _jackknifed(inside - own, among - theirs, across, crossed)


def _rows(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Sums of the kernel over y; and over x, or, of a set with itself, its diagonal."""
    step = max(1, _TOGETHER // len(y))
    sums, other = list[Tensor](), x.new_zeros(len(y))
    for start in range(0, len(x), step):
        block = kernel(x[start : start + step], y)
        sums.append(block.sum(1))
        if x is y:
            end = start + len(block)
            other[start:end] = block[:, start:end].diagonal()
        else:
            other += block.sum(0)
    return torch.cat(sums), other


def _jackknifed(inside: Tensor, among: Tensor, across: Tensor, crossed: Tensor) -> Measured:
    """The estimate, and its error from leaving out one sample of either after the other.

    Arguments:
        inside: Sum of the kernel of each x with the other ones, `(n,)`.
        among: Of each y with the other ones, `(m,)`.
        across: Of each x with all y.
        crossed: Of each y with all x.
    """
    n, m = len(inside), len(among)
    xx, yy, xy = inside.sum(), among.sum(), across.sum()
    whole = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    spread = 0.0
    sides = (
        (xx, inside, across, yy / (m * (m - 1)), n, m),
        (yy, among, crossed, xx / (n * (n - 1)), m, n),
    )
    for total, rows, far, other, k, opposite in sides:
        if k < 3:
            return Measured(float(whole), math.nan)
        own = (total - 2 * rows) / ((k - 1) * (k - 2))
        left = own + other - 2 * (xy - far) / ((k - 1) * opposite)
        spread += float((left - left.mean()).square().sum()) * (k - 1) / k
    return Measured(float(whole), math.sqrt(spread))
