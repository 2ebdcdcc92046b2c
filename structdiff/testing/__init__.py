"""Testing: the exact denoiser and the laws that processes and samplers obey."""

from structdiff.testing.exact import ExactDenoiser, ImpossibleState

__all__ = ["ExactDenoiser", "ImpossibleState"]
