"""Schedules: time to noise level, and grids of times."""

from structdiff.schedules.algebra import Rescaled, Warped
from structdiff.schedules.base import CLEAN, Level, Schedule
from structdiff.schedules.chains import LogLinear, MaskCosine, MutualInformation, Polynomial
from structdiff.schedules.derived import Exploding, Shifted, Standard, ZeroTerminal, size_shift
from structdiff.schedules.discrete import Discrete
from structdiff.schedules.exploding import Geometric, Karras
from structdiff.schedules.flow import Flow, Survival, Window
from structdiff.schedules.grids import Grid, KarrasGrid, PowerTime, UniformLogSNR, UniformTime
from structdiff.schedules.ladder import NoiseLadder, noise_ladder
from structdiff.schedules.preserving import Cosine, Linear, Sigmoid, SimpleLinear, SubVP
from structdiff.schedules.translate import Differences, agree, differences, translate

__all__ = [
    "CLEAN",
    "Cosine",
    "Differences",
    "Discrete",
    "Exploding",
    "Flow",
    "Geometric",
    "Grid",
    "Karras",
    "KarrasGrid",
    "Level",
    "Linear",
    "LogLinear",
    "MaskCosine",
    "MutualInformation",
    "NoiseLadder",
    "Polynomial",
    "PowerTime",
    "Rescaled",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "SimpleLinear",
    "Standard",
    "SubVP",
    "Survival",
    "UniformLogSNR",
    "UniformTime",
    "Warped",
    "Window",
    "ZeroTerminal",
    "agree",
    "differences",
    "noise_ladder",
    "size_shift",
    "translate",
]
