"""Operators: what is measured of a row, for inverse problems."""

from structdiff.operators.base import (
    Composition,
    Factored,
    Invertible,
    LinearOperator,
    Measurement,
)
from structdiff.operators.check import check_operator
from structdiff.operators.entries import Downsample, Mask
from structdiff.operators.matrix import Matrix
from structdiff.operators.nonlinear import PhaseMagnitude, Quadratic, Quantised
from structdiff.operators.spectral import Blur, FourierMask, FrequencyMask, hartley, low_pass

__all__ = [
    "Blur",
    "Composition",
    "Downsample",
    "Factored",
    "FourierMask",
    "FrequencyMask",
    "Invertible",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Measurement",
    "PhaseMagnitude",
    "Quadratic",
    "Quantised",
    "check_operator",
    "hartley",
    "low_pass",
]
