"""Likelihood: reports of how probable data are under a model."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.likelihood.bound import Bound, bound
from structdiff.likelihood.continuous import continuous_bound
from structdiff.likelihood.flow import Density, flow_log_prob

if TYPE_CHECKING:
    from structdiff.likelihood.dequantised import (
        Dequantiser,
        IntegerBound,
        LearnedBins,
        NormalBins,
        UniformBins,
        integer_bound,
    )
    from structdiff.likelihood.gap import (
        Gap,
        TerminalDivergence,
        terminal_divergence,
        variational_gap,
    )
    from structdiff.likelihood.implicit import implicit_bound
    from structdiff.likelihood.intervals import Interval, ratio
    from structdiff.likelihood.ranking import auroc
    from structdiff.likelihood.rate import RateDistortion, rate_distortion

__all__ = [
    "Bound",
    "Density",
    "Dequantiser",
    "Gap",
    "IntegerBound",
    "Interval",
    "LearnedBins",
    "NormalBins",
    "RateDistortion",
    "TerminalDivergence",
    "UniformBins",
    "auroc",
    "bound",
    "continuous_bound",
    "flow_log_prob",
    "implicit_bound",
    "integer_bound",
    "rate_distortion",
    "ratio",
    "terminal_divergence",
    "variational_gap",
]

__getattr__ = later(
    __name__,
    {
        "Dequantiser": "dequantised",
        "Gap": "gap",
        "IntegerBound": "dequantised",
        "Interval": "intervals",
        "LearnedBins": "dequantised",
        "NormalBins": "dequantised",
        "RateDistortion": "rate",
        "TerminalDivergence": "gap",
        "UniformBins": "dequantised",
        "auroc": "ranking",
        "implicit_bound": "implicit",
        "integer_bound": "dequantised",
        "rate_distortion": "rate",
        "ratio": "intervals",
        "terminal_divergence": "gap",
        "variational_gap": "gap",
    },
)
