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
from structdiff.parameterisations.joint import Joint
from structdiff.parameterisations.logistic import Logistic, TruncatedLogistic
from structdiff.parameterisations.ratios import Ratios
from structdiff.parameterisations.tangent import (
    CleanPoint,
    ScaledScore,
    TangentParameterisation,
    TangentVelocity,
)

__all__ = [
    "ClassParameterisation",
    "CleanPoint",
    "Code",
    "Data",
    "Embedding",
    "Joint",
    "Logistic",
    "Logits",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "Ratios",
    "ScaledScore",
    "Score",
    "Straight",
    "TangentParameterisation",
    "TangentVelocity",
    "TruncatedLogistic",
    "Velocity",
    "embed",
    "unembed",
]
