"""Acceleration: fewer steps for the same result."""

from typing import TYPE_CHECKING

from structdiff.acceleration.programme import Paths, all_paths, best_path, reveal_costs
from structdiff.later import later

if TYPE_CHECKING:
    from structdiff.acceleration.tuning import Tuned, tune_sampler

__all__ = ["Paths", "Tuned", "all_paths", "best_path", "reveal_costs", "tune_sampler"]

__getattr__ = later(__name__, {"Tuned": "tuning", "tune_sampler": "tuning"})
