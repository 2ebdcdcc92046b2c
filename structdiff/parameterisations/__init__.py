"""Parameterisations: how a network's output is decoded into x_0."""

from structdiff.parameterisations.base import Parameterisation
from structdiff.parameterisations.gaussian import (
    Data,
    Noise,
    Preconditioned,
    Score,
    Straight,
    Velocity,
)

__all__ = ["Data", "Noise", "Parameterisation", "Preconditioned", "Score", "Straight", "Velocity"]
