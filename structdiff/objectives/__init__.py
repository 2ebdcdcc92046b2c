"""Objectives: what training makes small."""

from structdiff.objectives.bounds import ContinuousBound, StepBound
from structdiff.objectives.class_weights import Alpha, InverseSigma
from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.hiding import (
    ConditionDropout,
    GivenRows,
    random_leaves,
    random_rows,
)
from structdiff.objectives.orders import OrderAgnostic
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
    "Alpha",
    "ConditionDropout",
    "ContinuousBound",
    "Denoising",
    "GivenRows",
    "InverseSigma",
    "MinSNR",
    "NormalClock",
    "Objective",
    "OrderAgnostic",
    "SigmoidWeight",
    "StepBound",
    "Terms",
    "TimeDistribution",
    "TruncatedSNR",
    "Uniform",
    "UniformTimes",
    "Weight",
    "random_leaves",
    "random_rows",
]
