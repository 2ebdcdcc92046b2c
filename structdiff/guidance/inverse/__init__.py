"""Inverse problems: a record from a measurement of it, with a model that knows of none."""

from structdiff.guidance.inverse.consistent import Consistent
from structdiff.guidance.inverse.ddrm import DDRM
from structdiff.guidance.inverse.dps import DPS
from structdiff.guidance.inverse.moments import MomentGuided
from structdiff.guidance.inverse.observation import Observation
from structdiff.guidance.inverse.pigdm import PiGDM
from structdiff.guidance.inverse.projection import Projection

__all__ = ["DDRM", "DPS", "Consistent", "MomentGuided", "Observation", "PiGDM", "Projection"]
