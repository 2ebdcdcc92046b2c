"""Testing: exact denoisers and the laws that processes and samplers obey."""

from structdiff.testing.check import check_process, check_sampler, flow_map, sort_records, walk
from structdiff.testing.exact import ExactDenoiser, ImpossibleState
from structdiff.testing.noise import Addressed, Impulses, Silent
from structdiff.testing.normal import NormalDenoiser
from structdiff.testing.symmetry import check_equivariance

__all__ = [
    "Addressed",
    "ExactDenoiser",
    "ImpossibleState",
    "Impulses",
    "NormalDenoiser",
    "Silent",
    "check_equivariance",
    "check_process",
    "check_sampler",
    "flow_map",
    "sort_records",
    "walk",
]
