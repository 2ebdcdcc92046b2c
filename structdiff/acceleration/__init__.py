"""Acceleration: fewer steps for the same result."""

from typing import TYPE_CHECKING

from structdiff.acceleration.programme import Paths, all_paths, best_path, reveal_costs
from structdiff.later import later

if TYPE_CHECKING:
    from structdiff.acceleration.curves import quality_curves
    from structdiff.acceleration.search import coordinate_search
    from structdiff.acceleration.tuning import Tuned, tune_pilots, tune_sampler

__all__ = [
    "Paths",
    "Tuned",
    "all_paths",
    "best_path",
    "coordinate_search",
    "quality_curves",
    "reveal_costs",
    "tune_pilots",
    "tune_sampler",
]

__getattr__ = later(
    __name__,
    {
        "Tuned": "tuning",
        "coordinate_search": "search",
        "quality_curves": "curves",
        "tune_pilots": "tuning",
        "tune_sampler": "tuning",
    },
)
