"""Processes: what noise does to one kind of leaf, and how to undo it."""

from typing import TYPE_CHECKING

from structdiff.later import later
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
from structdiff.processes.flow import GeodesicFlow
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

if TYPE_CHECKING:
    from structdiff.processes.affine import Affine
    from structdiff.processes.coupling import optimal_transport
    from structdiff.processes.covariance import Composed, Conditioned, Factor, Scaling, Source
    from structdiff.processes.covariance_bases import Basis, CosineBasis, HaarBasis, Rotated
    from structdiff.processes.covariance_dense import Cholesky
    from structdiff.processes.covariance_rows import Autoregressive, Frames, Shared
    from structdiff.processes.jacobi import Jacobi
    from structdiff.processes.langevin import Langevin
    from structdiff.processes.premetric import PremetricFlow

__all__ = [
    "Affine",
    "Autoregressive",
    "Basis",
    "Brownian",
    "Categorical",
    "Cholesky",
    "Coefficients",
    "Composed",
    "Conditional",
    "Conditioned",
    "CosineBasis",
    "Estimate",
    "Factor",
    "Finite",
    "Flowing",
    "Frames",
    "Gaussian",
    "GeodesicFlow",
    "Grid",
    "HaarBasis",
    "Jacobi",
    "Langevin",
    "Markov",
    "MaskAndReplace",
    "Ordinal",
    "PremetricFlow",
    "Process",
    "Product",
    "RankOne",
    "Rates",
    "Rotated",
    "Rule",
    "Scaling",
    "Scored",
    "Shared",
    "Source",
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

__getattr__ = later(
    __name__,
    {
        "Affine": "affine",
        "Autoregressive": "covariance_rows",
        "Basis": "covariance_bases",
        "Cholesky": "covariance_dense",
        "Composed": "covariance",
        "Conditioned": "covariance",
        "CosineBasis": "covariance_bases",
        "Factor": "covariance",
        "Frames": "covariance_rows",
        "HaarBasis": "covariance_bases",
        "Jacobi": "jacobi",
        "Langevin": "langevin",
        "PremetricFlow": "premetric",
        "Rotated": "covariance_bases",
        "Scaling": "covariance",
        "Shared": "covariance_rows",
        "Source": "covariance",
        "optimal_transport": "coupling",
    },
)
