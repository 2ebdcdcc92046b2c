"""Sums of estimates that add up as vectors do: of means, guesses and tangent vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from structdiff.processes.base import Estimate

__all__ = ["past_sum", "tilted_sum"]


def past_sum(history: Sequence[tuple[Tensor, Estimate]], weights: Sequence[Tensor]) -> Estimate:
    """Weighted sum of past estimates, latest first, with what else the latest one says."""
    latest = history[0][1]
    if len(weights) == 1:
        return latest
    total = weights[0] * latest.value
    for weight, (_, past) in zip(weights[1:], history[1:], strict=False):
        total.addcmul_(weight, past.value)
    return replace(latest, value=total)


def tilted_sum(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """Weighted sum of estimates at one state, with what else the last one says."""
    pairs = zip(weights, estimates, strict=True)
    value = torch.stack([w * one.value for w, one in pairs]).sum(0)
    return replace(estimates[-1], value=value)
