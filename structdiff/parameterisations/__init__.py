"""Parameterisations: how a network's output is decoded into x_0."""

from structdiff.parameterisations.base import Parameterisation
from structdiff.parameterisations.gaussian import Data, Noise, Preconditioned, Straight, Velocity

__all__ = ["Data", "Noise", "Parameterisation", "Preconditioned", "Straight", "Velocity"]
