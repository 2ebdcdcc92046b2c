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
    from structdiff.processes.blackout import Blackout
    from structdiff.processes.coupling import optimal_transport
    from structdiff.processes.covariance import Composed, Factor, FromCondition, Scaling, Source
    from structdiff.processes.covariance_bases import Basis, CosineBasis, HaarBasis, Rotated
    from structdiff.processes.covariance_dense import Cholesky
    from structdiff.processes.covariance_rows import Autoregressive, Frames, Shared
    from structdiff.processes.degradation import Degradation, blurring, covering, fading
    from structdiff.processes.deletion import Deletion, Insertion
    from structdiff.processes.gamma import GammaNoise
    from structdiff.processes.jacobi import Jacobi
    from structdiff.processes.langevin import Langevin
    from structdiff.processes.mixture import MixtureNoise
    from structdiff.processes.phase import PhaseSpace, with_velocities
    from structdiff.processes.phase_motion import PhaseMotion, critically_damped, heavy_ball
    from structdiff.processes.premetric import PremetricFlow

__all__ = [
    "Affine",
    "Autoregressive",
    "Basis",
    "Blackout",
    "Brownian",
    "Categorical",
    "Cholesky",
    "Coefficients",
    "Composed",
    "Conditional",
    "CosineBasis",
    "Degradation",
    "Deletion",
    "Estimate",
    "Factor",
    "Finite",
    "Flowing",
    "Frames",
    "FromCondition",
    "GammaNoise",
    "Gaussian",
    "GeodesicFlow",
    "Grid",
    "HaarBasis",
    "Insertion",
    "Jacobi",
    "Langevin",
    "Markov",
    "MaskAndReplace",
    "MixtureNoise",
    "Ordinal",
    "PhaseMotion",
    "PhaseSpace",
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
    "blurring",
    "covering",
    "critically_damped",
    "discretised_gaussian",
    "fading",
    "heavy_ball",
    "marginal",
    "mask_and_replace",
    "nearest_neighbour",
    "optimal_transport",
    "ordinal",
    "relaxed",
    "uniform",
    "vq_diffusion",
    "with_velocities",
]

__getattr__ = later(
    __name__,
    {
        "Affine": "affine",
        "Autoregressive": "covariance_rows",
        "Basis": "covariance_bases",
        "Blackout": "blackout",
        "Cholesky": "covariance_dense",
        "Composed": "covariance",
        "CosineBasis": "covariance_bases",
        "Degradation": "degradation",
        "Deletion": "deletion",
        "Factor": "covariance",
        "Frames": "covariance_rows",
        "FromCondition": "covariance",
        "GammaNoise": "gamma",
        "HaarBasis": "covariance_bases",
        "Insertion": "deletion",
        "Jacobi": "jacobi",
        "Langevin": "langevin",
        "MixtureNoise": "mixture",
        "PhaseMotion": "phase_motion",
        "PhaseSpace": "phase",
        "PremetricFlow": "premetric",
        "Rotated": "covariance_bases",
        "Scaling": "covariance",
        "Shared": "covariance_rows",
        "Source": "covariance",
        "blurring": "degradation",
        "covering": "degradation",
        "critically_damped": "phase_motion",
        "fading": "degradation",
        "heavy_ball": "phase_motion",
        "optimal_transport": "coupling",
        "with_velocities": "phase",
    },
)
