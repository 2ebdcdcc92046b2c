"""Schedules: time to noise level, and grids of times."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.schedules.base import CLEAN, Level, Schedule
from structdiff.schedules.derived import Exploding, Shifted, Standard, ZeroTerminal, size_shift
from structdiff.schedules.discrete import Discrete
from structdiff.schedules.exploding import Geometric, Karras
from structdiff.schedules.flow import Flow, Survival, Window
from structdiff.schedules.grids import Grid, KarrasGrid, PowerTime, UniformLogSNR, UniformTime
from structdiff.schedules.preserving import Cosine, Linear, Sigmoid, SimpleLinear, SubVP
from structdiff.schedules.translate import Differences, agree, differences, translate

if TYPE_CHECKING:
    from structdiff.schedules.algebra import Rescaled, Warped
    from structdiff.schedules.by_entry import Blurring, Dropped, Speeds
    from structdiff.schedules.chains import LogLinear, MaskCosine, MutualInformation, Polynomial
    from structdiff.schedules.ladder import NoiseLadder, noise_ladder
    from structdiff.schedules.learned import LearnedClock

__all__ = [
    "Blurring",
    "CLEAN",
    "Cosine",
    "Differences",
    "Discrete",
    "Dropped",
    "Exploding",
    "Flow",
    "Geometric",
    "Grid",
    "Karras",
    "KarrasGrid",
    "LearnedClock",
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
    "Speeds",
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

__getattr__ = later(
    __name__,
    {
        "Blurring": "by_entry",
        "Dropped": "by_entry",
        "LearnedClock": "learned",
        "LogLinear": "chains",
        "MaskCosine": "chains",
        "MutualInformation": "chains",
        "NoiseLadder": "ladder",
        "Polynomial": "chains",
        "Rescaled": "algebra",
        "Speeds": "by_entry",
        "Warped": "algebra",
        "noise_ladder": "ladder",
    },
)
