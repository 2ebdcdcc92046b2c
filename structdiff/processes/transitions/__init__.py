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
from structdiff.processes.transitions.rank_one import RankOne, absorbing, marginal, uniform

__all__ = [
    "Bayes",
    "Jump",
    "Kernel",
    "Leap",
    "RankOne",
    "Reverse",
    "Still",
    "Transition",
    "absorbing",
    "marginal",
    "uniform",
]
