"""Processes: what noise does to one kind of leaf, and how to undo it."""

import importlib
from typing import TYPE_CHECKING, Any

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
    from structdiff.processes.coupling import optimal_transport
    from structdiff.processes.jacobi import Jacobi
    from structdiff.processes.langevin import Langevin
    from structdiff.processes.premetric import PremetricFlow

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
    "PremetricFlow",
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

_LATER = {
    "Jacobi": "jacobi",
    "Langevin": "langevin",
    "PremetricFlow": "premetric",
    "optimal_transport": "coupling",
}
"""What is loaded when it is asked for, so that the core stays light to import."""


def __getattr__(name: str) -> Any:
    """A process that is loaded now."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"structdiff.processes.{_LATER[name]}"), name)
