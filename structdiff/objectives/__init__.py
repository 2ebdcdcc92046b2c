"""Objectives: what training makes small."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.objectives.bounds import ContinuousBound, StepBound
from structdiff.objectives.class_weights import Alpha, InverseSigma
from structdiff.objectives.denoising import Denoising, Objective, Terms
from structdiff.objectives.hiding import (
    ConditionDropout,
    GivenRows,
    random_leaves,
    random_rows,
)
from structdiff.objectives.implicit import ImplicitScore
from structdiff.objectives.times import (
    LogUniformTimes,
    NormalClock,
    PowerTimes,
    TimeDistribution,
    UniformClock,
    UniformTimes,
)
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

if TYPE_CHECKING:
    from structdiff.objectives.adversarial import AdversarialSteps, ConditionalGenerator, Duel
    from structdiff.objectives.by_clock import LossByClock
    from structdiff.objectives.corrupted import GSURE, Ambient
    from structdiff.objectives.embedded import EndToEnd, ScoreInterpolation
    from structdiff.objectives.hybrid import Hybrid, VarianceMatching, improved_ddpm
    from structdiff.objectives.importance import HistoryTimes, ImportanceTimes
    from structdiff.objectives.learned_times import LearnedTimes
    from structdiff.objectives.orders import OrderAgnostic
    from structdiff.objectives.prefix import hold_prefix, prefix_rows
    from structdiff.objectives.truncation import SoftTruncation
    from structdiff.objectives.warped import Observer, WarpedTimes, Warping

__all__ = [
    "AdversarialSteps",
    "Alpha",
    "Ambient",
    "ConditionDropout",
    "ConditionalGenerator",
    "ContinuousBound",
    "Denoising",
    "Duel",
    "EDM",
    "EndToEnd",
    "GSURE",
    "GivenRows",
    "HistoryTimes",
    "Hybrid",
    "ImplicitScore",
    "ImportanceTimes",
    "InverseSigma",
    "LearnedTimes",
    "LogUniformTimes",
    "LossByClock",
    "MinSNR",
    "NormalClock",
    "Objective",
    "Observer",
    "OrderAgnostic",
    "P2",
    "PowerTimes",
    "SNR",
    "ScoreInterpolation",
    "SigmoidWeight",
    "SoftTruncation",
    "StepBound",
    "Terms",
    "TimeDistribution",
    "TruncatedSNR",
    "Uniform",
    "UniformClock",
    "UniformTimes",
    "VarianceMatching",
    "WarpedTimes",
    "Warping",
    "Weight",
    "hold_prefix",
    "improved_ddpm",
    "prefix_rows",
    "random_leaves",
    "random_rows",
]

__getattr__ = later(
    __name__,
    {
        "AdversarialSteps": "adversarial",
        "Ambient": "corrupted",
        "ConditionalGenerator": "adversarial",
        "Duel": "adversarial",
        "EndToEnd": "embedded",
        "GSURE": "corrupted",
        "HistoryTimes": "importance",
        "Hybrid": "hybrid",
        "ImportanceTimes": "importance",
        "LearnedTimes": "learned_times",
        "LossByClock": "by_clock",
        "Observer": "warped",
        "OrderAgnostic": "orders",
        "ScoreInterpolation": "embedded",
        "SoftTruncation": "truncation",
        "VarianceMatching": "hybrid",
        "WarpedTimes": "warped",
        "Warping": "warped",
        "hold_prefix": "prefix",
        "improved_ddpm": "hybrid",
        "prefix_rows": "prefix",
    },
)
