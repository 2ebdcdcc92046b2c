r"""The Frechet distance of two sets of features, each taken for a normal law.

    d^2 = |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)),

with means m, m' and covariances S, S'. The trace of the root is the sum of the singular values of
S^(1/2) S'^(1/2), which keeps its digits where the covariances are nearly singular.

**It is biased.** Finite samples of one and the same law are apart: of n and n' samples of a normal
law in D dimensions, in expectation

    d^2 ~ (1 / n + 1 / n') (tr S + q),     q = (D + 1) tr S / 4 where S is a multiple of 1,

and the bias of other laws goes as 1/n as well, with a factor of their own. So a distance is told
with its numbers of samples, distances are compared at equal numbers only, and beside each stands
that of as many real samples.

References:
    The Frechet Distance between Multivariate Normal Distributions (Dowson and Landau, 1982).
    https://doi.org/10.1016/0047-259X(82)90077-X
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    al., 2017). https://arxiv.org/abs/1706.08500
    Effectively Unbiased FID and Inception Score and Where to Find Them (Chong and Forsyth, 2020):
    the bias. https://arxiv.org/abs/1911.07023
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Measured", "bootstrapped", "frechet", "frechet_of_moments"]


class Measured(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float


def frechet_of_moments(mean: Tensor, covariance: Tensor, other: Tensor, spread: Tensor) -> Tensor:
    """The squared distance of two normal laws, `()`, float64.

    Arguments:
        mean: Of the first law, `(features,)`.
        covariance: Of the first law, `(features, features)`.
        other: Mean of the second law.
        spread: Covariance of the second law.

    Example:
        >>> one = torch.eye(2)
        >>> float(frechet_of_moments(torch.zeros(2), one, torch.ones(2), 4 * one))
        4.0
    """
    first, second = covariance.double(), spread.double()
    shared = torch.linalg.svdvals(_root(first) @ _root(second)).sum()
    apart = (mean.double() - other.double()).square().sum()
    found: Tensor = apart + first.trace() + second.trace() - 2 * shared
    return found.clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return root


def frechet(x: Tensor, y: Tensor, *, resamples: int = 20, seed: int = 0) -> Measured:
    """The squared Frechet distance of two sets of features, and its standard error.

    Arguments:
        x: Features of drawn samples, `(samples, features)`, at least 2.
        y: Features of real samples.
        resamples: Of the bootstrap that gives the error.
        seed: Start of the resampling.

    Raises:
        ValueError: If there are too few, a feature is not finite, or their numbers differ.
    """
    check_features(x, y)
    return bootstrapped(_frechet, x.double(), y.double(), resamples=resamples, seed=seed)


def _frechet(x: Tensor, y: Tensor) -> Tensor:
    return frechet_of_moments(x.mean(0), _covariance(x), y.mean(0), _covariance(y))


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.mT @ centred / (len(x) - 1)


def check_features(x: Tensor, y: Tensor) -> None:
    """Refuses sets of features that cannot be compared.

    Raises:
        ValueError: If there are too few, a feature is not finite, or their numbers differ.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        has = f"{tuple(x.shape)} and {tuple(y.shape)}"
        msg = f"features must be (samples, features), at least 2 samples of either, got {has}"
        raise ValueError(msg)
    if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        msg = "features must be finite, got NaN or infinity: look at the samples, or the extractor"
        raise ValueError(msg)


def bootstrapped(
    statistic: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    resamples: int = 20,
    seed: int = 0,
) -> Measured:
    """A statistic of two sets of samples, and its spread when both are drawn anew from themselves.

    The spread says how the number would vary with other samples; it does not know of a bias.

    Arguments:
        statistic: From two sets to a number `()`.
        x: One set, samples first.
        y: The other one.
        resamples: How often they are drawn anew, at least 2.
        seed: Start of the resampling.

    Raises:
        ValueError: If there are fewer than 2 resamples.
    """
    if resamples < 2:
        msg = f"resamples must be at least 2, got {resamples}"
        raise ValueError(msg)
    random = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(resamples):
        some, others = (
            torch.randint(len(part), (len(part),), generator=random).to(part.device)
            for part in (x, y)
        )
        values.append(statistic(x[some], y[others]))
    return Measured(float(statistic(x, y)), float(torch.stack(values).std()))
