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
from structdiff.processes.transitions import (
    Grid,
    MaskAndReplace,
    Ordinal,
    RankOne,
    Rates,
    Transition,
    absorbing,
    discretised_gaussian,
    marginal,
    mask_and_replace,
    nearest_neighbour,
    ordinal,
    relaxed,
    uniform,
    vq_diffusion,
)

__all__ = [
    "Brownian",
    "Categorical",
    "Coefficients",
    "Estimate",
    "Finite",
    "Gaussian",
    "Grid",
    "MaskAndReplace",
    "Markov",
    "Ordinal",
    "Process",
    "Product",
    "RankOne",
    "Rates",
    "Rule",
    "Tractable",
    "Transition",
    "absorbing",
    "discretised_gaussian",
    "marginal",
    "mask_and_replace",
    "nearest_neighbour",
    "ordinal",
    "relaxed",
    "uniform",
    "vq_diffusion",
]
