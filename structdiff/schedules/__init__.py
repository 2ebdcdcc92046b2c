"""Schedules: time to noise level, and grids of times."""

from structdiff.schedules.base import CLEAN, Level, Schedule
from structdiff.schedules.discrete import Discrete
from structdiff.schedules.exploding import Geometric, Karras
from structdiff.schedules.flow import Flow, Survival, Window
from structdiff.schedules.grids import Grid, KarrasGrid, UniformLogSNR, UniformTime
from structdiff.schedules.preserving import Cosine, Linear, SubVP

__all__ = [
    "CLEAN",
    "Cosine",
    "Discrete",
    "Flow",
    "Geometric",
    "Grid",
    "Karras",
    "KarrasGrid",
    "Level",
    "Linear",
    "Schedule",
    "SubVP",
    "Survival",
    "UniformLogSNR",
    "UniformTime",
    "Window",
]
