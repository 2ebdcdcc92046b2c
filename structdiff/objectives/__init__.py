"""Objectives: what training makes small."""

from structdiff.objectives.bounds import ContinuousBound, StepBound
from structdiff.objectives.class_weights import Alpha, InverseSigma
from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.embedded import EndToEnd, ScoreInterpolation
from structdiff.objectives.hiding import (
    ConditionDropout,
    GivenRows,
    random_leaves,
    random_rows,
)
from structdiff.objectives.implicit import ImplicitScore
from structdiff.objectives.orders import OrderAgnostic
from structdiff.objectives.prefix import hold_prefix, prefix_rows
from structdiff.objectives.times import (
    LogUniformTimes,
    NormalClock,
    PowerTimes,
    TimeDistribution,
    UniformClock,
    UniformTimes,
)
from structdiff.objectives.warped import WarpedTimes, Warping
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
    "Alpha",
    "ConditionDropout",
    "ContinuousBound",
    "Denoising",
    "EDM",
    "EndToEnd",
    "GivenRows",
    "ImplicitScore",
    "InverseSigma",
    "LogUniformTimes",
    "MinSNR",
    "NormalClock",
    "Objective",
    "OrderAgnostic",
    "P2",
    "PowerTimes",
    "SNR",
    "ScoreInterpolation",
    "SigmoidWeight",
    "StepBound",
    "Terms",
    "TimeDistribution",
    "TruncatedSNR",
    "Uniform",
    "UniformClock",
    "UniformTimes",
    "WarpedTimes",
    "Warping",
    "Weight",
    "hold_prefix",
    "prefix_rows",
    "random_leaves",
    "random_rows",
]
