"""Likelihood: reports of how probable data are under a model."""

from structdiff.likelihood.bound import Bound, bound
from structdiff.likelihood.continuous import continuous_bound
from structdiff.likelihood.flow import Density, flow_log_prob
from structdiff.likelihood.implicit import implicit_bound
from structdiff.likelihood.intervals import Interval, ratio

__all__ = [
    "Bound",
    "Density",
    "Interval",
    "bound",
    "continuous_bound",
    "flow_log_prob",
    "implicit_bound",
    "ratio",
]
