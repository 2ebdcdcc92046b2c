"""Parameterisations: how a network's output is decoded into x_0."""

from typing import TYPE_CHECKING

from structdiff.later import later
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

if TYPE_CHECKING:
    from structdiff.parameterisations.heads import Dual, InterpolatedVariance, ResidualVariance

__all__ = [
    "ClassParameterisation",
    "CleanPoint",
    "Code",
    "Data",
    "Dual",
    "Embedding",
    "InterpolatedVariance",
    "Joint",
    "Logistic",
    "Logits",
    "Noise",
    "Parameterisation",
    "Preconditioned",
    "Ratios",
    "ResidualVariance",
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

__getattr__ = later(
    __name__,
    {
        "Dual": "heads",
        "InterpolatedVariance": "heads",
        "ResidualVariance": "heads",
    },
)
