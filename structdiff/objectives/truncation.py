r"""Soft truncation: the earliest training time is drawn anew for each batch.

A loss near clean data is large and hides the other times; without it fine detail is not learned.
With the earliest time tau of a batch drawn from a law, the expected loss is

    E_tau E_{t ~ [tau, 1]} L(t) = integral L(t) p(t) dt,    p(t) = E_tau [t > tau] / (1 - tau),

a reweighting that a bound for a random tau stands behind, while most batches do not see the large
losses. For tau log-uniform in [a, 1], p(t) = log(t (1 - a) / ((1 - t) a)) / log(1 / a).

References:
    Soft Truncation (Kim, Shin, Song, Kang and Moon, 2022), section 4.
    https://arxiv.org/abs/2106.05527
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from structdiff.batch import Batch
from structdiff.denoiser import Denoiser
from structdiff.objectives.denoising import Objective, Terms
from structdiff.objectives.times import TimeDistribution
from structdiff.random import Randomness

__all__ = ["SoftTruncation"]


class SoftTruncation(Objective):
    """An objective whose earliest time is drawn for each batch.

    Arguments:
        objective: From an earliest time, an objective.
        earliest: Law of the earliest time, below 1 almost surely.

    Example:
        >>> from structdiff.objectives import Denoising, LogUniformTimes, UniformTimes
        >>> soft = SoftTruncation(
        ...     lambda tau: Denoising(times=UniformTimes(tau)), LogUniformTimes(1e-5, 1.0)
        ... )
    """

    def __init__(
        self, objective: Callable[[float], Objective], earliest: TimeDistribution
    ) -> None:
        self.objective, self.earliest = objective, earliest

    def __call__(self, denoiser: Denoiser, batch: Batch, random: Randomness) -> Terms:
        """The terms of the objective for this batch's earliest time."""
        place = random.uniform((1,), torch.float64, "cpu")
        tau = float(self.earliest.quantile(place))
        return self.objective(tau)(denoiser, batch, random)
