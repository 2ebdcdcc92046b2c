"""Objectives: what training makes small."""

from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.hiding import ConditionDropout, GivenRows, random_rows
from structdiff.objectives.times import NormalClock, TimeDistribution, UniformTimes
from structdiff.objectives.weights import EDM, SNR, MinSNR, Uniform, Weight

__all__ = [
    "EDM",
    "SNR",
    "ConditionDropout",
    "Denoising",
    "GivenRows",
    "MinSNR",
    "NormalClock",
    "Objective",
    "Terms",
    "TimeDistribution",
    "Uniform",
    "UniformTimes",
    "Weight",
    "random_rows",
]
