"""Likelihood: reports of how probable data are under a model."""

from structdiff.likelihood.bound import Bound, bound
from structdiff.likelihood.continuous import continuous_bound
from structdiff.likelihood.intervals import Interval, ratio

__all__ = ["Bound", "Interval", "bound", "continuous_bound", "ratio"]
