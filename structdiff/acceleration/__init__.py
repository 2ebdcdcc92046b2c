"""Acceleration: fewer steps for the same result."""

from structdiff.acceleration.programme import Paths, all_paths, best_path, reveal_costs

__all__ = ["Paths", "all_paths", "best_path", "reveal_costs"]
