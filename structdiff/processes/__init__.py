"""Processes: what noise does to one kind of leaf, and how to undo it."""

from structdiff.processes.base import (
    Coefficients,
    Conditional,
    Estimate,
    Finite,
    Flowing,
    Markov,
    Process,
    Rule,
    Scored,
    Tractable,
)
from structdiff.processes.brownian import Brownian
from structdiff.processes.categorical import Categorical
from structdiff.processes.coupling import optimal_transport
from structdiff.processes.flow import GeodesicFlow
from structdiff.processes.gaussian import Gaussian
from structdiff.processes.jacobi import Jacobi
from structdiff.processes.langevin import Langevin
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
    "Conditional",
    "Estimate",
    "Finite",
    "Flowing",
    "Gaussian",
    "GeodesicFlow",
    "Grid",
    "Jacobi",
    "Langevin",
    "MaskAndReplace",
    "Markov",
    "Ordinal",
    "Process",
    "Product",
    "RankOne",
    "Rates",
    "Rule",
    "Scored",
    "Tractable",
    "Transition",
    "absorbing",
    "discretised_gaussian",
    "marginal",
    "mask_and_replace",
    "nearest_neighbour",
    "optimal_transport",
    "ordinal",
    "relaxed",
    "uniform",
    "vq_diffusion",
]
