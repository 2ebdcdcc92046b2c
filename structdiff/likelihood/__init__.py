"""Likelihood: reports of how probable data are under a model."""

from structdiff.likelihood.bound import Bound, bound

__all__ = ["Bound", "bound"]
