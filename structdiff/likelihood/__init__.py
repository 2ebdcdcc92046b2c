"""Likelihood: reports of how probable data are under a model."""

from structdiff.likelihood.bound import Bound, bound
from structdiff.likelihood.continuous import continuous_bound
from structdiff.likelihood.dequantised import (
    Dequantiser,
    IntegerBound,
    LearnedBins,
    NormalBins,
    UniformBins,
    integer_bound,
)
from structdiff.likelihood.flow import Density, flow_log_prob
from structdiff.likelihood.gap import (
    Gap,
    TerminalDivergence,
    terminal_divergence,
    variational_gap,
)
from structdiff.likelihood.implicit import implicit_bound
from structdiff.likelihood.intervals import Interval, ratio
from structdiff.likelihood.rate import RateDistortion, rate_distortion

__all__ = [
    "Bound",
    "Density",
    "Dequantiser",
    "Gap",
    "IntegerBound",
    "Interval",
    "LearnedBins",
    "NormalBins",
    "RateDistortion",
    "TerminalDivergence",
    "UniformBins",
    "bound",
    "continuous_bound",
    "flow_log_prob",
    "implicit_bound",
    "integer_bound",
    "rate_distortion",
    "ratio",
    "terminal_divergence",
    "variational_gap",
]
