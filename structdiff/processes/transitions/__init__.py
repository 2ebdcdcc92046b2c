"""Transitions: how symbols turn into symbols, as values that a chain holds."""

from structdiff.processes.transitions.base import (
    Bayes,
    Jump,
    Kernel,
    Leap,
    Reverse,
    Still,
    Transition,
)
from structdiff.processes.transitions.dense import Rates, relaxed
from structdiff.processes.transitions.generated import Generated
from structdiff.processes.transitions.grid import Grid
from structdiff.processes.transitions.matrices import discretised_gaussian, vq_diffusion
from structdiff.processes.transitions.neighbours import nearest_neighbour
from structdiff.processes.transitions.ordinal import Ordinal, ordinal
from structdiff.processes.transitions.rank_one import RankOne, absorbing, marginal, uniform
from structdiff.processes.transitions.replace import MaskAndReplace, mask_and_replace

__all__ = [
    "Bayes",
    "Generated",
    "Grid",
    "Jump",
    "Kernel",
    "Leap",
    "MaskAndReplace",
    "Ordinal",
    "RankOne",
    "Rates",
    "Reverse",
    "Still",
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
