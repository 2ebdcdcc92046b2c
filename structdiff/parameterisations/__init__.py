"""Parameterisations: how a network's output is decoded into x_0."""

from structdiff.parameterisations.base import Parameterisation
from structdiff.parameterisations.classes import ClassParameterisation, Logits
from structdiff.parameterisations.embedded import Code, Embedding, embed, unembed
from structdiff.parameterisations.gaussian import (
    Data,
    Noise,
    Preconditioned,
    Score,
    Straight,
    Velocity,
)

__all__ = [
    "ClassParameterisation",
    "Code",
    "Data",
    "Embedding",
    "Logits",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "Score",
    "Straight",
    "Velocity",
    "embed",
    "unembed",
]
