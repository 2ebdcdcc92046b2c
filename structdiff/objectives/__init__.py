"""Objectives: what training makes small."""

from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.hiding import (
    ConditionDropout,
    GivenRows,
    random_leaves,
    random_rows,
)
from structdiff.objectives.times import NormalClock, TimeDistribution, UniformTimes
from structdiff.objectives.weights import (
    EDM,
    P2,
    SNR,
    MinSNR,
    SigmoidWeight,
    TruncatedSNR,
    Uniform,
    Weight,
)

__all__ = [
    "EDM",
    "P2",
    "SNR",
    "ConditionDropout",
    "Denoising",
    "GivenRows",
    "MinSNR",
    "NormalClock",
    "Objective",
    "SigmoidWeight",
    "Terms",
    "TimeDistribution",
    "TruncatedSNR",
    "Uniform",
    "UniformTimes",
    "Weight",
    "random_leaves",
    "random_rows",
]
