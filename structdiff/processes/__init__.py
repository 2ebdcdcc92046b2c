"""Processes: what noise does to one kind of leaf, and how to undo it."""

from structdiff.processes.base import (
    Coefficients,
    Estimate,
    Finite,
    Markov,
    Process,
    Rule,
    Tractable,
)
from structdiff.processes.brownian import Brownian
from structdiff.processes.categorical import Categorical
from structdiff.processes.gaussian import Gaussian
from structdiff.processes.product import Product
from structdiff.processes.transitions import RankOne, Transition, absorbing, marginal, uniform

__all__ = [
    "Brownian",
    "Categorical",
    "Coefficients",
    "Estimate",
    "Finite",
    "Gaussian",
    "Markov",
    "Process",
    "Product",
    "RankOne",
    "Rule",
    "Tractable",
    "Transition",
    "absorbing",
    "marginal",
    "uniform",
]
